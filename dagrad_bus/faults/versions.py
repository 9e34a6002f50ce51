"""A replica made to be checked: every block carries the number of the frame it was planned for.

Sixteen elements a block. The first eight are a stamp, exact in float32; the last eight are the replica proper:

=======  ==========================================================================================
element  content
=======  ==========================================================================================
0        version: the sender's job number; 0 in a sweep
1        index of the sender among the members
2        block number
3        tag of the sender's process (its boot epoch, folded)
4        check over elements 0 to 3
5        the newest step known of worker ``block % members``, by whatever way it came
6        check over elements 5 and 8 to 15
7        when the values were read: ms of the monotonic clock, modulo ``CLOCK``; one host, one clock
8 - 15   values that are mixed
=======  ==========================================================================================

The stamps turn the block-version invariant into an equality: what the receiver last saw of each block against the
newest version its sender addressed to it. What arrives twice, from somebody else, or changed, is counted.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.blocks import Entry, Layout, Stripe, choose, top_blocks
from dagrad_bus.book import Book
from dagrad_bus.codec import Value, to_wire
from dagrad_bus.events import Arrival, LinkState, Outcome, Outgoing, Selection
from dagrad_bus.ids import JobId, NodeId, Step
from dagrad_bus.mixing import AgeTracker, StepClock, Version, arrival_age, mix_versions, version_weight
from dagrad_bus.wire import Kind

WIDTH, STAMP = 16, 8
CLOCK = 1 << 22
"""Milliseconds after which element 7 begins anew, over an hour."""
W0 = 0.65
"""Weight of one version of typical age."""
AGES = 4096
"""Newest errors of ages that are kept."""

Rows = NDArray[np.float32]


def layout_of(blocks: int) -> Layout:
    """Return the layout of ``blocks`` blocks."""
    return Layout((Entry("versions", (blocks * WIDTH,), "float32"),), (), WIDTH)


def clock_ms() -> int:
    """Return the host's monotonic clock as element 7 carries it."""
    return int(time.monotonic() * 1000) % CLOCK


def stamp_check(rows: Rows) -> NDArray[np.int64]:
    """Return what element 4 must be."""
    version, sender, block, tag = rows[:, :4].astype(np.int64).T
    check: NDArray[np.int64] = (version * 31 + sender * 8191 + block * 127 + tag * 7 + 1) % (1 << 20)
    return check


def value_check(rows: Rows) -> NDArray[np.int64]:
    """Return what element 6 must be."""
    words = np.ascontiguousarray(rows[:, [5, *range(STAMP, WIDTH)]]).view(np.uint32)
    mixed = words * np.uint32(2_654_435_761) >> np.uint32(10)  # the low bits of a float32 are often all zero
    check: NDArray[np.int64] = (mixed.astype(np.int64).sum(axis=1) + 1) % (1 << 22)
    return check


@dataclass(slots=True, eq=False)
class Seen:
    """What one process of a peer has sent so far."""

    tag: int
    versions: NDArray[np.int64]
    newest: int = 0


@dataclass(slots=True, eq=False)
class Addressed:
    """What this worker meant a link to have, since it came up as it is now."""

    generation: int
    versions: NDArray[np.int64]


