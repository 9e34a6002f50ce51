"""A visitor to a live run: reads the member table, publishes a graph, and goes. It is no member and trains nothing.

It finds the workers by the run folder or by seeds, proves that it holds the run's key, asks one of them for its table,
and hears the heartbeats of all of them to see what they have adopted. Command-line tools use it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.approach import Approach, Door, from_folder
from dagrad_bus.bus.identity import Identity
from dagrad_bus.bus.visit import POLL, Visit
from dagrad_bus.errors import NobodyAnswers, StartError, UsageError
from dagrad_bus.ids import NodeId
from dagrad_bus.membership.repair import MOST_RECORDS
from dagrad_bus.settings import Settings
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.transport import open_transport
from dagrad_bus.wire import Gossip, MemberState, Record

NEXT_DOOR = 0.4
"""Seconds that a worker has to answer before another one is asked as well."""
MOST_DOORS = 16
"""Workers asked at a time."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What one worker believes of its run."""

    told_by: str
    """Name of the worker that was asked."""
    members: tuple[Record, ...]
    """Its whole table, sorted by name; the dead and departed included."""
    spec: TopologySpec
    """The graph in force."""

    @property
    def present(self) -> tuple[Record, ...]:
        """Those that take part: alive or under suspicion."""
        return tuple(record for record in self.members if record.state in {MemberState.ALIVE, MemberState.SUSPECT})


@dataclass(frozen=True, slots=True)
class Rewired:
    """What became of a published graph."""

    version: int
    adopted: tuple[str, ...]
    """Names of the workers whose heartbeats spoke of it."""
    silent: tuple[str, ...]
    """Names of those present that were not heard in time, or not with this version."""
    seconds: float
    """From publishing until the last of them had adopted it."""


def read_run(folder: Path, timeout: float = 5.0) -> LiveRun:
    """Ask a worker of the run in ``folder`` for its member table.

    Raises:
        UsageError: no run folder.
        NobodyAnswers: no worker answered within ``timeout`` seconds.
    """
    return asyncio.run(_read_run(folder, timeout))


def publish_spec(folder: Path, spec: TopologySpec, timeout: float = 10.0) -> Rewired:
    """Give the live run in ``folder`` another graph, and wait until its workers have adopted it.

    Args:
        folder: of the run.
        spec: kind and numbers; version and author are set here, above those in force.
        timeout: seconds.

    Raises:
        UsageError: no run folder.
        NobodyAnswers: no worker answered within ``timeout`` seconds.
    """
    return asyncio.run(_publish_spec(folder, spec, timeout))


async def _read_run(folder: Path, patience: float) -> LiveRun:
    until = asyncio.get_running_loop().time() + patience
    with ExitStack() as stack:
        approach = from_folder(folder)
        visit, doors = enter(stack, approach)
        return await look(visit, approach, doors, until)


async def look(visit: Visit, approach: Approach, doors: list[Door], until: float) -> LiveRun:
    """Ask one worker after the other, without giving up on the first ones, until one has told its table.

    Raises:
        NobodyAnswers: none did until then, or nobody listens anywhere.
    """
    loop = asyncio.get_running_loop()
    asked: list[NodeId] = []
    for place, door in enumerate(doors):
        visit.transport.connect(door.node, door.inbox, None)
        asked.append(door.node)
        if len(asked) > MOST_DOORS:
            visit.transport.disconnect(asked.pop(0))
        patience = until if place == len(doors) - 1 else min(until, loop.time() + NEXT_DOOR)
        if await visit.ask(asked, visit.digest(approach.spec), lambda: visit.answers > 0, patience):
            await _hear_out(visit, asked, approach, until)
            return live_run(visit, approach)
        if loop.time() >= until:
            break
    raise NobodyAnswers(f"{approach}: no worker of this run answers{_why(doors)}")


def _why(doors: list[Door]) -> str:
    if not doors:
        return ": none is running (or none is up yet)"
    return " (has it ended? a wrong key gets no answer either, nor does a host that they cannot connect to)"


def live_run(visit: Visit, approach: Approach) -> LiveRun:
    """Return what is known by now."""
    teller = visit.names.get(visit.told_by, "") if visit.told_by is not None else ""
    members = tuple(sorted(visit.records.values(), key=lambda record: record.name))
    return LiveRun(teller, members, visit.spec or approach.spec)


async def _hear_out(visit: Visit, asked: list[NodeId], approach: Approach, until: float) -> None:
    """Ask on while a table is too large for one answer."""
    known = 0
    await asyncio.sleep(2 * POLL)  # the rest of an answer that fills several messages
    while len(visit.records) >= known + MOST_RECORDS:
        known, before = len(visit.records), visit.answers
        question = visit.digest(approach.spec)
        if not await visit.ask(asked, question, lambda: visit.answers > before, until):  # noqa: B023
            return
        await asyncio.sleep(2 * POLL)


async def _publish_spec(folder: Path, spec: TopologySpec, patience: float) -> Rewired:
    loop = asyncio.get_running_loop()
    until = loop.time() + patience
    with ExitStack() as stack:
        approach = from_folder(folder)
        visit, doors = enter(stack, approach)
        seen = await look(visit, approach, doors, until)
        present = {record.node: record.name for record in seen.present}
        for record in seen.present:  # all heartbeats are heard before anything changes
            visit.transport.connect(record.node, record.inbox, record.beat)
        spec = replace(spec, version=seen.spec.version + 1, author=visit.hello.node)
        told = [visit.told_by] if visit.told_by is not None else []
        began = loop.time()
        await visit.ask(told, Gossip(spec=spec), lambda: present.keys() <= visit.who_adopted(spec.version), until)
        adopted = visit.who_adopted(spec.version) & present.keys()
        names = sorted(present[node] for node in adopted)
        silent = sorted(present[node] for node in present.keys() - adopted)
        return Rewired(spec.version, tuple(names), tuple(silent), loop.time() - began)


def enter(stack: ExitStack, approach: Approach) -> tuple[Visit, list[Door]]:
    """Open the sockets of a visitor; return its visit, and the workers that may be asked.

    Raises:
        UsageError: no address to listen on, or no way to the workers.
    """
    doors = approach.doors()
    sockets = approach.sockets(doors)
    settings = Settings(run=approach.run, name=f"visitor.{secrets.token_hex(6)}", key=approach.key, transport=sockets)
    identity = Identity(settings, Layout((Entry("none", (1,), "float32"),), (), 1), time.time_ns())
    try:
        transport = stack.enter_context(open_transport(identity.node, settings.transport))
    except StartError as error:
        raise UsageError(str(error)) from None
    return Visit(transport, identity), doors
