"""The bus for programs that have their own asyncio loop: publish, and iterate over what arrives.

::

    async with Bus(settings, layout) as bus:
        outcomes = await bus.publish(indices, values)      # {"local.1": True, ...}
        async for frame in bus.frames():                   # newest state of the blocks a neighbour shared
            x[frame.selection.indices] += 0.5 * (frame.selection.values - x[frame.selection.indices])
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.blocks import Entry, Layout, choose_block
from dagrad_bus.bus.engine import Engine
from dagrad_bus.codec import Value, to_wire
from dagrad_bus.errors import BusClosed, UsageError
from dagrad_bus.events import Arrival, LinkState, MemberEvent, Outgoing, Selection
from dagrad_bus.ids import JobId, NodeId, Step, derive_node_id
from dagrad_bus.rendezvous import Rendezvous
from dagrad_bus.settings import Settings
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.wire import Kind, Record

_VALUES = {"f32": Value.F32, "f16": Value.F16, "bf16": Value.BF16, "int8": Value.INT8}


class Bus:
    """One worker's end of the bus, for coroutines. Use it as an async context manager, on any loop.

    Args:
        settings: who this worker is and whom it talks to; :func:`dagrad_bus.from_environment` reads ``DAGRAD_*``.
        layout: what is exchanged, or just the number of float32 elements of a flat vector.
        rendezvous: where addresses are told beside the folders of the settings.
    """

    def __init__(self, settings: Settings, layout: Layout | int, rendezvous: Rendezvous | None = None) -> None:
        if isinstance(layout, int):
            block = settings.exchange.block or choose_block(layout)
            layout = Layout((Entry("vector", (layout,), "float32"),), (), block)
        self.layout = layout
        self._engine = Engine(settings, layout, rendezvous)
        self._engine.outlook.on_change = self._changed
        self._jobs = 0
        self._waiting: dict[tuple[JobId, NodeId], asyncio.Future[bool]] = {}
        self._news = asyncio.Event()
        self._closed = False

    async def __aenter__(self) -> Self:
        """Start.

        Raises:
            StartError: an address cannot be bound, or the run folder cannot be written.
        """
        await self._engine.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Leave: open publishes end with *lost*, iterations over frames end."""
        self._closed = True
        self._news.set()
        try:
            return await self._engine.__aexit__(kind, error, trace)
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_result(False)

    def _changed(self) -> None:
        outcomes = self._engine.outlook.outcomes
        while outcomes:
            outcome = outcomes.popleft()
            future = self._waiting.pop((outcome.job, outcome.peer), None)
            if future is not None and not future.done():
                future.set_result(outcome.accepted)
        self._news.set()

    def _check(self) -> None:
        if self._closed:
            raise BusClosed("this bus was left: enter a new one")
        if self._engine.outlook.failure is not None:
            raise self._engine.outlook.failure

    @property
    def links(self) -> tuple[LinkState, ...]:
        """The outgoing links, one a neighbour; a ``ready`` one takes a frame now."""
        return self._engine.outlook.states

    @property
    def metrics(self) -> dict[str, object]:
        """Counters, gauges and histograms as they are now."""
        return dict(self._engine.metrics.snapshot())

    def connect(self, name: str, inbox: str, beat: str) -> None:
        """Open the connection to member ``name``, where there is no run folder to find its address in."""
        self._engine.connect(derive_node_id(self._engine.settings.run, name), inbox, beat)

    @property
    def members(self) -> dict[str, str]:
        """Names of all members ever heard of, with what is believed of each.

        One of expected, alive, suspect, dead, left.
        """
        membership = self._engine.node.membership
        return {record.name: describe(record) for record in membership.table.values()}

    @property
    def neighbours(self) -> tuple[str, ...]:
        """Names of this worker's neighbours in the graph."""
        node = self._engine.node
        return tuple(node.membership.name_of(peer) for peer in node.neighbours)

    @property
    def spec(self) -> TopologySpec:
        """The graph in force."""
        return self._engine.node.membership.spec

    def rewire(self, spec: TopologySpec) -> None:
        """Publish a graph; it must supersede :attr:`spec`. Links of the old one live on until those of the new are up."""
        self._check()
        self._engine.rewire(spec)

    async def events(self) -> AsyncIterator[MemberEvent]:
        """Yield what happens to members, until the bus is left; a slow reader misses the oldest."""
        waiting = self._engine.outlook.events
        while not self._closed:
            self._check()
            if waiting:
                yield waiting.popleft()
            else:
                await self._next()

    @property
    def endpoints(self) -> tuple[str, str]:
        """This worker's inbox and beat endpoints, for others to connect to."""
        return self._engine.transport.inbox, self._engine.transport.beat

    def _id_of(self, name: str) -> NodeId:
        peer = derive_node_id(self._engine.settings.run, name)
        if self._engine.node.membership.record_of(peer) is None:
            raise UsageError(f"{name!r} is no member of run {self._engine.settings.run!r}")
        return peer

    async def wait_ready(self, links: int = 1) -> None:
        """Return once at least ``links`` links take frames; put a timeout around it."""
        while sum(link.ready for link in self.links) < links:
            self._check()
            await self._next()

    async def _next(self) -> None:
        self._news.clear()
        await self._news.wait()

    async def publish(
        self,
        indices: NDArray[np.int64],
        values: NDArray[np.float32],
        *,
        to: Iterable[str] | None = None,
        step: int = 0,
        rate: float = 0.0,
    ) -> dict[str, bool]:
        """Send values of some blocks, encoded once, and wait for what became of them. Nothing is sent twice.

        Args:
            indices: int64[n], strictly rising block numbers.
            values: float32[n, B], finite; what lies beyond the end of the vector is zero.
            to: names of neighbours; None means those whose link is ready.
            step: this worker's step at which the values were read.
            rate: its steps a second.

        Returns:
            For each link whether the neighbour took the frame; False also where there was no credit.

        Raises:
            UsageError: values that do not fit the layout.
            BusClosed: the bus was left.
        """
        self._check()
        if values.shape != (len(indices), self.layout.block):
            raise UsageError(f"values are {values.shape}: needs ({len(indices)}, {self.layout.block})")
        peers = [link.peer for link in self.links if link.ready] if to is None else [self._id_of(name) for name in to]
        if not peers or not len(indices):
            return {}
        value = _VALUES[self._engine.settings.exchange.wire]
        selection = Selection(indices, *to_wire(values, value))
        self._jobs += 1
        job = JobId(self._jobs)
        futures = {peer: self._engine.loop.create_future() for peer in peers}
        self._waiting.update({(job, peer): future for peer, future in futures.items()})
        now = time.monotonic()
        self._engine.publish(Outgoing(job, tuple(peers), Kind.STATE, value, selection, Step(step), rate, now))
        name_of = self._engine.node.membership.name_of
        return {name_of(peer): await future for peer, future in futures.items()}

    async def frames(self) -> AsyncIterator[Arrival]:
        """Yield frames as they arrive, until the bus is left. A slow reader gets less credit, not a longer queue."""
        mailbox = self._engine.mailbox
        while not self._closed:
            self._check()
            arrival = mailbox.take_one()
            if arrival is None:
                await self._next()
                continue
            self._engine.drained()
            yield arrival


def describe(record: Record) -> str:
    """Return what is believed of a member, in one word."""
    return record.state.name.lower() if record.epoch else "expected"