@dataclass(eq=False)
class Replica:
    """Vector, book and ledger of one worker.

    Args:
        index: its place among the members.
        members: names; node ids in the same order.
        tag: of this process, below 2**20.
        seed: of its local updates.
        blocks: nB.
        frame: T, blocks of a frame, the stripe included.
        stripe: blocks that go round robin.
    """

    index: int
    nodes: Sequence[NodeId]
    tag: int
    seed: int
    blocks: int = 1024
    frame: int = 128
    stripe: int = 8
    counts: Counter[str] = field(default_factory=Counter[str])
    age_errors: list[float] = field(default_factory=list[float])
    quiet: bool = False
    """Nothing new is addressed; what is owed goes on being sent."""
    frozen: bool = False
    """No local updates: only the exchange moves the replica."""

    def __post_init__(self) -> None:
        self.layout = layout_of(self.blocks)
        self.values = np.zeros((self.blocks, WIDTH - STAMP), np.float32)
        self.anchor = self.values.copy()
        self.clocks = np.zeros(len(self.nodes), np.int64)
        self.book = Book(self.blocks)
        self.seen: dict[NodeId, Seen] = {}
        self.addressed: dict[NodeId, Addressed] = {}
        self.jobs = 0
        self.taken: Counter[NodeId] = Counter()
        self.sent: Counter[NodeId] = Counter()
        self.ages = AgeTracker()
        self.pace = StepClock()
        self._rng = np.random.default_rng(self.seed)
        self._number = {node: at for at, node in enumerate(self.nodes)}

    # What comes in ---------------------------------------------------------------------------------------------

    def note_links(self, links: Sequence[LinkState], outcomes: Sequence[Outcome]) -> None:
        """Take over the links and the outcomes of a view."""
        self.book.sync(links)
        for outcome in outcomes:
            self.book.resolved(outcome)
        current = {link.peer: link.generation for link in links}
        for peer in [peer for peer in self.addressed if peer not in current]:
            del self.addressed[peer]
        for peer, generation in current.items():
            known = self.addressed.get(peer)
            if known is None or known.generation != generation:
                self.addressed[peer] = Addressed(generation, np.zeros(self.blocks, np.int64))

    def receive(self, arrivals: Sequence[Arrival]) -> None:
        """Check frames and mix them in."""
        now = time.monotonic()
        versions: list[Version] = []
        for arrival in arrivals:
            self.taken[arrival.peer] += 1
            rows = np.asarray(arrival.selection.values, np.float32)
            if not self._check(arrival, rows):
                continue
            self.counts["frames"] += 1
            age = arrival_age(arrival, now, self.pace.rate)
            self.ages.observe([age])
            true_ms = (clock_ms() - float(rows[0, 7])) % CLOCK
            self.age_errors.append(abs((arrival.transit + now - arrival.arrived_at) * 1000 - true_ms))
            del self.age_errors[:-AGES]
            versions.append(
                Version(arrival.selection.indices, rows[:, STAMP:], version_weight(W0, age, self.ages.tau, 1.0))
            )
            known = arrival.selection.indices % len(self.nodes)
            np.maximum.at(self.clocks, known, rows[:, 5].astype(np.int64))
        if versions:
            flat = self.values.reshape(-1)
            mix_versions(flat, versions, block=WIDTH - STAMP, clip=math.inf)

    def _check(self, arrival: Arrival, rows: Rows) -> bool:
        """Hold a frame against what an honest sender would have sent, once."""
        wrong = (rows[:, 4] != stamp_check(rows)) | (rows[:, 6] != value_check(rows))
        wrong |= rows[:, 2] != arrival.selection.indices
        if wrong.any():
            self.counts["corrupt"] += int(np.count_nonzero(wrong))
            return False
        if rows[0, 1] != self._number.get(arrival.peer, -1):
            self.counts["foreign"] += 1
            return False
        seen = self._seen(arrival.peer, int(rows[0, 3]))
        version = int(rows[0, 0])
        if arrival.kind is Kind.STATE:
            if version <= seen.newest:
                self.counts["twice"] += 1
                return False
            seen.newest = version
            seen.versions[arrival.selection.indices] = version
        return True

    def _seen(self, peer: NodeId, tag: int) -> Seen:
        known = self.seen.get(peer)
        if known is None or known.tag != tag:
            known = self.seen[peer] = Seen(tag, np.zeros(self.blocks, np.int64))
        return known

    # What goes out ---------------------------------------------------------------------------------------------

    def update(self, step: int) -> None:
        """Make one local step: some blocks move."""
        self.clocks[self.index] = step
        if not self.frozen:
            moved = self._rng.integers(0, self.blocks, self.frame // 2)
            self.values[moved] += self._rng.standard_normal((len(moved), WIDTH - STAMP)).astype(np.float32)

    def plan(self, links: Sequence[LinkState], step: int) -> Outgoing | None:
        """Return the next frame; None where no link is ready, or in quiet where nothing is owed."""
        selected = tuple(sorted(link.peer for link in links))
        ready = tuple(sorted(link.peer for link in links if link.ready))
        if not ready:
            return None
        stripe = self.book.stripe(ready, 0 if self.quiet else self.stripe)
        dirty = self.book.dirty_blocks(ready, self.frame // 2)
        dirty = dirty[(dirty - stripe.start) % stripe.total >= stripe.size]
        indices = choose(self._top(), stripe.indices(), dirty, self.frame + self.stripe)
        if not len(indices):
            return None
        return self._ship(indices, ready, selected, stripe, step)

    def _top(self) -> NDArray[np.int64]:
        if self.quiet:
            return np.empty(0, np.int64)
        return top_blocks(np.square(self.values - self.anchor).sum(axis=1), self.frame + self.stripe)

    def _ship(
        self,
        indices: NDArray[np.int64],
        ready: tuple[NodeId, ...],
        selected: tuple[NodeId, ...],
        stripe: Stripe,
        step: int,
    ) -> Outgoing:
        self.jobs += 1
        job = JobId(self.jobs)
        rows = self.rows(indices, self.jobs)
        self.anchor[indices] = self.values[indices]
        addressed = ready if self.quiet else selected  # repeats only: a link that is not ready is owed nothing new
        self.book.planned(job, ready, addressed, indices, stripe)
        for peer in addressed:
            if peer in self.addressed:
                self.addressed[peer].versions[indices] = self.jobs
        self.sent.update(ready)
        chosen = Selection(indices, *to_wire(rows, Value.F32))
        rate = self.pace.rate
        return Outgoing(job, ready, Kind.STATE, Value.F32, chosen, Step(step), rate, time.monotonic(), stripe.size)

    def refused(self, outgoing: Outgoing) -> None:
        """Take back a frame that the bus had no room for."""
        for peer in outgoing.links:
            self.book.resolved(Outcome(outgoing.job, peer, accepted=False))

    def rows(self, indices: NDArray[np.int64], version: int) -> Rows:
        """Return stamped rows of some blocks, float32[n, 16]."""
        rows = np.empty((len(indices), WIDTH), np.float32)
        rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] = version, self.index, indices, self.tag
        rows[:, 4] = stamp_check(rows)
        rows[:, 5] = self.clocks[indices % len(self.nodes)]
        rows[:, 7] = clock_ms()
        rows[:, STAMP:] = self.values[indices]
        rows[:, 6] = value_check(rows)
        return rows

    @property
    def owed(self) -> int:
        """Blocks dirty or in flight, summed over the links."""
        flying = sum(len(self.book.jobs_in_flight(peer)) for peer in self.addressed)
        return self.book.dirty_count + flying
