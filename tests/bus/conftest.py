"""Engines on loopback, and a puppet that holds the key and says whatever it is told to."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.engine import Engine
from dagrad_bus.bus.identity import Identity
from dagrad_bus.codec import Value, to_wire
from dagrad_bus.events import Outgoing, Selection
from dagrad_bus.ids import EdgeId, JobId, NodeId, Step, derive_edge_id
from dagrad_bus.settings import Settings, TransportSettings
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
        self.hello = replace(
            identity.hello(f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port}"), wanted=True, name="puppet"
        )
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
