"""A virtual training thread: the real book, mailbox and choice of blocks, on a replica of a few numbers.

Each block has two elements. The first is the number of the job that read it, so a receiver's copy of it, taken with
weight 1, is the newest version it got: the block-version invariant becomes ``==``. The second is the replica: it is
moved by noise and mixed by the real rule, so it tells whether replicas reconverge.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.blocks import Entry, Layout, choose, frame_budget, top_blocks
from dagrad_bus.book import Book
from dagrad_bus.codec import Value
from dagrad_bus.events import Arrival, LinkState, Outgoing, Selection
from dagrad_bus.ids import JobId, NodeId, Step
from dagrad_bus.messages import Kind
from dagrad_bus.mixing import Version, mix_versions, version_weight
from dagrad_bus.peers import RandomChoice
from dagrad_bus.sim.worker import Process
from dagrad_bus.sim.world import World

BLOCKS = 32
LAYOUT = Layout((Entry("x", (2 * BLOCKS,), "float32"),), (), 2)
DENSITY, REFRESH = 0.25, 0.25
BUDGET, STRIPE = frame_budget(DENSITY, BLOCKS, REFRESH)
PERIOD = -(-BLOCKS // STRIPE)
"""Exchanges in which a link sees every block."""
JOBS_A_LIFE = 1 << 15
"""Job numbers of one life: all lives of a run stay below 2**24, where f32 is exact."""
WEIGHT = version_weight(0.65, 0.0, 1.0, 1.0)


class Bookings:
    """What each link was addressed with, beside the book: job numbers by block."""

    def __init__(self) -> None:
        self.by_peer: dict[NodeId, tuple[object, NDArray[np.int64]]] = {}

    def of(self, peer: NodeId, link_book: object) -> NDArray[np.int64]:
        """Return int64[nB] of the link's present book, zeros when it is new."""
        known = self.by_peer.get(peer)
        if known is None or known[0] is not link_book:
            known = self.by_peer[peer] = (link_book, np.zeros(BLOCKS, np.int64))
        return known[1]


class Trainer:
    """Steps now and then, on the world's clock.

    Args:
        world: time and chance.
        process: its worker.
        period: seconds a step.
        fanout: links that get each frame; 0: all.
    """

    def __init__(self, world: World, process: Process, period: float, fanout: int = 0) -> None:
        life = process.life
        self.world, self.process = world, process
        self.period = period
        self.fanout = fanout
        self.slowness = 1.0
        """Steps take so many times longer: a slow reader."""
        self.stalled_until = 0.0
        self.on_step: Callable[[Trainer], None] = lambda trainer: None
        self.frozen = False
        """No local updates any more."""
        self.steps = 0
        self.exchanges = 0
        self.sent: Counter[NodeId] = Counter()
        """Frames handed over for each peer."""
        self.book = Book(BLOCKS)
        self.bookings = Bookings()
        self.plans: dict[int, NDArray[np.int64]] = {}
        """Blocks of each job of this life."""
        rng = np.random.default_rng(world.fork(life))
        self._rng = rng
        self._choice = RandomChoice(rng)
        self._next = life * JOBS_A_LIFE + 1
        self.x = rng.standard_normal(BLOCKS).astype(np.float32)
        self._anchor = self.x.copy()
        self._links: tuple[LinkState, ...] = ()
        world.after(period * world.rng.random(), self.step)

    def step(self, _: object = None, __: object = None) -> None:
        """Take what waits, mix it, move, plan a frame; then sleep."""
        process, world = self.process, self.world
        if process.plug.dead or process.is_leaving:
            return
        if not process.plug.paused and world.now >= self.stalled_until:
            self._work()
        world.after(self.period * self.slowness * (0.9 + 0.2 * world.rng.random()), self.step)

    def _work(self) -> None:
        process = self.process
        node, now = process.node, process.now()
        arrivals = process.mailbox.take()
        self._receive()
        if arrivals:
            node.drained(now)
            self._mix(arrivals)
        if not self.frozen:
            self.x += 0.02 * self._rng.standard_normal(BLOCKS).astype(np.float32)
        self._publish(now)
        self.steps += 1
        node.outlook.progress = (Step(self.steps), 1 / self.period, now)
        process.settle()
        self.on_step(self)

    def _receive(self) -> None:
        outlook = self.process.node.outlook
        self._links = outlook.states
        self.book.sync(self._links)
        while outlook.outcomes:
            self.book.resolved(outlook.outcomes.popleft())
        outlook.requests.clear()

    def _mix(self, arrivals: tuple[Arrival, ...]) -> None:
        versions = [
            Version(a.selection.indices, np.asarray(a.selection.values[:, 1:], np.float32), WEIGHT) for a in arrivals
        ]
        mix_versions(self.x, versions, block=1, clip=math.inf)

    def _publish(self, now: float) -> None:
        ready = tuple(link.peer for link in self._links if link.ready)
        selected = tuple(link.peer for link in self._links)
        if not ready:
            return
        if self.fanout:
            selected = ready = self._choice.choose(ready, self.fanout)
        self.exchanges += 1
        book = self.book
        stripe = book.stripe(ready, STRIPE)
        dirty = book.dirty_blocks(ready, min(BUDGET // 2, BUDGET - STRIPE))
        top = top_blocks(np.square(self.x - self._anchor), BUDGET)
        indices = choose(top, stripe.indices(), dirty, BUDGET)
        job, self._next = self._next, self._next + 1
        self._anchor[indices] = self.x[indices]
        self.plans[job] = indices
        self.sent.update(ready)
        book.planned(JobId(job), ready, selected, indices, stripe)
        self.note_addressed(job, selected, indices)
        values = np.empty((len(indices), 2), np.float32)
        values[:, 0] = job
        values[:, 1] = self.x[indices]
        self.process.publish(
            Outgoing(
                JobId(job), ready, Kind.STATE, Value.F32, Selection(indices, values), Step(self.steps), 1.0, now,
                stripe.size, len(dirty),
            )
        )  # fmt: skip

    def note_addressed(self, job: int, selected: tuple[NodeId, ...], indices: NDArray[np.int64]) -> None:
        """Keep what the invariant calls *addressed*."""
        for peer in selected:
            link_book = self.book._links.get(peer)
            if link_book is not None:
                self.bookings.of(peer, link_book)[indices] = job
