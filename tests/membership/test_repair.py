"""Comparing tables: what differs is exchanged, both ways, within bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.ids import NodeId, Step, derive_node_id
from dagrad_bus.membership import Base, Table, Tell
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.ledger import Ledger
from dagrad_bus.membership.repair import MOST_RECORDS, Repair
from dagrad_bus.membership.watch import Watch
from dagrad_bus.membership.wiring import Wiring, no_graphs
from dagrad_bus.messages import MAX_RECORDS, Heartbeat, MemberState, PpDigest, PpRecords, Record
from dagrad_bus.settings import BeatSettings
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.wire import pack

A, B = derive_node_id("repair", "a"), derive_node_id("repair", "b")


def alive(node: NodeId, epoch: int = 1) -> Record:
    return Record(node, epoch, 0, MemberState.ALIVE, host="h", inbox_port=1, name=node.hex()[:8])


class World:
    """One side of a comparison."""

    def __init__(self, me: NodeId, count: int = 0) -> None:
        others = [derive_node_id("repair", str(i)) for i in range(count)]
        self.me = me
        self.context = Context(alive(me), BeatSettings(), np.random.default_rng(me[0]))
        self.table = Table(Base(alive(node) for node in [A, B, *others]), 0.0)
        self.ledger = Ledger(self.context, self.table, lambda record: True)
        self.wiring = Wiring(self.context, self.table, self.ledger.rumours, TopologySpec(), no_graphs)
        self.repair = Repair(self.context, self.ledger, self.wiring, 0.0)

    def sent(self) -> list[PpDigest | PpRecords]:
        out, self.context.out = self.context.out, []
        messages = [action.message for action in out if isinstance(action, Tell)]
        for message in messages:
            assert pack(message)
        return [message for message in messages if isinstance(message, PpDigest | PpRecords)]


def exchange(a: World, b: World, now: float) -> int:
    """Compare once, carried to its end; return the number of messages."""
    a.repair.compare(b.me, now)
    sides, messages = (a, b), 0
    waiting: list[tuple[int, PpDigest | PpRecords]] = [(1, message) for message in a.sent()]
    while waiting:
        to, message = waiting.pop(0)
        messages += 1
        side, other = sides[to], sides[1 - to]
        if isinstance(message, PpDigest):
            side.repair.compared(other.me, message, now)
        else:
            assert len(message.records) <= MAX_RECORDS
            side.repair.records(other.me, message, now)
        waiting += [(1 - to, answer) for answer in side.sent()]
    return messages


def test_equal_tables_cost_one_message() -> None:
    assert exchange(World(A, 50), World(B, 50), 1.0) == 1


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(100, 400), max_size=30), st.sets(st.integers(400, 700), max_size=30))
def test_after_one_exchange_both_know_everything(to_a: set[int], to_b: set[int]) -> None:
    a, b = World(A, 8), World(B, 8)
    for side, new in ((a, to_a), (b, to_b)):
        for i in new:
            side.table.merge(alive(derive_node_id("repair", str(i))), 0.0)
    exchange(a, b, 1.0)
    assert dict(a.table) == dict(b.table) and a.table.digest == b.table.digest


def test_the_newer_spec_spreads_in_either_direction() -> None:
    spec = TopologySpec(version=3)
    for first in (True, False):
        a, b = World(A), World(B)
        (a if first else b).wiring.offer(spec, 0.0)
        exchange(a, b, 1.0)
        assert a.wiring.register == b.wiring.register == spec


def test_much_is_exchanged_in_portions_until_it_is_equal() -> None:
    a, b = World(A, 0), World(B, 2000)
    rounds = 0
    while a.table.digest != b.table.digest:
        rounds += 1
        before = len(a.table)
        exchange(a, b, float(rounds))
        assert 0 < len(a.table) - before <= MOST_RECORDS + 100
        assert rounds < 12
    assert a.context.agenda["again"] == 2.0


def test_comparing_goes_on_while_it_brings_news_but_not_for_ever() -> None:
    a = World(A)
    starts = 0
    for i in range(100):
        a.repair.records(B, PpRecords((alive(derive_node_id("repair", f"x{i}")),)), float(i))
        a.repair.again(i + 1.0)
        starts += len(a.sent())
        if not a.repair._again:
            break
    assert starts == 5


def test_three_other_digests_in_a_row_then_rarely() -> None:
    a = World(A)
    watch = Watch(B, BeatSettings(), 0.0)
    starts: list[int] = []
    for beat in range(1, 200):
        a.repair.mismatched(watch, float(beat))
        starts += [beat for _ in a.sent()]
    assert starts == [3, 6, 12, 24, 48, 96, 144, 192]


def test_one_member_is_not_compared_with_or_answered_too_often() -> None:
    a, b = World(A), World(B)
    for i in range(100):
        a.repair.compare(B, 1.0 + i / 1000)
    assert len(a.sent()) == 1
    digest = PpDigest(tuple(range(64)), TopologySpec())
    for i in range(100):
        b.repair.compared(A, digest, 1.0 + i / 1000)
    assert len(b.sent()) == 1
    for i in range(5000):
        b.repair.compared(NodeId(i.to_bytes(16, "little")), digest, 2.0)
    assert len(b.repair._answered) <= 512


@pytest.mark.parametrize(("count", "period"), [(10, 30.0), (62, 60.0), (200, 120.0)])
def test_the_period_grows_with_the_logarithm_of_the_members(count: int, period: float) -> None:
    a = World(A, count)
    a.repair.periodically(100.0)
    assert a.context.agenda["push_pull"] == 100.0 + period
    assert len(a.sent()) == 1


def test_sketches_heard_in_heartbeats_are_passed_on() -> None:
    a, b = World(A, 4), World(B, 4)
    node = derive_node_id("repair", "1")
    watch = a.context.watches[node] = Watch(node, BeatSettings(), 0.0)
    watch.beat = Heartbeat(node, 1, 0, 1, Step(77), 1.0, sketch=b"s" * 8)
    b.table.merge(replace(alive(node), epoch=2, state=MemberState.ALIVE), 0.0)
    exchange(a, b, 1.0)
    assert (b.table[node].sketch, b.table[node].sketch_step, b.table[node].epoch) == (b"s" * 8, 77, 2)


def test_short_digests_and_odd_wishes_do_no_harm() -> None:
    a = World(A, 10)
    a.repair.compared(B, PpDigest((1, 2, 3), TopologySpec()), 1.0)
    a.repair.records(B, PpRecords((), wanted=(1 << 64) - 1), 2.0)
    assert len(a.sent()) >= 2
