"""A visitor to a live run: reads the member table, publishes a graph, and goes. It is no member and trains nothing.

It finds the workers by the run folder, proves that it holds the run's key, asks one of them for its table, and hears
the heartbeats of all of them to see what they have adopted. Command-line tools use it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.identity import Identity
from dagrad_bus.errors import RemoteError, StartError, UsageError
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.membership.records import bucket_of, fingerprint
from dagrad_bus.membership.repair import MOST_RECORDS
from dagrad_bus.messages import VISITOR
from dagrad_bus.rendezvous import Address, look_up, names_in
from dagrad_bus.settings import Settings, TransportSettings
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.transport import Transport, open_transport
from dagrad_bus.wire import BUCKETS, Gossip, Heartbeat, MemberState, Message, PpDigest, PpRecords, Record, parse

ASK_AGAIN = 0.3
"""Seconds between two attempts."""
POLL = 0.02


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


class Visit:
    """One visit, on the running loop; made by :func:`read_run` and :func:`publish_spec`."""

    def __init__(self, transport: Transport, identity: Identity) -> None:
        hello = identity.hello(transport.inbox, transport.beat)
        self.hello = replace(hello, capabilities=hello.capabilities | VISITOR)
        self.versions: dict[NodeId, int] = {}
        """Spec versions in heartbeats."""
        self.records: dict[NodeId, Record] = {}
        self.answers = 0
        self.spec: TopologySpec | None = None
        """None while nobody spoke of a later one than the run began with."""
        self._strangers: set[NodeId] = set()
        """Connected workers that were not told yet who we are."""
        self._known: set[NodeId] = set()
        """Those that were."""
        self._transport = transport
        self._failure: Exception | None = None
        transport.start(self, self._fail)

    def _fail(self, error: Exception) -> None:
        self._failure = error

    def received(self, routing: bytes, parts: list[bytes]) -> None:
        """Take an answer."""
        message = _parsed(parts)
        if isinstance(message, PpRecords):
            self.answers += 1
            self.records.update({record.node: record for record in message.records})
            self.spec = message.spec if message.spec is not None else self.spec

    def beaten(self, peer: NodeId, parts: list[bytes]) -> None:
        """Take a heartbeat."""
        message = _parsed(parts)
        if isinstance(message, Heartbeat) and message.node == peer:
            self.versions[peer] = message.spec_version

    def connection(self, peer: NodeId, *, up: bool) -> None:
        """Take note whom to introduce ourselves to."""
        (self._strangers.add if up else self._strangers.discard)(peer)
        self._known.discard(peer)

    def refused(self, peer: NodeId) -> None:
        """Nobody is there: another one is asked."""

    def writable(self, peer: NodeId) -> None:
        """Nothing waits here."""

    def digest(self, spec: TopologySpec) -> PpDigest:
        """Return the question for all that is not known yet."""
        buckets = [0] * BUCKETS
        for record in self.records.values():
            buckets[bucket_of(record.node)] ^= fingerprint(record, is_behind=False)
        if not self.records:  # an empty table is like that of a worker that knows nobody yet
            buckets = list(range(1, BUCKETS + 1))
        return PpDigest(buckets=tuple(buckets), spec=self.spec or spec)

    def who_adopted(self, version: int) -> set[NodeId]:
        """Return the workers whose last heartbeat spoke of this spec, or of a later one."""
        return {node for node, known in self.versions.items() if known >= version}

    def _introduce(self) -> None:
        """Say hello, before anything else, on each new connection."""
        for peer in list(self._strangers):
            if self._transport.send(peer, self.hello):
                self._strangers.discard(peer)
                self._known.add(peer)

    async def ask(self, peer: NodeId, message: Message, done: Callable[[], bool], until: float) -> bool:
        """Send ``message`` again and again until ``done()``; False: time is up."""
        loop = asyncio.get_running_loop()
        again = 0.0
        while not done():
            if self._failure is not None:
                raise self._failure
            now = loop.time()
            if now >= until:
                return False
            self._introduce()
            if peer in self._known and now >= again and self._transport.send(peer, message):
                again = now + ASK_AGAIN
            await asyncio.sleep(POLL)
        return True


def _parsed(parts: list[bytes]) -> Message | None:
    try:
        return parse(parts)
    except RemoteError:
        return None


def read_run(folder: Path, timeout: float = 5.0) -> LiveRun:
    """Ask a worker of the run in ``folder`` for its member table.

    Raises:
        UsageError: no run folder, or no worker answered within ``timeout`` seconds.
    """
    return asyncio.run(_read_run(folder, timeout))


def publish_spec(folder: Path, spec: TopologySpec, timeout: float = 10.0) -> Rewired:
    """Give the live run in ``folder`` another graph, and wait until its workers have adopted it.

    Args:
        folder: of the run.
        spec: kind and numbers; version and author are set here, above those in force.
        timeout: seconds.

    Raises:
        UsageError: no run folder, or no worker answered within ``timeout`` seconds.
    """
    return asyncio.run(_publish_spec(folder, spec, timeout))


async def _read_run(folder: Path, patience: float) -> LiveRun:
    until = asyncio.get_running_loop().time() + patience
    with ExitStack() as stack:
        visit, transport, known = _enter(stack, folder)
        return await _look(visit, transport, known, until)


async def _look(visit: Visit, transport: Transport, seen: _Folder, until: float) -> LiveRun:
    """Ask one worker after the other until one has told its table."""
    loop = asyncio.get_running_loop()
    names = names_in(seen.path)
    for at, name in enumerate(names):
        address = look_up(seen.path, name)
        if address is None or not _is_running(address):
            continue
        peer = derive_node_id(seen.run, name)
        transport.connect(peer, address.inbox, None)
        patience = min(until, loop.time() + max(1.0, (until - loop.time()) / (len(names) - at)))
        if await visit.ask(peer, visit.digest(seen.spec), lambda: visit.answers > 0, patience):
            await _hear_out(visit, peer, seen, until)
            members = tuple(sorted(visit.records.values(), key=lambda record: record.name))
            return LiveRun(name, members, visit.spec or seen.spec)
        transport.disconnect(peer)
        if loop.time() >= until:
            break
    raise UsageError(f"{seen.path}: no worker of this run answers (has it ended?)")


async def _hear_out(visit: Visit, peer: NodeId, seen: _Folder, until: float) -> None:
    """Ask on while a table is too large for one answer."""
    known = 0
    await asyncio.sleep(2 * POLL)  # the rest of an answer that fills several messages
    while len(visit.records) >= known + MOST_RECORDS:
        known, before = len(visit.records), visit.answers
        if not await visit.ask(peer, visit.digest(seen.spec), lambda: visit.answers > before, until):  # noqa: B023
            return
        await asyncio.sleep(2 * POLL)


def _is_running(address: Address) -> bool:
    """Whether a worker on this host still lives; one on another host is asked."""
    if "127.0.0.1" not in address.inbox:
        return True
    try:
        os.kill(address.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def _publish_spec(folder: Path, spec: TopologySpec, patience: float) -> Rewired:
    loop = asyncio.get_running_loop()
    until = loop.time() + patience
    with ExitStack() as stack:
        visit, transport, known = _enter(stack, folder)
        seen = await _look(visit, transport, known, until)
        present = {record.node: record.name for record in seen.present}
        for record in seen.present:  # all heartbeats are heard before anything changes
            transport.connect(record.node, record.inbox, record.beat)
        spec = replace(spec, version=seen.spec.version + 1, author=visit.hello.node)
        told = derive_node_id(known.run, seen.told_by)
        began = loop.time()
        await visit.ask(told, Gossip(spec=spec), lambda: present.keys() <= visit.who_adopted(spec.version), until)
        adopted = visit.who_adopted(spec.version) & present.keys()
        names = sorted(present[node] for node in adopted)
        silent = sorted(present[node] for node in present.keys() - adopted)
        return Rewired(spec.version, tuple(names), tuple(silent), loop.time() - began)


@dataclass(frozen=True, slots=True)
class _Folder:
    """What the run folder says."""

    path: Path
    run: str
    key: bytes
    spec: TopologySpec
    """The graph that the run began with."""


def _read_folder(path: Path) -> _Folder:
    try:
        run: dict[str, Any] = json.loads((path / "run.json").read_text())
        key = (path / "key").read_bytes().strip()
        settings = run.get("settings", {})
        spec = TopologySpec(kind=settings.get("topology", "hash-rings"), degree=settings.get("degree", 4))
        return _Folder(path, str(run["run"]), key, spec)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not the folder of a run: {error}") from None


def _enter(stack: ExitStack, path: Path) -> tuple[Visit, Transport, _Folder]:
    """Open the sockets of a visitor to the run in ``path``."""
    folder = _read_folder(path)
    settings = Settings(
        run=folder.run, name=f"visitor.{secrets.token_hex(6)}", key=folder.key, transport=TransportSettings()
    )
    identity = Identity(settings, Layout((Entry("none", (1,), "float32"),), (), 1), time.time_ns())
    try:
        transport = stack.enter_context(open_transport(identity.node, settings.transport))
    except StartError as error:
        raise UsageError(str(error)) from None
    return Visit(transport, identity), transport, folder
