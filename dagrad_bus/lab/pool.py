"""Runs of experiments on several cores: each in a process of its own with one thread, kept as soon as it is over."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import wait
from typing import Any, Protocol, Self

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.experiment import Experiment, run_experiment
from dagrad_bus.lab.results import Results

Found = dict[str, Any]
"""A result, as JSON has it."""
Keep = Callable[[Experiment, Found], None]
THREADS = "OMP_NUM_THREADS"


class Runner(Protocol):
    """Makes runs."""

    def run(self, experiments: Sequence[Experiment], keep: Keep) -> None:
        """Make all; ``keep`` is told of each as it ends, in any order."""
        ...


def train(experiment: Experiment) -> Found:
    """Make one run in this process."""
    return asdict(run_experiment(experiment))


def _prepare() -> None:
    """Leave Ctrl-C to the parent and the other cores to the other runs, and end when the parent has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True, name="parent-watch").start()
    import torch

    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A pool's process holds both ends of its queue and would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def one_thread() -> Generator[None]:
    """Have processes that are started meanwhile compute with one thread."""
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before


class Pool:
    """Processes that make runs; they are started when the first is asked for and stay for the next.

    Args:
        jobs: runs at a time.
        work: what makes one; must be importable by name.
    """

    def __init__(self, jobs: int, work: Callable[[Experiment], Found] = train) -> None:
        if jobs < 1:
            raise UsageError(f"{jobs} runs at a time: needs at least 1")
        self._jobs, self._work = jobs, work
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, after the runs that they are at."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, experiments: Sequence[Experiment], keep: Keep) -> None:
        """Make all. Stopped by Ctrl-C, or where one fails, those in progress end first, and are kept.

        Raises:
            UsageError: a process was killed.
        """
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a fork of a process that has threads may hang
            self._pool = ProcessPoolExecutor(self._jobs, mp_context=context, initializer=_prepare)
        asked: dict[Future[Found], Experiment] = {}
        told: set[Future[Found]] = set()
        try:
            with one_thread():  # the pool starts a process when it is handed work
                asked.update({self._pool.submit(self._work, experiment): experiment for experiment in experiments})
            for future in as_completed(asked):
                told.add(future)
                keep(asked[future], future.result())
        except BrokenProcessPool:
            raise UsageError("a run's process was killed, for want of memory perhaps: call it again to go on") from None
        except BaseException:
            self._pool.shutdown(cancel_futures=True)
            for future in set(asked) - told:
                if not future.cancelled() and future.exception() is None:
                    keep(asked[future], future.result())
            raise


def missing(experiments: Iterable[Experiment], results: Results) -> list[Experiment]:
    """Return those that are not at hand, each once."""
    found: dict[str, Experiment] = {}
    for experiment in experiments:
        if results.get(experiment.key) is None:
            found.setdefault(repr(experiment), experiment)
    return list(found.values())


def fill(experiments: Sequence[Experiment], results: Results, runner: Runner, told: Callable[[Found], None]) -> None:
    """Make the runs that are missing and keep each result.

    Args:
        experiments: wanted.
        results: what is at hand; new ones are added.
        runner: makes runs.
        told: is called with each new result.
    """

    def keep(experiment: Experiment, found: Found) -> None:
        results.put(experiment.key, found)
        told(found)

    wanted = missing(experiments, results)
    if wanted:
        runner.run(wanted, keep)
