"""Who is asked, who asks for others, and what an answer that does not come means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.membership import Base, Table, Tell
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.ledger import Ledger, Source
from dagrad_bus.membership.prober import Prober
from dagrad_bus.membership.watch import Watch
from dagrad_bus.messages import MemberState, Ping, PingReq, PingRes, Record
from dagrad_bus.settings import BeatSettings

IDS = [derive_node_id("prober", str(i)) for i in range(12)]
ME, M, A, B, C, D = IDS[:6]


def alive(node: NodeId) -> Record:
    return Record(node, 1, 0, MemberState.ALIVE, name=f"w{IDS.index(node)}")


class World:
    """One prober with what it needs."""

    def __init__(self) -> None:
        self.context = Context(alive(ME), BeatSettings(), np.random.default_rng(0))
        self.ledger = Ledger(self.context, Table(Base([alive(node) for node in IDS]), 0.0), lambda record: True)
        self.prober = Prober(self.context, self.ledger, 0.0)
        self.silent: list[NodeId] = []
        self.prober.on_silent = lambda node, now, why: self.silent.append(node)
        self.prober.near = lambda node: [A, B, C, ME]

    def sent(self) -> list[tuple[NodeId, object]]:
        out, self.context.out = self.context.out, []
        return [(action.peer, action.message) for action in out if isinstance(action, Tell)]


def nonce_of(message: object) -> int:
    assert isinstance(message, Ping | PingReq)
    return message.nonce


def test_the_backstop_meets_every_stranger_once_a_round() -> None:
    world = World()
    world.context.watches[A] = Watch(A, BeatSettings(), 0.0)
    met: list[NodeId] = []
    for turn in range(60):
        world.prober.backstop(5.0 * turn)
        for peer, message in world.sent():
            met.append(peer)
            world.prober.pong(peer, nonce_of(message), 5.0 * turn)
    strangers = set(IDS) - {ME, A}
    assert set(met) == strangers
    counts = [met.count(node) for node in strangers]
    assert max(counts) - min(counts) <= 2
    world.prober.expire(1000.0)
    assert world.silent == [] and world.context.health.score == 0


def test_without_an_answer_others_are_asked_and_without_theirs_it_is_suspected() -> None:
    world = World()
    world.prober.backstop(0.0)
    [(target, _)] = world.sent()
    world.prober.expire(1.9)
    assert world.sent() == []
    world.prober.expire(2.1)
    asked = world.sent()
    near = {A, B, C} - {target}
    assert near <= {peer for peer, _ in asked} and len(asked) <= 6 and target not in dict(asked)
    assert all(isinstance(message, PingReq) and message.target == target for _, message in asked)
    world.prober.expire(6.2)
    assert world.silent == [target]


def test_another_worker_s_word_is_enough() -> None:
    world = World()
    world.prober.backstop(0.0)
    [(target, _)] = world.sent()
    world.prober.expire(2.1)
    nonce = nonce_of(world.sent()[0][1])
    vouched: list[tuple[NodeId, NodeId]] = []
    world.prober.on_vouched = lambda node, by, now: vouched.append((node, by))
    world.prober.result(D, PingRes(nonce, target, ok=False), 3.0)
    world.prober.result(D, PingRes(nonce, A if target != A else B, ok=True), 3.0)
    world.prober.result(D, PingRes(nonce + 1, target, ok=True), 3.0)
    world.prober.result(D, PingRes(nonce, target, ok=True), 3.0)
    assert vouched == [(target, D)]
    world.prober.expire(100.0)
    assert world.silent == []


def test_it_pings_for_others() -> None:
    world = World()
    world.prober.requested(A, PingReq(7, M), 0.0)
    [(peer, message)] = world.sent()
    assert peer == M
    served: list[NodeId] = []
    world.prober.on_served = lambda asker, target, now: served.extend((asker, target))
    world.prober.pong(B, nonce_of(message), 0.1)  # somebody else's answer
    assert world.sent() == [] and served == []
    world.prober.pong(M, nonce_of(message), 0.1)
    assert world.sent() == [(A, PingRes(7, M, ok=True))] and served == [A, M]
    world.prober.requested(A, PingReq(8, M), 0.0)
    world.sent()
    world.prober.expire(2.1)
    assert world.sent() == [(A, PingRes(8, M, ok=False))]
    world.prober.requested(A, PingReq(9, ME), 0.0)
    assert world.sent() == [(A, PingRes(9, ME, ok=True))]
    world.prober.requested(A, PingReq(9, NodeId(bytes(16))), 0.0)
    assert world.sent() == []


def test_requests_of_others_are_bounded() -> None:
    world = World()
    for nonce in range(1000):
        world.prober.requested(A, PingReq(nonce, M), 0.0)
    assert len(world.sent()) == 64


@pytest.mark.parametrize("targets", [1, 2])
def test_two_silent_members_at_once_say_something_of_this_worker(targets: int) -> None:
    world = World()
    for node in IDS[5 : 5 + targets]:
        world.prober.ask_about(node, 0.0)
    world.prober.expire(2.5)
    assert world.context.health.score == targets - 1


def test_a_closed_port_says_nothing_of_this_worker() -> None:
    world = World()
    for node in IDS[5:8]:
        world.prober.ask_about(node, 0.0)
        world.prober.refused(node)
    world.prober.expire(10.0)
    assert world.context.health.score == 0


def test_the_dead_are_tried_and_those_who_left_are_not() -> None:
    world = World()
    assert world.prober.next_dead(1.0) is None
    for node, state in ((M, MemberState.LEFT), (A, MemberState.DEAD), (B, MemberState.DEAD)):
        world.ledger.learn(replace(alive(node), state=MemberState.SUSPECT), Source.FLOOD, C, -1.0)
        world.ledger.learn(replace(alive(node), state=state), Source.FLOOD, C, 1.0)
    world.sent()
    tried = {world.prober.next_dead(float(now)) for now in range(5, 200, 5)}
    assert tried == {A, B}
    late = [world.prober.next_dead(float(now)) for now in range(1000, 1300, 5)]
    assert 8 <= sum(node is not None for node in late) <= 12
    world.prober.try_dead(A)
    assert [peer for peer, message in world.sent() if isinstance(message, Ping)] == [A]


def test_known_relays_are_asked_and_members_out_of_reach_are_left_alone() -> None:
    world = World()
    world.context.use_relay(IDS[9], 0.0)
    assert world.prober.inquire(M, 0.0)
    asked = dict(world.sent())
    assert {A, B, C, IDS[9]} <= set(asked)
    assert all(isinstance(message, PingReq) and message.target == M for message in asked.values())
    assert world.context.relays_at(61.0) == []
    world.prober.apart = frozenset(IDS[5:])
    met: set[NodeId] = set()
    for turn in range(40):
        world.prober.backstop(100 + 5.0 * turn)
        met.update(peer for peer, _ in world.sent())
    assert met == {M, A, B, C}


def test_own_lateness_moves_what_is_awaited() -> None:
    world = World()
    world.prober.backstop(0.0)
    world.sent()
    world.prober.shift(20.0, 20.5)
    world.prober.expire(20.6)
    assert world.sent() == []
    world.prober.expire(25.0)
    assert world.sent()
