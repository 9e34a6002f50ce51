"""Engines on loopback, and a puppet that holds the key and says whatever it is told to."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.engine import Engine
from dagrad_bus.bus.identity import Identity
from dagrad_bus.bus.node import Node
from dagrad_bus.codec import Value, to_wire
from dagrad_bus.events import Outgoing, Selection
from dagrad_bus.ids import EdgeId, JobId, NodeId, Step, derive_edge_id
from dagrad_bus.link import Assembled
from dagrad_bus.mailbox import Mailbox
from dagrad_bus.settings import LinkSettings, Settings, TransportSettings
from dagrad_bus.wire import Kind, Message, pack, parse

LAYOUT = Layout((Entry("x", (1 << 16,), "float32"),), (), 1)
Part = bytes | memoryview


@pytest.fixture
def layout() -> Layout:
    """What the engines exchange: 65 536 floats in blocks of one."""
    return LAYOUT


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    """Return what makes the settings of worker number ``index`` of ``count``."""

    def make(index: int, count: int, **changes: Any) -> Settings:
        names = tuple(f"w{number}" for number in range(count))
        plain = Settings(
            run="test",
            name=names[index],
            members=names,
            key=b"secret",
            directory=tmp_path,
            transport=TransportSettings(codec="raw"),
        )
        return replace(plain, **changes)

    return make


@pytest.fixture
def engines(settings: Callable[..., Settings]) -> Callable[..., AbstractAsyncContextManager[list[Engine]]]:
    """Return what runs ``count`` engines, ``changes`` made to the settings of all of them."""

    @asynccontextmanager
    async def run(count: int, **changes: Any) -> AsyncGenerator[list[Engine]]:
        async with AsyncExitStack() as stack:
            made = [Engine(settings(index, count, **changes), LAYOUT) for index in range(count)]
            yield [await stack.enter_async_context(engine) for engine in made]

    return run


@pytest.fixture
def frame() -> Callable[..., Outgoing]:
    """Return what makes a frame to all neighbours, or to some."""

    def make(
        engine: Engine, job: int, blocks: Sequence[int] = (0, 1, 2), to: Sequence[NodeId] | None = None
    ) -> Outgoing:
        indices = np.array(blocks, dtype=np.int64)
        values = np.full((len(blocks), 1), job, dtype=np.float32)
        chosen = Selection(indices, *to_wire(values, Value.F32))
        links = engine.neighbours if to is None else tuple(to)
        return Outgoing(JobId(job), links, Kind.STATE, Value.F32, chosen, Step(job), 1.0, time.monotonic())

    return make


class Puppet:
    """A member by its key, with plain sockets: it sends what it is told, and keeps what it is answered."""

    def __init__(self, identity: Identity, stack: ExitStack) -> None:
        self.identity = identity
        self.ctx: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        stack.callback(self.ctx.term)
        self.inbox = stack.enter_context(self.ctx.socket(zmq.ROUTER))
        self.dealer = stack.enter_context(self.ctx.socket(zmq.DEALER))
        for sock in (self.inbox, self.dealer):
            sock.set(zmq.LINGER, 0)
        port = self.inbox.bind_to_random_port("tcp://127.0.0.1")
        self.hello = replace(identity.hello(f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port}"), wanted=True)
        self._answers: list[Message] = []

    def connect(self, engine: Engine) -> EdgeId:
        """Connect to ``engine``; return the edge between the two processes."""
        self.dealer.connect(engine.transport.inbox)
        mine, other = self.identity, engine.identity
        return derive_edge_id(mine.node, mine.epoch, other.node, other.epoch)

    def say(self, *messages: Message) -> None:
        """Send messages."""
        for message in messages:
            self.dealer.send_multipart(pack(message))

    def say_parts(self, parts: Sequence[Part]) -> None:
        """Send anything."""
        self.dealer.send_multipart(list(parts))

    def answers(self) -> list[Message]:
        """Return everything that was answered so far."""
        while self.inbox.poll(0):
            self._answers.append(parse(self.inbox.recv_multipart()[1:]))
        return self._answers

    def has(self, kind: type[Message]) -> bool:
        """Whether a message of this kind was answered."""
        return any(isinstance(answer, kind) for answer in self.answers())


@pytest.fixture
def puppet() -> Generator[Callable[[Settings], Puppet]]:
    """Return what makes a puppet with a worker's settings."""
    with ExitStack() as stack:
        yield lambda settings: Puppet(Identity(settings, LAYOUT, time.time_ns()), stack)


