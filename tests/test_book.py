from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from dagrad_bus.blocks import Stripe, choose
from dagrad_bus.book import FIRST_WINDOW, Book, DirtySet
from dagrad_bus.events import LinkState, Outcome
from dagrad_bus.ids import JobId, NodeId

PEERS = [NodeId(bytes([i]) * 16) for i in range(4)]
BLOCKS = 11


def as_indices(values: list[int] | range) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def up(*peers: NodeId, generation: int = 1) -> tuple[LinkState, ...]:
    return tuple(LinkState(peer, ready=True, generation=generation) for peer in peers)


class BookMachine(RuleBasedStateMachine):
    """The book beside an oracle that knows what every receiver really has; versions are job numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book(BLOCKS)
        self.job = 0
        self.generation: dict[NodeId, int] = {}
        self.born = 0
        self.addressed: dict[NodeId, list[int]] = {}
        self.accepted: dict[NodeId, list[int]] = {}
        self.dirty: dict[NodeId, set[int]] = {}
        self.in_flight: dict[NodeId, dict[int, list[int]]] = {}
        self.void: list[tuple[NodeId, int]] = []

    def sync(self) -> None:
        self.book.sync(LinkState(peer, ready=True, generation=born) for peer, born in self.generation.items())

    def forget(self, peer: NodeId) -> None:
        self.void += [(peer, job) for job in self.in_flight.pop(peer, {})]
        for table in (self.generation, self.addressed, self.accepted, self.dirty):
            table.pop(peer, None)

    @rule(peer=st.sampled_from(PEERS))
    def link_comes_up_anew(self, peer: NodeId) -> None:
        self.forget(peer)  # the book sees no state in between
        self.born += 1
        self.generation[peer] = self.born
        self.addressed[peer], self.accepted[peer] = [0] * BLOCKS, [0] * BLOCKS
        self.dirty[peer], self.in_flight[peer] = set(), {}
        self.sync()

    @rule(peer=st.sampled_from(PEERS))
    def link_closes(self, peer: NodeId) -> None:
        self.forget(peer)
        self.sync()

    @rule(
        selected=st.sets(st.sampled_from(PEERS)),
        stalled=st.sets(st.sampled_from(PEERS)),
        top=st.lists(st.integers(0, BLOCKS - 1), unique=True),
        size=st.integers(0, 3),
        limit=st.integers(0, 4),
        taken=st.booleans(),
    )
    def plan(
        self, selected: set[NodeId], stalled: set[NodeId], top: list[int], size: int, limit: int, taken: bool
    ) -> None:
        meant = [peer for peer in PEERS if peer in selected and peer in self.generation]
        ready = [peer for peer in meant if peer not in stalled]
        if not ready:
            return
        stripe = self.book.stripe(ready, size)
        repeats = self.book.dirty_blocks(ready, limit)
        owed = {block for peer in ready for block in self.dirty[peer]}
        assert set(repeats.tolist()) <= owed
        assert len(set(repeats.tolist())) == repeats.size == min(limit, len(owed))
        if not taken:  # no room at the bus: as if nothing had been planned
            return
        chosen = choose(as_indices(top), stripe.indices(), repeats, size + limit + 3)
        self.job += 1
        self.book.planned(JobId(self.job), ready, meant, chosen, stripe)
        for peer in meant:
            for block in chosen.tolist():
                self.addressed[peer][block] = self.job
            if peer in ready:
                self.in_flight[peer][self.job] = chosen.tolist()
                self.dirty[peer] -= set(chosen.tolist())
            else:
                self.dirty[peer] |= set(chosen.tolist())

    @precondition(lambda self: any(self.in_flight.values()))
    @rule(data=st.data(), accepted=st.booleans())
    def outcome(self, data: st.DataObject, accepted: bool) -> None:
        peer = data.draw(st.sampled_from([peer for peer in PEERS if self.in_flight.get(peer)]))
        job = data.draw(st.sampled_from(sorted(self.in_flight[peer])))
        self.book.resolved(Outcome(JobId(job), peer, accepted))
        for block in self.in_flight[peer].pop(job):
            if accepted:
                self.accepted[peer][block] = max(self.accepted[peer][block], job)
            else:
                self.dirty[peer].add(block)

    @precondition(lambda self: self.void)
    @rule(accepted=st.booleans())
    def outcome_of_a_former_generation(self, accepted: bool) -> None:
        peer, job = self.void.pop()
        self.book.resolved(Outcome(JobId(job), peer, accepted))

    @invariant()
    def the_newest_version_addressed_is_dirty_in_flight_or_accepted(self) -> None:
        for peer in self.generation:
            dirty = set(self.book.dirty_of(peer).tolist())
            for block, version in enumerate(self.addressed[peer]):
                assert (
                    version == 0
                    or block in dirty
                    or block in self.in_flight[peer].get(version, [])
                    or self.accepted[peer][block] >= version
                )

    @invariant()
    def the_book_holds_exactly_what_its_table_says(self) -> None:
        for peer in PEERS:
            assert set(self.book.dirty_of(peer).tolist()) == self.dirty.get(peer, set())
            assert list(self.book.jobs_in_flight(peer)) == sorted(self.in_flight.get(peer, {}))
        assert self.book.dirty_count == sum(map(len, self.dirty.values()))


BookMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBookKeepsItsInvariant = BookMachine.TestCase


@pytest.mark.parametrize("fanout", [1, 4])
def test_every_block_crosses_each_link_within_one_stripe_period(fanout: int) -> None:
    book = Book(BLOCKS)
    book.sync(up(*PEERS))
    seen: dict[NodeId, list[int]] = {peer: [] for peer in PEERS}
    for job in range(1, 100):
        ready = [PEERS[(job * 7 + i) % 4] for i in range(fanout)]
        stripe = book.stripe(ready, 3)
        book.planned(JobId(job), ready, ready, stripe.indices(), stripe)
        for peer in ready:
            seen[peer] += stripe.indices().tolist()
    for peer in PEERS:
        assert all(set(seen[peer][i : i + 12]) == set(range(BLOCKS)) for i in range(0, len(seen[peer]) - 12, 3))


@given(st.lists(st.sets(st.sampled_from(range(4)), min_size=1), min_size=1, max_size=6), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_any_sets_of_ready_links_get_every_block_within_links_times_the_stripe_period(
    pattern: list[set[int]], size: int
) -> None:
    total = 12
    book = Book(total)
    book.sync(up(*PEERS))
    bound = 4 * -(-total // size)
    last_frame: dict[NodeId, list[int]] = {peer: [0] * total for peer in PEERS}
    frames = dict.fromkeys(PEERS, 0)
    for job, members in enumerate(pattern * 60, 1):  # schedules that repeat are the ones that starve
        ready = [PEERS[i] for i in sorted(members)]
        stripe = book.stripe(ready, size)
        book.planned(JobId(job), ready, ready, stripe.indices(), stripe)
        for peer in ready:
            frames[peer] += 1
            for block in stripe.indices().tolist():
                last_frame[peer][block] = frames[peer]
            assert frames[peer] - min(last_frame[peer]) <= bound


def test_a_link_cannot_be_starved_by_links_that_advance_behind_its_back() -> None:
    total = 12  # even, so that what b and c skip alone is always the same half
    book = Book(total)
    book.sync(up(*PEERS))
    seen: set[int] = set()
    a, b, c = PEERS[2], PEERS[0], PEERS[1]
    for job in range(1, 4 * 4 * total):
        ready = [[b], [a, c], [c], [a, b]][job % 4]
        stripe = book.stripe(ready, 1)
        book.planned(JobId(job), ready, ready, stripe.indices(), stripe)
        if a in ready:
            seen |= set(stripe.indices().tolist())
    assert seen == set(range(total))


def test_a_new_link_goes_on_where_the_last_stripe_ended() -> None:
    book = Book(BLOCKS)
    book.sync(up(PEERS[0]))
    book.planned(JobId(1), PEERS[:1], PEERS[:1], as_indices(range(4)), book.stripe(PEERS[:1], 4))
    book.sync(up(PEERS[0], PEERS[1]))
    assert book.frontier == 4
    assert book.stripe(PEERS[1:2], 3) == Stripe(4, 3, BLOCKS)
    assert Book(BLOCKS, frontier=book.frontier).stripe((), 2) == Stripe(4, 2, BLOCKS)


def test_a_link_not_selected_is_owed_nothing_and_one_without_credit_the_frame() -> None:
    book = Book(BLOCKS)
    book.sync(up(*PEERS[:3]))
    book.planned(JobId(1), PEERS[:1], PEERS[:2], as_indices([2, 5]))
    assert [book.dirty_of(peer).tolist() for peer in PEERS] == [[], [2, 5], [], []]


def test_dirty_blocks_come_round_robin_so_that_a_small_limit_starves_no_link() -> None:
    book = Book(BLOCKS)
    book.sync(up(*PEERS[:3]))
    book.planned(JobId(1), PEERS[3:], PEERS[:1], as_indices([0, 1, 2, 3]))
    book.planned(JobId(2), PEERS[3:], PEERS[1:2], as_indices([6]))
    book.planned(JobId(3), PEERS[3:], PEERS[2:3], as_indices([9]))
    first = [book.dirty_blocks(PEERS[:3], 1).tolist() for _ in range(6)]
    assert {block for blocks in first for block in blocks} >= {6, 9}
    assert book.dirty_blocks(PEERS[:3], 10).size == 6


def test_dirty_blocks_of_frames_that_are_never_taken_or_always_lost_all_get_their_turn() -> None:
    book = Book(BLOCKS)
    book.sync(up(PEERS[0]))
    book.planned(JobId(1), (), PEERS[:1], as_indices(range(BLOCKS)))
    assert {int(book.dirty_blocks(PEERS[:1], 1)[0]) for _ in range(BLOCKS)} == set(range(BLOCKS))
    sent: set[int] = set()
    for job in range(2, 2 + BLOCKS):
        blocks = book.dirty_blocks(PEERS[:1], 1)
        book.planned(JobId(job), PEERS[:1], PEERS[:1], blocks)
        book.resolved(Outcome(JobId(job), PEERS[0], accepted=False))
        sent |= set(blocks.tolist())
    assert sent == set(range(BLOCKS))


def test_the_search_for_dirty_blocks_is_cyclic_over_growing_windows() -> None:
    total = 9 * FIRST_WINDOW
    dirty = DirtySet(total)
    marked = as_indices([0, 1, FIRST_WINDOW - 1, FIRST_WINDOW, 6 * FIRST_WINDOW, total - 1])
    dirty.add(marked)
    assert dirty.peek(10).tolist() == marked.tolist()
    dirty.pass_by(FIRST_WINDOW)
    assert dirty.peek(10).tolist() == [*marked[4:], *marked[:4]]
    assert dirty.peek(3).tolist() == [*marked[4:], 0]
    dirty.pass_by(total - 1)
    assert dirty.peek(1).tolist() == [0]
    dirty.remove(marked)
    assert (len(dirty), dirty.peek(5).size) == (0, 0)


def test_a_book_of_many_blocks_costs_nothing_while_nothing_is_dirty() -> None:
    tracemalloc.start()
    try:
        book = Book(25_000_000)
        book.sync(up(*PEERS))
        for job in range(1, 200):
            stripe = book.stripe(PEERS, 16)
            chosen = choose(as_indices([]), stripe.indices(), book.dirty_blocks(PEERS, 16), 32)
            book.planned(JobId(job), PEERS, PEERS, chosen, stripe)
            for peer in PEERS:
                book.resolved(Outcome(JobId(job), peer, accepted=True))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_jobs_stand_in_flight_in_the_order_planned() -> None:
    book = Book(BLOCKS)
    book.sync(up(PEERS[0]))
    for job in (1, 2, 3):
        book.planned(JobId(job), PEERS[:1], PEERS[:1], as_indices([job]))
    assert all(first < second for first, second in pairwise(book.jobs_in_flight(PEERS[0])))
    assert book.jobs_in_flight(PEERS[3]) == ()
