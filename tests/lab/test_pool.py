from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.experiment import Experiment
from dagrad_bus.lab.pool import THREADS, Found, Keep, Pool, fill, missing, one_thread, train
from dagrad_bus.lab.results import Results

TINY = Experiment(workers=2, steps=5)


class InProcess:
    """Makes runs here; stops, as by Ctrl-C, before run number ``stop``."""

    def __init__(self, stop: int | None = None) -> None:
        self.made: list[int] = []
        self._stop = stop

    def run(self, experiments: Sequence[Experiment], keep: Keep) -> None:
        for experiment in experiments:
            if len(self.made) == self._stop:
                raise KeyboardInterrupt
            self.made.append(experiment.seed)
            keep(experiment, {"accuracy": float(experiment.seed)})


def environment(experiment: Experiment) -> Found:
    """Say how many threads a process has; one seed fails, one is killed."""
    if experiment.seed == 8:
        raise UsageError("this one fails")
    if experiment.seed == 9:
        os._exit(1)
    return {"omp": os.environ[THREADS], "threads": torch.get_num_threads(), "pid": os.getpid()}


def seeds(count: int) -> list[Experiment]:
    return [replace(TINY, seed=seed) for seed in range(count)]


def test_a_run_becomes_a_result_that_json_has(tmp_path: Path) -> None:
    found = train(TINY)
    results = Results(tmp_path / "cells.jsonl")
    results.put(TINY.key, found)
    kept = Results(results.file).get(TINY.key)
    assert kept is not None
    assert 0 <= kept["accuracy"] <= 1
    assert kept["bytes_per_step"] > 0
    assert train(TINY) == found  # bit for bit


def test_only_what_is_missing_is_made_and_once(tmp_path: Path) -> None:
    results, runner, told = Results(tmp_path / "cells.jsonl"), InProcess(), list[float]()
    results.put(seeds(1)[0].key, {"accuracy": 0.5})
    wanted = [*seeds(3), *seeds(3)]
    assert [run.seed for run in missing(wanted, results)] == [1, 2]
    fill(wanted, results, runner, lambda found: told.append(found["accuracy"]))
    assert runner.made == [1, 2]
    assert told == [1.0, 2.0]
    fill(wanted, results, runner, lambda found: told.append(found["accuracy"]))
    assert len(told) == 2


def test_what_was_done_before_a_stop_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    with pytest.raises(KeyboardInterrupt):
        fill(seeds(4), Results(file), InProcess(stop=2), lambda _: None)
    runner = InProcess()
    fill(seeds(4), Results(file), runner, lambda _: None)
    assert runner.made == [2, 3]


@pytest.mark.parametrize("before", [None, "7"])
def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    if before is None:
        monkeypatch.delenv(THREADS, raising=False)
    else:
        monkeypatch.setenv(THREADS, before)
    with one_thread():
        assert os.environ[THREADS] == "1"
    assert os.environ.get(THREADS) == before


def test_a_pool_needs_a_job() -> None:
    with pytest.raises(UsageError, match="0 runs at a time"):
        Pool(0)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_processes_have_one_thread_and_give_what_this_process_gives() -> None:
    found: dict[int, Found] = {}
    with Pool(2) as pool:
        pool.run(seeds(2), lambda experiment, result: found.update({experiment.seed: result}))
    assert found == {experiment.seed: train(experiment) for experiment in seeds(2)}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_run_that_fails_ends_the_pool_and_the_others_are_kept() -> None:
    found: dict[int, Found] = {}
    with Pool(1, environment) as pool, pytest.raises(UsageError, match="this one fails"):
        pool.run([*seeds(2), replace(TINY, seed=8)], lambda run, result: found.update({run.seed: result}))
    assert sorted(found) == [0, 1]
    assert {(result["omp"], result["threads"]) for result in found.values()} == {("1", 1)}
    assert os.getpid() not in {result["pid"] for result in found.values()}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_process_that_is_killed_is_an_error_with_advice() -> None:
    with Pool(1, environment) as pool, pytest.raises(UsageError, match="call it again to go on"):
        pool.run([replace(TINY, seed=9)], lambda _run, _result: None)


ORPHANS = """
import os, sys
from dataclasses import replace
from dagrad_bus.lab.experiment import Experiment
from dagrad_bus.lab.pool import Pool

def say(experiment):
    if experiment.seed:
        while True:
            pass
    return {"pid": os.getpid()}

if __name__ == "__main__":
    with Pool(1, say) as pool:
        pool.run([Experiment(), Experiment(seed=1)], lambda _, found: print(found["pid"], flush=True))
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_processes_end_when_their_parent_was_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(ORPHANS)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as lines:
        pid = int(lines.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