# Workers without sockets --------------------------------------------------------------------------------

SMALL = Layout((Entry("x", (16,), "float32"),), (), 1)
TICK = 0.01


class Line:
    """One worker's port."""

    def __init__(self, hub: Hub, inbox: str, beat: str) -> None:
        self.hub, self.inbox, self.beat = hub, inbox, beat
        self.node: Node
        self.to: dict[NodeId, str] = {}
        self.ears: dict[NodeId, str] = {}
        self.dead = False
        self._routing: dict[NodeId, bytes] = {}

    def connect(self, peer: NodeId, inbox: str, beat: str | None) -> None:
        self.disconnect(peer)
        self.to[peer] = inbox
        self._routing[peer] = next(self.hub.routing)
        self.listen(peer, beat)
        found = self.hub.lines.get(inbox)
        if found is None or found.dead:
            self.hub.later(lambda: self.node.refused(peer, self.hub.now))
        else:
            self.hub.later(lambda: self.node.connection(peer, up=True, now=self.hub.now))

    def listen(self, peer: NodeId, beat: str | None) -> None:
        self.ears.pop(peer, None)
        if beat:
            self.ears[peer] = beat

    def disconnect(self, peer: NodeId) -> None:
        self.to.pop(peer, None)
        self.ears.pop(peer, None)

    def address_of(self, peer: NodeId) -> str | None:
        return self.to.get(peer)

    def send(self, peer: NodeId, message: Message) -> int:
        found = self.hub.lines.get(self.to.get(peer, ""))
        if found is None or found.dead or self.dead:
            return 0
        routing = self._routing[peer]
        self.hub.later(lambda: found.take(lambda node: node.received(routing, message, self.hub.now)))
        return 1

    def take(self, say: Callable[[Node], None]) -> None:
        """Let something arrive, if there is still somebody."""
        if not self.dead:
            say(self.node)

    def broadcast(self, message: Message) -> int:
        me = self.node.self_id
        for line in self.hub.lines.values():
            if line.ears.get(me) == self.beat and not line.dead:
                self.hub.later(partial(line.take, lambda node: node.beaten(me, message, self.hub.now)))
        return 1


@dataclass
class Hub:
    """The network: everything arrives a moment later, in order."""

    now: float = 100.0
    lines: dict[str, Line] = field(default_factory=dict[str, Line])
    _waiting: deque[Callable[[], object]] = field(default_factory=deque[Callable[[], object]])

    def __post_init__(self) -> None:
        self.routing = (number.to_bytes(25, "big") for number in itertools.count())

    def later(self, do: Callable[[], object]) -> None:
        self._waiting.append(do)

    def start(self, name: str, members: tuple[str, ...], *, epoch: int = 1, layout: Layout = SMALL, port: int = 0,
              **changes: Any) -> Line:  # fmt: skip
        port = port or 1000 + 2 * len(self.lines)
        line = Line(self, f"tcp://h:{port}", f"tcp://h:{port + 1}")
        settings = Settings(run="r", name=name, members=members, key=b"k", **changes)
        mailbox = Mailbox(LinkSettings())

        def decode(frame: Assembled) -> None:
            line.node.metrics.count("decoded")
            line.node.verdict(frame, 0, self.now)

        rng = np.random.default_rng(port)
        line.node = Node(Identity(settings, layout, epoch), line, mailbox, decode, rng, self.now)
        for other in list(self.lines.values()):  # as a run folder would
            if not other.dead and other.node.settings.name in members:
                node = other.node.self_id
                if node in line.node.neighbours:
                    line.node.contacts.reach(node, self.now, (other.inbox, other.beat))
        self.lines[line.inbox] = line
        return line

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += TICK
            for _ in range(len(self._waiting)):
                self._waiting.popleft()()
            for line in self.lines.values():
                if line.dead:
                    continue
                if self.now >= line.node.due:
                    line.node.tick(self.now)
                line.node.flush(self.now)

    def start_all(self, count: int, **changes: Any) -> list[Node]:
        """Start ``w0``, ``w1``, ... at once."""
        names = tuple(f"w{number}" for number in range(count))
        return [self.start(name, names, **changes).node for name in names]


@pytest.fixture
def hub() -> Hub:
    """A network made of lists, in virtual time."""
    return Hub()
