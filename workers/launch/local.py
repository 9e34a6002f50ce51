"""Runs workers on this host: starts them in a nursery, follows their output, and sees them out.

A worker that ends, however it ends, leaves the others alone. The first SIGINT, SIGTERM or SIGHUP asks all workers to
stop and kills them after the grace period, the second kills at once. Output goes straight to log files, so training
never waits for whoever reads it; what is shown is read back from there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dagrad_bus.workers.launch.channel import Channel, open_channel
from dagrad_bus.workers.launch.command import Command
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.journal import LONGEST_LINE, Record, Tail

DEFAULT_PRELOAD = (
    "numpy",
    "torch",
    "torch._dynamo",
    "zmq",
    "msgpack",
    "uvloop",
    "blosc2",
    "dagrad_bus",
    "dagrad_bus.attach",
)
"""What a worker nearly always imports; a module that is missing is left out. Every optimizer imports ``torch._dynamo``."""
_POLL = 0.1
"""Seconds between two looks at logs and journals."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One run on this host."""

    folder: RunFolder
    names: Sequence[str]
    command: Command
    cwd: Path
    env: Mapping[str, str]
    """Environment of every worker, apart from its name."""
    preload: Sequence[str] = ()
    """Modules imported once, before workers are forked; only for a Python command."""
    fork: bool = True
    """Fork Python workers; off, each is an interpreter of its own."""
    grace: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended."""

    name: str
    pid: int
    code: int | None
    """Exit code; None if a signal ended it."""
    signal: int | None
    time: float
    """Unix time."""

    @property
    def status(self) -> int:
        """The code as a shell gives it."""
        return 128 + self.signal if self.signal is not None else self.code or 0

    @property
    def text(self) -> str:
        """In words: ``exit 7`` or ``SIGSEGV``."""
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
    exit: Exit | None = None
    joined: bool = False
    """Not launched with the others: it came later, by itself."""

    @property
    def state(self) -> str:
        """One word (or the exit) for a table."""
        if self.joined or (self.exit is not None and self.record.is_back(self.exit.time)):
            return "done" if self.record.ended else "joined"
        if self.exit is not None:
            return "done" if self.exit.status == 0 else self.exit.text
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
    stopped_by: signal.Signals | None = None
    """The signal that ended the run early."""
    killed: bool = False
    """Whether SIGKILL was asked for by a second signal."""
    start_seconds: float | None = None
    """From the order to start to the last worker's start, imports included."""
    failures: list[Exit] = field(default_factory=list[Exit])
    """Workers that failed by themselves, first one first."""

    @property
    def exit_code(self) -> int:
        """0, the first failing worker's code (128 + signal), 130 or 143 after a signal."""
        if self.stopped_by is not None:
            return 130 if self.stopped_by == signal.SIGINT else 143
        return self.failures[0].status if self.failures else 0

    def describe_exits(self) -> list[dict[str, object]]:
        """Return how each worker ended, as ``run.json`` keeps it."""
        described: list[dict[str, object]] = []
        for worker in self.workers:
            if worker.exit is not None:
                failed = worker.exit in self.failures
                stopped = self.stopped_by is not None and not failed
                state = "stopped" if stopped and worker.exit.status else worker.state
                described.append({**asdict(worker.exit), "state": state, "failed": failed})
        return described


