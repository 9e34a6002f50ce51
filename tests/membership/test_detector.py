"""Silence, refused connections, and the pair that only one side of which is heard elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dagrad_bus.ids import NodeId, Step, derive_node_id
from dagrad_bus.membership import Base, Table, Tell
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.detector import Detector
from dagrad_bus.membership.ledger import Ledger, Source
from dagrad_bus.membership.prober import Prober
from dagrad_bus.messages import Heartbeat, MemberState, Ping, PingReq, Record
from dagrad_bus.settings import BeatSettings

IDS = [derive_node_id("detector", str(i)) for i in range(8)]
ME, M, A, B, C, D = IDS[:6]
NAMES = {node: f"w{i}" for i, node in enumerate(IDS)}


def alive(node: NodeId, epoch: int = 1, incarnation: int = 0) -> Record:
    return Record(node, epoch, incarnation, MemberState.ALIVE, name=NAMES[node])


class World:
    """One detector with what it needs."""

    def __init__(self, *, known: bool = True) -> None:
        base = Base([alive(node) for node in IDS]) if known else Base.expected(NAMES)
        self.context = Context(alive(ME), BeatSettings(), np.random.default_rng(0))
        self.ledger = Ledger(self.context, Table(base, 0.0), lambda record: True)
        self.detector = Detector(self.context, self.ledger, Prober(self.context, self.ledger, 0.0))
        self.ledger.on_change = self.detector.changed
        self.ledger.publish(alive(ME), 0.0)

    def state(self, node: NodeId = M) -> MemberState:
        return self.ledger.table[node].state

    def beat(self, now: float, node: NodeId = M) -> None:
        self.detector.heard(node, now)
        near = tuple(one[:8] for one in (ME, A, B, C, D))
        self.detector.beat(self.context.watches[node], Heartbeat(node, 1, 0, 1, Step(1), 1.0, neighbours=near), now)

    def told(self, kind: type[object]) -> list[NodeId]:
        out, self.context.out = self.context.out, []
        return [action.peer for action in out if isinstance(action, Tell) and isinstance(action.message, kind)]

    def refute(self, now: float, incarnation: int) -> None:
        self.ledger.learn(alive(M, incarnation=incarnation), Source.FLOOD, A, now)


def test_silence_beyond_the_bound_is_suspected_and_asked_about() -> None:
    world = World()
    world.detector.follow([M], 0.0)
    for now in range(1, 11):
        world.beat(float(now))
    world.detector.silence(13.3)
    assert world.state() is MemberState.ALIVE
    assert 13.3 < world.context.agenda["silence"] <= 13.5
    world.detector.silence(13.5)
    assert world.state() is MemberState.SUSPECT
    out = list(world.context.out)
    assert world.told(Ping) == [M]
    world.context.out = out
    helpers = world.told(PingReq)
    assert len(helpers) == 3 and set(helpers) <= {A, B, C, D}
    world.detector.silence(14.5)
    assert world.told(PingReq) == []  # asked once


def test_an_expected_neighbour_is_not_accused() -> None:
    world = World(known=False)
    world.detector.follow([M], 0.0)
    world.detector.silence(100.0)
    world.detector.refused(M, 100.0)
    assert world.state() is MemberState.ALIVE


def test_a_neighbour_that_never_connects_is_suspected_after_the_longest_time() -> None:
    world = World()
    world.detector.follow([M], 0.0)
    for now in (6.0, 9.9):
        world.detector.silence(now)
        assert world.state() is MemberState.ALIVE
    world.detector.silence(10.1)
    assert world.state() is MemberState.SUSPECT


def test_silence_of_a_connected_neighbour_counts_from_the_connection() -> None:
    world = World()
    world.detector.follow([M], 0.0)
    world.detector.watched(M, 8.0)
    world.detector.silence(11.3)
    assert world.state() is MemberState.ALIVE
    world.detector.silence(11.5)
    assert world.state() is MemberState.SUSPECT


def test_a_refused_connection_is_suspected_at_once() -> None:
    world = World()
    world.detector.refused(M, 1.0)
    assert world.state() is MemberState.SUSPECT


def test_a_late_worker_gives_everybody_that_time() -> None:
    world = World()
    world.detector.follow([M], 0.0)
    world.beat(1.0)
    world.detector.excuse(20.0, 22.0)
    world.detector.silence(22.1)
    assert world.state() is MemberState.ALIVE
    assert world.context.watches[M].since == 21.0
    world.beat(23.0)
    assert len(world.context.watches[M].arrivals) == 0  # the gap across its own pause says nothing


def test_one_refuted_accusation_then_none_while_others_hear_it() -> None:
    world = World()
    world.detector.follow([M], 0.0)
    world.beat(0.0)
    accusations: list[float] = []
    incarnation = 0
    for tenth in range(1, 4000):
        now = tenth / 10
        world.detector.silence(now)
        if world.state() is MemberState.SUSPECT:
            accusations.append(now)
            incarnation += 1
            world.refute(now + 0.01, incarnation)
    assert world.detector.apart == {M}
    assert len(accusations) == 3, accusations  # at 3.4 s, a minute after that, and two minutes later
    assert accusations[1] - accusations[0] > 60 and accusations[2] - accusations[1] > 120
    world.beat(400.0)
    assert world.detector.apart == frozenset()
    assert world.context.watches[M].is_plain


def test_death_and_a_new_process_end_the_case() -> None:
    for record in (Record(M, 1, 2, MemberState.DEAD, A[:8]), alive(M, epoch=2)):
        world = World()
        world.detector.follow([M], 0.0)
        world.detector.refused(M, 1.0)
        world.refute(1.1, 1)
        world.detector.refused(M, 2.0)
        assert world.detector.apart == {M}
        world.ledger.learn(replace(record, state=min(record.state, MemberState.SUSPECT)), Source.FLOOD, A, 2.0)
        world.ledger.learn(record, Source.FLOOD, A, 4.0)
        assert world.detector.apart == frozenset()


def test_others_are_asked_about_a_neighbour_that_never_was_connected_before_it_is_accused() -> None:
    for is_reached in (True, False):
        world = World()
        world.detector.follow([M], 0.0)
        world.detector.silence(5.9)
        assert world.told(PingReq) == []
        world.detector.silence(6.1)
        assert world.told(PingReq) and world.state() is MemberState.ALIVE
        if is_reached:
            world.detector.vouched(M, B, 7.0)
        world.detector.silence(10.2)
        assert world.state() is (MemberState.ALIVE if is_reached else MemberState.SUSPECT)
        assert world.detector.through == ({M: B} if is_reached else {})
        if is_reached:  # an hour later it is the same: asked again, not accused
            world.told(PingReq)
            world.detector.silence(67.1)
            assert world.told(PingReq) and world.state() is MemberState.ALIVE
            world.beat(68.0)
            assert world.detector.through == {} and world.detector.apart == frozenset()


def test_former_neighbours_are_not_judged_any_more() -> None:
    world = World()
    world.detector.follow([M, A], 0.0)
    world.beat(0.5)
    watch = world.context.watches[M]
    world.detector.follow([M, B], 1.0)
    assert set(world.context.watches) == {M, B} and world.context.watches[M] is watch
    world.detector.follow([], 2.0)
    world.detector.silence(100.0)
    assert world.state() is MemberState.ALIVE and world.context.agenda["silence"] == math.inf


def test_a_suspicion_of_others_is_confirmed_by_own_silence() -> None:
    world = World()
    world.detector.follow([M], 0.0)
    world.beat(0.0)
    world.ledger.learn(Record(M, 1, 0, MemberState.SUSPECT, A[:8]), Source.FLOOD, A, 1.0)
    world.ledger.learn(Record(M, 1, 0, MemberState.SUSPECT, B[:8]), Source.FLOOD, B, 1.0)
    before = world.ledger.suspicions.due
    world.detector.silence(5.0)
    assert world.ledger.suspicions.due < before


def test_pairs_are_bounded() -> None:
    world = World()
    for i in range(600):
        node = NodeId(i.to_bytes(16, "little"))
        world.ledger.learn(replace(alive(M), node=node), Source.FLOOD, A, 1.0)
        world.detector.refused(node, 1.0)
        world.ledger.learn(replace(alive(M), node=node, state=MemberState.DEAD), Source.FLOOD, A, 3.0)
    assert len(world.detector._pairs) <= 512
