"""How workers and runs end: exits, what a table shows of a worker, and the exit code of the whole."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Protocol

from dagrad_bus.workers.launch.journal import Record


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker's process ended."""

    name: str
    pid: int
    code: int | None
    """Exit code; None if a signal ended it."""
    signal: int | None
    time: float
    """Unix time."""
    attempt: int = 0
    """How often the worker had been restarted before."""
    lost: bool = False
    """Nobody saw it end: its host or its agent was lost. Counts as killed."""

    @property
    def status(self) -> int:
        """The code as a shell gives it."""
        if self.signal is not None:
            return 128 + self.signal
        return 125 if self.code is None else self.code & 0xFF or int(self.code != 0)

    @property
    def text(self) -> str:
        """In words: ``exit 7``, ``SIGSEGV`` or ``lost``."""
        if self.lost:
            return "lost"
        if self.signal is None:
            return f"exit {self.code}"
        with suppress(ValueError):
            return signal.Signals(self.signal).name
        return f"signal {self.signal}"


@dataclass(slots=True)
class Worker:
    """A worker as the launcher sees it."""

    name: str
    record: Record
    pid: int | None = None
    started_at: float | None = None
    attempt: int = 0
    exit: Exit | None = None
    """Of the last process; None while one runs or none has been started."""
    returns_at: float | None = None
    """Unix time at which it is started again; None: it is not."""
    joined: bool = False
    """Not launched with the others: it came later, by itself."""
    cut_off: bool = False
    """Nothing is heard of its host at the moment."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended and is not started again."""
        return self.exit is not None and self.returns_at is None

    @property
    def state(self) -> str:
        """One word (or the exit) for a table."""
        if self.joined or (self.exit is not None and self.record.is_back(self.exit.time)):
            return "done" if self.record.ended else "joined"
        if self.exit is not None:
            if self.returns_at is not None:
                return "restarting"
            return "done" if self.exit.status == 0 else self.exit.text
        if self.cut_off:
            return "cut off"
        if self.pid is None:
            return "waiting"
        return "running" if self.record.last else "starting"


class Watcher(Protocol):
    """Is told what happens; called on the loop, so it must be quick."""

    def show_line(self, name: str, text: str) -> None:
        """Show one line of a worker's output."""
        ...

    def show_note(self, text: str) -> None:
        """Show one line of the launcher's own."""
        ...

    def show_workers(self, workers: Sequence[Worker], *, final: bool) -> None:
        """Take the state of all workers, several times a second."""
        ...


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    workers: list[Worker]
    min_success: int | None = None
    """So many workers that end with 0 make the run a success; None: all."""
    stopped_by: signal.Signals | None = None
    """The signal that ended the run early."""
    killed: bool = False
    """Whether SIGKILL was asked for by a second signal."""
    left: bool = False
    """Whether the launcher ended and left the workers to themselves."""
    aborted: str = ""
    """Why the launcher gave the run up; empty: it did not."""
    unreachable: bool = False
    """Whether too few hosts could be reached to begin."""
    start_seconds: float | None = None
    """From the order to start to the last worker's start, imports included."""
    failures: list[Exit] = field(default_factory=list[Exit])
    """Workers that failed by themselves and were not started again, first one first."""

    @property
    def exit_code(self) -> int:
        """130 or 143 after a signal, 3 without hosts, 0, the first failing worker's code (128 + signal), or 1."""
        if self.left:
            return 0
        if self.stopped_by is not None:
            return 130 if self.stopped_by == signal.SIGINT else 143
        if self.unreachable:
            return 3
        succeeded = sum(worker.exit is not None and worker.exit.status == 0 for worker in self.workers)
        if self.min_success is not None and succeeded >= self.min_success:
            return 0
        if self.failures:
            return self.failures[0].status
        return int(bool(self.aborted) or self.min_success is not None)  # too few are left, and none of them failed

    def describe_exits(self) -> list[dict[str, object]]:
        """Return how each worker ended, as ``run.json`` keeps it."""
        described: list[dict[str, object]] = []
        for worker in self.workers:
            if worker.exit is not None:
                failed = worker.exit in self.failures
                stopped = (self.stopped_by is not None or bool(self.aborted)) and not failed
                state = "stopped" if stopped and worker.exit.status else worker.state
                described.append({**asdict(worker.exit), "state": state, "failed": failed})
        return described
