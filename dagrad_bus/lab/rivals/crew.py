"""Starts the workers of one trial and watches them: done, frozen, crashed, or out of time.

Runs inside the private network, as ``python -m dagrad_bus.lab.rivals.crew JOB``. Workers count as one even if a launcher
starts them: what is watched is what they leave in the job's folder. How it ended stands in ``crew.json`` there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Ending = Literal["done", "froze", "crashed", "too slow"]

PAUSE = 0.05
FAREWELL = 15.0
"""Seconds that processes have to end by themselves after all results are there."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What a crew waits for."""

    folder: Path
    awaited: tuple[int, ...]
    """Workers whose results are needed: a killed one leaves none, and nobody waits for a straggler."""
    patience: float
    """Seconds without a step of any awaited worker that count as frozen, once the first has been taken."""
    limit: float
    """Seconds for all of it."""

    def is_done(self) -> bool:
        """Return whether all awaited results are there."""
        return all((self.folder / f"worker.{rank}.json").exists() for rank in self.awaited)

    def last_step(self) -> float | None:
        """Return when an awaited worker last took a step or left its result (``time.time()``); None: none did yet."""
        found = [
            file.stat().st_mtime
            for rank in self.awaited
            for file in (self.folder / f"times.{rank}", self.folder / f"worker.{rank}.json")
            if file.exists() and file.stat().st_size
        ]
        return max(found, default=None)


def watch(processes: Sequence[subprocess.Popen[bytes]], task: Watch) -> Ending:
    """Wait for the end of it, and say which it was; nothing is stopped."""
    began = time.monotonic()
    while not task.is_done():
        if all(process.poll() is not None for process in processes):
            return "done" if task.is_done() else "crashed"
        last = task.last_step()
        if last is not None and time.time() - last > task.patience:
            return "froze"
        if time.monotonic() - began > task.limit:
            return "too slow"
        time.sleep(PAUSE)
    return "done"


def stop(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Let processes end within ``seconds``, then kill those that have not."""
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(job: Mapping[str, Any], folder: Path) -> Ending:
    """Start the job's commands, watch them, stop them.

    Args:
        job: as ``handout.py`` writes it.
        folder: where the workers leave their results; their output goes to ``command.N.log``.
    """
    task = Watch(folder, tuple(job["awaited"]), job["patience"], job["limit"])
    env = {**os.environ, **job["environ"]}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(job["commands"]):
            with (folder / f"command.{number}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env, cwd=folder)
                )
        ending = watch(processes, task)
        stop(processes, FAREWELL if ending == "done" and len(task.awaited) == job["workers"] else 0.0)
    finally:
        stop(processes, 0.0)
    return ending


def main(argv: Sequence[str]) -> int:
    """Run one job and leave ``crew.json``."""
    file = Path(argv[0])
    ending = run(json.loads(file.read_text()), file.parent)
    (file.parent / "crew.json").write_text(json.dumps({"ending": ending, "ended": time.monotonic()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
