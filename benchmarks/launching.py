"""One ``dagrad run`` in a folder that is thrown away, and what its workers wrote."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dagrad_bus.workers.launch.journal import Record, read_record

RUN_LIMIT = 300.0
"""Seconds a run may take."""


class RunFailed(Exception):
    """A run that gives no figures."""


@dataclass(frozen=True, slots=True)
class Running:
    """A run while it lasts."""

    folder: Path
    process: subprocess.Popen[str]
    limit: float = RUN_LIMIT
    """Seconds it may take."""

    def records(self) -> list[Record]:
        """Read the workers' journals."""
        return [read_record(path, path.stem) for path in sorted((self.folder / "workers").glob("*.jsonl"))]

    def wait(self, ready: Callable[[], bool], seconds: float = RUN_LIMIT, pause: float = 0.02) -> None:
        """Wait until ``ready`` says so.

        Raises:
            RunFailed: the run ended before, or it took too long.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RunFailed(f"not ready, exit {self.process.poll()}: {self.said()}")
            time.sleep(pause)

    def finish(self, codes: Sequence[int] = (0,)) -> list[Record]:
        """Wait for the end and return the journals.

        Raises:
            RunFailed: an exit code not in ``codes``, or it took too long.
        """
        self.wait_for_exit()
        if self.process.returncode not in codes:
            raise RunFailed(f"exit {self.process.returncode}: {self.said()}")
        return self.records()

    def wait_for_exit(self) -> None:
        """Wait for the launcher's end."""
        try:
            self.process.wait(self.limit)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"still running after {self.limit} s") from None

    def said(self) -> str:
        """Return the end of what the launcher printed."""
        return (self.folder / "launcher.log").read_text()[-2000:]


@contextmanager
def launched(
    workers: int,
    options: Mapping[str, object],
    words: Sequence[str],
    program: Sequence[object],
    *,
    module: str = "dagrad_bus.workers.digits",
    limit: float = RUN_LIMIT,
) -> Generator[Running]:
    """Start ``dagrad run`` with a training program; on leaving it is stopped if it still runs.

    Args:
        workers: how many.
        options: of ``dagrad run``, without the dashes.
        words: further words of it.
        program: flags of the training program.
        module: the program.
        limit: seconds the run may take.
    """
    with tempfile.TemporaryDirectory(prefix="dagrad-bench-") as scratch:
        folder = Path(scratch) / "run"
        folder.mkdir()
        given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "dagrad_bus.tools.cli", "run", "-n", str(workers), "--dir", str(folder)]
        command += ["--no-figures", "--progress", "none", *given, *words, "-m", module]
        command += [str(word) for word in program]
        with (folder / "launcher.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, text=True, env=_environment())
        running = Running(folder, process, limit)
        try:
            yield running
        finally:
            stop(process)


def _environment() -> dict[str, str]:
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("DAGRAD_")}
    return {**foreign, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def stop(process: subprocess.Popen[str]) -> None:
    """End a launcher; it sees its workers out."""
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            continue


def counted(records: Sequence[Record], name: str) -> float:
    """Return the sum of one counter over the workers, at their latest line."""
    return float(sum(record.last.get("counters", {}).get(name, 0) for record in records))


def steps_of(records: Sequence[Record]) -> int:
    """Return the steps of all workers together, at their latest line."""
    return int(sum(record.last.get("step", 0) for record in records))
