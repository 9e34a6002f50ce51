"""The workers of one host: started in a nursery, started again when they fail, stopped by order.

What happens is told at once, as the reports that a launcher gets (:mod:`dagrad_bus.workers.launch.orders`, ``n`` still
0). Nothing here reads what workers print: that goes straight to files, so training never waits for a reader.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch.channel import Channel, open_channel
from dagrad_bus.workers.launch.command import Command
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.orders import CalledOff, Exited, Ready, RestartPolicy, Started, WorkerOrder
from dagrad_bus.workers.launch.pulse import Pulse
from dagrad_bus.workers.launch.restarts import Again, GiveUp, Restarts

News = Ready | Started | Exited | CalledOff
StoppedBy = Literal["launcher", "lease"]
Mark = tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every worker of a host runs, and how."""

    folder: RunFolder
    command: Command
    cwd: Path
    env: Mapping[str, str]
    """Environment of every worker, complete apart from its name, slot and attempt."""
    preload: Sequence[str] = ()
    """Modules imported once, before workers are forked; only for a Python command."""
    fork: bool = True
    """Fork Python workers; off, each is an interpreter of its own."""
    split: bool = False
    """stderr goes to ``logs/NAME.err``."""
    grace: float = 10.0
    """Seconds between SIGTERM and SIGKILL when this process dies."""
    policy: RestartPolicy = field(default_factory=RestartPolicy)


@dataclass(slots=True)
class _Slot:
    """One place for a worker, whichever process fills it at present."""

    order: WorkerOrder
    attempt: int
    restarts: Restarts
    is_ordered: bool = False
    """The nursery was told to start it and has not reported its end."""
    pid: int | None = None
    began: float = 0.0
    """Monotonic time at which the process was ordered."""
    address: Mark = None
    """Which address file stood there then: that of the process before."""
    by: StoppedBy | Literal["itself", "wedged"] = "itself"
    """Who wanted the end of the process."""
    pulse: Pulse | None = None
    timer: asyncio.TimerHandle | None = None
    """The pause before it starts again."""


