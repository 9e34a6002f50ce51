"""What a launcher is told: which hosts, how to reach them, what to start there, and when to give up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.orders import Start, WorkerOrder
from dagrad_bus.workers.launch.pipes import Pipe

Dial = Callable[[], AbstractAsyncContextManager[Pipe]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Berth:
    """A host and what is to run there."""

    label: str
    """First part of its workers' names."""
    workers: tuple[WorkerOrder, ...]
    dial: Dial = field(repr=False)
    """Opens a pipe to a new agent process there."""
    is_local: bool = False
    """Its agent writes into the launcher's own run folder."""
    advertise: str = ""
    cwd: str = ""
    """Empty: that of the launcher."""
    where: str = ""
    """How to show the host: ``user@node1:2222``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One run."""

    folder: RunFolder
    berths: Sequence[Berth]
    start: Start
    """The order that every host gets, apart from what its berth says."""
    min_workers: int | None = None
    """With fewer workers that live or may yet live the run is given up; None: never, but at the start all must come."""
    min_success: int | None = None
    abort: bool = False
    """Give the run up when a worker has failed for good."""
    detach: bool = False
    """Return when all hosts are at work, and leave them to themselves."""
    returning: bool = False
    """The agents run already: ask for them."""
    reread: Callable[[], Sequence[Berth]] | None = None
    """Returns the berths that the host file asks for now."""
    stop_at_once: bool = False
    """Have all workers end, and nothing else."""
    leave_on_interrupt: bool = False
    """Ctrl-C ends the launcher and not the run."""