class LocalRun:
    """One launch while it happens."""

    def __init__(self, launch: Launch, watcher: Watcher) -> None:
        self._launch = launch
        self._watcher = watcher
        self._workers = {name: Worker(name, Record(name)) for name in launch.names}
        self._logs = {name: Tail(launch.folder.log(name), longest=LONGEST_LINE) for name in launch.names}
        self._journals = {name: Tail(launch.folder.journal(name)) for name in launch.names}
        self._guests: dict[str, Worker] = {}
        """Workers that joined later, as their journals show."""
        self._outcome = Outcome(list(self._workers.values()))
        self._began = time.monotonic()
        self._ordered = False
        self._over = asyncio.Event()

    async def run(self) -> Outcome:
        """Start all workers and return when the last has ended and all its output was shown.

        Raises:
            StartError: the nursery failed; no worker is left then.
        """
        launch = self._launch
        preload = launch.preload if launch.command.is_python and launch.fork else ()
        log = launch.folder.path / "logs" / "nursery.log"
        async with open_channel(launch.env, preload=preload, grace=launch.grace, log=log) as channel:
            loop = asyncio.get_running_loop()
            for number in _SIGNALS:
                loop.add_signal_handler(number, self._interrupt, number, channel)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._show(), name="show")
                    group.create_task(self._follow(channel), name="follow")
            except BaseExceptionGroup:
                self._kill_workers()
                raise
            finally:
                for number in _SIGNALS:
                    loop.remove_signal_handler(number)
        return self._outcome

    async def _follow(self, channel: Channel) -> None:
        """Take the nursery's reports until nothing more can come."""
        try:
            while not self._is_over():
                self._take(await channel.receive_report(), channel)
        finally:
            self._over.set()

    def _is_over(self) -> bool:
        never_started = self._outcome.stopped_by is not None and not self._ordered
        return never_started or all(worker.exit is not None for worker in self._workers.values())

    def _take(self, report: dict[str, Any], channel: Channel) -> None:
        match report["report"]:
            case "ready":
                for note in report["notes"]:
                    self._watcher.show_note(note)
                self._start_all(channel)
            case "started":
                worker = self._workers[report["name"]]
                worker.pid, worker.started_at = report["pid"], time.time()
                self._outcome.start_seconds = time.monotonic() - self._began
            case "exited":
                self._note_exit(report)
            case unknown:
                raise AssertionError(f"report {unknown!r}: launcher and nursery are of one version")

    def _start_all(self, channel: Channel) -> None:
        if self._outcome.stopped_by is not None:
            return
        self._ordered = True
        command, launch = self._launch.command, self._launch
        for slot, name in enumerate(launch.names):
            channel.send_order(
                "start",
                name=name,
                kind=command.kind if launch.fork else "program",
                target=command.target,
                words=command.words,
                arguments=command.arguments,
                env={**launch.env, "DAGRAD_NAME": name, "DAGRAD_SLOT": str(slot)},
                cwd=str(launch.cwd),
                log=str(launch.folder.log(name)),
            )

    def _note_exit(self, report: dict[str, Any]) -> None:
        name = report["name"]
        ended = Exit(name, report["pid"], report.get("code"), report.get("signal"), report["time"])
        self._workers[name].exit = ended
        if ended.status == 0:
            return
        if self._outcome.stopped_by is None:
            self._outcome.failures.append(ended)
            left = sum(worker.exit is None for worker in self._workers.values())
            self._watcher.show_note(f"{name} failed: {ended.text}; {left} still running")

    def _interrupt(self, number: signal.Signals, channel: Channel) -> None:
        if self._outcome.stopped_by is None:
            self._outcome.stopped_by = number
            self._watcher.show_note(
                f"{number.name}: stopping all workers, at most {self._launch.grace:g} s; once more kills them"
            )
            channel.send_order("stop", grace=self._launch.grace)
        else:
            self._outcome.killed = True
            channel.send_order("kill")

    def _kill_workers(self) -> None:
        """The nursery has gone or we have a fault: its death kills workers, this also what they started."""
        for worker in self._workers.values():
            if worker.pid is not None and worker.exit is None:
                with suppress(ProcessLookupError, PermissionError):  # gone; or the number is somebody else's by now
                    os.killpg(worker.pid, signal.SIGKILL)

    async def _show(self) -> None:
        """Show what workers print and write, until they are gone; the last look takes everything."""
        while not self._over.is_set():
            self._look(final=False)
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL):
                    await self._over.wait()
        self._look(final=True)

    def _look(self, *, final: bool) -> None:
        for name in self._workers:
            for line in self._logs[name].read_lines(final=final):
                text = line.decode(errors="replace").rstrip("\r")
                self._watcher.show_line(name, text.rpartition("\r")[2])  # of a progress bar the last state
        self._meet_guests()
        for name, worker in {**self._workers, **self._guests}.items():
            for line in self._journals[name].read_lines(final=final):
                worker.record.add(line, keep=False)
        self._watcher.show_workers([*self._outcome.workers, *self._guests.values()], final=final)

    def _meet_guests(self) -> None:
        """Notice the journals of workers that nobody launched here."""
        for path in sorted((self._launch.folder.path / "workers").glob("*.jsonl")):
            if path.stem not in self._journals:
                self._journals[path.stem] = Tail(path)
                self._guests[path.stem] = Worker(path.stem, Record(path.stem), joined=True)
                self._watcher.show_note(f"{path.stem} joined the run")


def run_local(launch: Launch, watcher: Watcher) -> Outcome:
    """Run ``launch`` to its end on a loop of its own.

    Raises:
        StartError: the nursery failed; no worker is left then.
    """
    with asyncio.Runner() as runner:
        try:
            return runner.run(LocalRun(launch, watcher).run())
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