class Crew:
    """Workers of one host; leaving the block ends all that are left.

    Args:
        job: what they run.
        tell: called on the loop with each report, :class:`Ready` first.
        lock: descriptor that stays open until the last worker is gone.

    Raises:
        StartError: at the block's end: the nursery has ended, and the workers with it.
    """

    def __init__(self, job: Job, tell: Callable[[News], None], *, lock: int | None = None) -> None:
        self._job = job
        self._tell = tell
        self._lock = lock
        self._slots: dict[str, _Slot] = {}
        self._is_ready = False
        self._is_closed = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the nursery; workers begin once it has imported what it should."""
        job = self._job
        preload = job.preload if job.command.is_python and job.fork else ()
        log = job.folder.path / "logs" / "nursery.log"
        opening = open_channel(job.env, preload=preload, grace=job.grace, log=log, lock=self._lock)
        self._channel = await self._stack.enter_async_context(opening)
        group = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._tasks = [group.create_task(self._follow(self._channel), name="dagrad.crew.follow")]
        if job.policy.wedged > 0:
            self._tasks.append(group.create_task(self._feel_pulses(), name="dagrad.crew.pulses"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> bool | None:
        """End everything that is left; after an error at once, children of workers included."""
        self._drop_restarts(self._slots.values())
        for task in self._tasks:
            task.cancel()
        if error is not None:
            self._kill_groups()
        try:
            return await self._stack.__aexit__(kind, error, frames)
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise

    @property
    def is_over(self) -> bool:
        """Whether nobody runs, and nobody will be started unless there is a new order."""
        return all(self._is_idle(slot) for slot in self._slots.values())

    @property
    def names(self) -> list[str]:
        """Names of all workers there ever were."""
        return list(self._slots)

    def start(self, workers: Sequence[WorkerOrder]) -> None:
        """Start workers, at once or as soon as the nursery is ready.

        Raises:
            UsageError: all were stopped before, or one of that name runs or waits for its restart; none is started.
        """
        if self._is_closed:
            raise UsageError("all workers were told to stop: no others are started")
        names = [order.name for order in workers]
        for name in names:
            if names.count(name) > 1 or (name in self._slots and not self._is_idle(self._slots[name])):
                raise UsageError(f"worker {name} runs already")
        for order in workers:
            slot = self._slots[order.name] = _Slot(order, order.attempt, Restarts(self._job.policy))
            self._begin(slot)

    def stop(self, grace: float, names: Iterable[str] | None = None, *, by: StoppedBy = "launcher") -> None:
        """SIGTERM, after ``grace`` seconds SIGKILL, and no restarts; without ``names`` all, and no new ones either."""
        slots = self._give_up(names, by)
        self._channel.send_order("stop", grace=grace, names=slots)

    def kill(self, *, by: StoppedBy = "launcher") -> None:
        """SIGKILL to all, no restarts and no new ones."""
        self._channel.send_order("kill", names=self._give_up(None, by))

    def signal(self, number: int, names: Iterable[str] | None = None) -> None:
        """Pass a signal on; what comes of it is the workers' own doing.

        Raises:
            UsageError: there is no such signal.
        """
        if number not in signal.valid_signals():
            raise UsageError(f"signal {number}: there is none of that number")
        self._channel.send_order("signal", number=int(number), names=list(self._slots if names is None else names))

    # Starting --------------------------------------------------------------------------------------------------

    def _is_idle(self, slot: _Slot) -> bool:
        waits = not self._is_ready and slot.by == "itself"
        return not slot.is_ordered and slot.timer is None and not waits

    def _begin(self, slot: _Slot) -> None:
        """Have a process started for a slot, unless the nursery is still busy: then :meth:`_follow` does it."""
        slot.timer = None
        if not self._is_ready:
            return
        job, name = self._job, slot.order.name
        slot.is_ordered, slot.pid, slot.by = True, None, "itself"
        slot.began, slot.address = time.monotonic(), _mark(self._address(name))
        slot.pulse = Pulse(job.folder.journal(name))
        own = {"DAGRAD_NAME": name, "DAGRAD_SLOT": str(slot.order.slot), "DAGRAD_ATTEMPT": str(slot.attempt)}
        self._channel.send_order(
            "start",
            name=name,
            kind=job.command.kind if job.fork else "program",
            target=job.command.target,
            words=job.command.words,
            arguments=job.command.arguments,
            env={**job.env, **slot.order.env, **own},
            cwd=str(job.cwd),
            log=str(job.folder.log(name)),
            errors=str(job.folder.errors(name)) if job.split else "",
        )

    def _address(self, name: str) -> Path:
        return self._job.folder.path / "peers" / f"{name}.json"

    # Reports of the nursery ------------------------------------------------------------------------------------

    async def _follow(self, channel: Channel) -> None:
        while True:
            report = await channel.receive_report()
            match report["report"]:
                case "ready":
                    self._is_ready = True
                    seconds, notes = report["seconds"], report["notes"]
                    self._tell(Ready(folder=str(self._job.folder.path), seconds=seconds, notes=notes))
                    for slot in self._slots.values():
                        if slot.by == "itself":
                            self._begin(slot)
                case "started":
                    slot = self._slots[report["name"]]
                    slot.pid = report["pid"]
                    self._tell(Started(name=slot.order.name, pid=report["pid"], attempt=slot.attempt, time=time.time()))
                case "exited":
                    self._note_exit(self._slots[report["name"]], report)
                case unknown:
                    raise AssertionError(f"report {unknown!r}: crew and nursery are of one version")

    def _note_exit(self, slot: _Slot, report: Mapping[str, Any]) -> None:
        name, attempt = slot.order.name, slot.attempt
        decision = self._decide(slot, report.get("code"))
        slot.is_ordered, slot.pid, slot.pulse = False, None, None
        if isinstance(decision, Again):
            slot.attempt += 1
            slot.timer = asyncio.get_running_loop().call_later(decision.wait, self._begin, slot)
        self._tell(
            Exited(
                name=name,
                pid=report["pid"],
                attempt=attempt,
                time=report["time"],
                code=report.get("code"),
                signal=report.get("signal"),
                by=slot.by,
                wait=decision.wait if isinstance(decision, Again) else None,
                why=decision.why if isinstance(decision, GiveUp) else "",
            )
        )

    def _decide(self, slot: _Slot, code: int | None) -> Again | GiveUp:
        if slot.by in {"launcher", "lease"}:
            return GiveUp("")
        mark = _mark(self._address(slot.order.name))
        return slot.restarts.decide(
            code=code,
            lived=time.monotonic() - slot.began,
            published=mark is not None and mark != slot.address,
            stepped=slot.pulse is None or slot.pulse.has_stepped(time.monotonic()),
            chance=random.random(),
            wedged=slot.by == "wedged",
        )

    async def _feel_pulses(self) -> None:
        """Kill workers that make no steps; they start again like others that failed."""
        limit = self._job.policy.wedged
        while True:
            await asyncio.sleep(min(max(limit / 10, 0.02), 5.0))
            for name, slot in self._slots.items():
                if slot.is_ordered and slot.pulse is not None and slot.pulse.silence(time.monotonic()) > limit:
                    slot.by, slot.pulse = "wedged", None
                    self._channel.send_order("kill", names=[name])

    # Ends ------------------------------------------------------------------------------------------------------

    def _give_up(self, names: Iterable[str] | None, by: StoppedBy) -> list[str]:
        """Mark workers as stopped by order; return the names of those that run."""
        chosen = [slot for name, slot in self._slots.items() if names is None or name in set(names)]
        never_began = [slot for slot in chosen if not self._is_ready and slot.by == "itself"]
        self._is_closed = self._is_closed or names is None
        self._drop_restarts(chosen)
        for slot in chosen:
            slot.by = by
        for slot in never_began:
            self._tell(CalledOff(name=slot.order.name, attempt=slot.attempt))
        return [slot.order.name for slot in chosen if slot.is_ordered]

    def _drop_restarts(self, slots: Iterable[_Slot]) -> None:
        for slot in slots:
            if slot.timer is not None:
                slot.timer.cancel()
                slot.timer = None
                self._tell(CalledOff(name=slot.order.name, attempt=slot.attempt))

    def _kill_groups(self) -> None:
        """The nursery has gone or there is a fault: its death kills workers, this also what they started."""
        for slot in self._slots.values():
            if slot.pid is not None:
                with suppress(ProcessLookupError, PermissionError):  # gone; or the number is somebody else's by now
                    os.killpg(slot.pid, signal.SIGKILL)


def _mark(path: Path) -> Mark:
    """Return what tells one version of a file that is replaced from another; None: there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns
