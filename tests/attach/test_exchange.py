"""Frames are planned within budget, to the right links, and weighed by age."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dagrad_bus.attach.exchange import Exchange
from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.codec import Value
from dagrad_bus.errors import BusClosed
from dagrad_bus.events import Arrival, Outcome, PeerNews, Selection
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.settings import ExchangeSettings
from dagrad_bus.wire import Kind

Ports = Callable[[int], list[Any]]
LAYOUT = Layout((Entry("w", (1000,), "float32"),), (), 8)


def exchange_of(port: Any, max_frame: int = 1 << 20, **settings: Any) -> Exchange:
    return Exchange(LAYOUT, ExchangeSettings(**settings), port, frozenset({Kind.STATE}), port.clock, max_frame)


def test_a_frame_never_exceeds_what_may_travel_at_once(connected: Ports) -> None:
    port, _ = connected(2)
    assert exchange_of(port, density=0.4).budget == 50
    assert exchange_of(port, density=0.4, max_frame=240, wire="bf16").budget == 10
    assert exchange_of(port, density=0.4, max_frame=8).budget == 1


@pytest.mark.parametrize(("fanout", "count"), [(0, 3), (1, 1), (2, 2), (9, 3)])
def test_fanout_says_how_many_links_get_a_frame(connected: Ports, fanout: int, count: int) -> None:
    port = connected(4)[0]
    exchange = exchange_of(port, fanout=fanout)
    exchange.receive()
    plan = exchange.plan(repeats=True)
    assert plan is not None and len(plan.ready) == count


def test_another_density_counts_from_the_next_frame_on(connected: Ports) -> None:
    port = connected(2)[0]
    exchange = exchange_of(port, density=0.1)
    few = exchange.budget
    exchange.set_density(0.4)
    exchange.receive()
    plan = exchange.plan(repeats=True)
    assert plan is not None
    assert plan.budget == exchange.budget == pytest.approx(4 * few, abs=2)
    assert plan.stripe.size <= plan.budget


def test_without_a_link_there_is_no_plan(connected: Ports) -> None:
    port = connected(1)[0]
    exchange = exchange_of(port)
    exchange.receive()
    assert exchange.plan(repeats=True) is None


def test_the_weight_of_a_version_falls_with_its_age(connected: Ports) -> None:
    port, peer = connected(2)
    exchange = exchange_of(port, tau=2.0, w0=0.5)
    exchange.tick()
    exchange.tick()  # 100 steps a second
    for block, transit in ((1, 0.0), (2, 0.39)):
        selection = Selection(np.array([block]), np.ones((1, 8), np.float32))
        moment = port.now + 0.01
        port.waiting.append(Arrival(NodeId(peer.me), Kind.STATE, Value.F32, selection, Step(1), 1.0, transit, moment))
    young, old = exchange.receive()
    assert young.weight == pytest.approx(1.0)
    assert old.weight == pytest.approx(2.0 / 39.0, rel=0.05)


def test_bf16_is_rounded_as_the_codec_rounds(connected: Ports) -> None:
    from dagrad_bus.codec import to_wire

    exchange = exchange_of(connected(2)[0], wire="bf16")
    values = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    value, coded, _ = exchange.to_wire(values)
    assert value is Value.BF16
    np.testing.assert_array_equal(coded, to_wire(values, Value.BF16)[0])


@dataclass
class FakePeer:
    """Somebody a link leads to."""

    me: NodeId


def stranger(place: int) -> NodeId:
    return NodeId(bytes([100 + place]) * 16)


def test_explored_members_are_asked_for_and_stay_strangers_when_linked(connected: Ports) -> None:
    port = connected(3)[0]
    port.news = {peer.me: PeerNews(Step(1), 1.0) for peer in port.peers}
    exchange = exchange_of(port, explore=1)
    exchange.receive()
    assert port.explored == [()]  # everybody is a neighbour
    port.news = {**port.news, **{stranger(place): PeerNews(Step(1), 1.0) for place in range(5)}}
    exchange.receive()
    (wanted,) = port.explored[-1]
    assert wanted in {stranger(place) for place in range(5)}
    port.peers.append(FakePeer(wanted))
    port.now += 30
    exchange.receive()
    assert len(port.explored) == 2
    port.now += 31
    exchange.receive()
    assert len(port.explored) == 3 and not {*port.explored[-1]} & {peer.me for peer in port.peers[:2]}


def test_who_explores_nobody_asks_for_nobody(connected: Ports) -> None:
    port = connected(2)[0]
    port.news = {stranger(0): PeerNews(Step(1), 1.0)}
    exchange_of(port).receive()
    assert port.explored == []


def test_a_sketch_is_made_once_a_second_at_most(connected: Ports) -> None:
    port = connected(2)[0]
    exchange = exchange_of(port, choice="complementary")
    for step in range(1, 301):  # 3 s
        exchange.share_sketch(step, lambda: bytes(8))
    assert [step for step, _ in port.sketches] == [1, 101, 201]


def test_scores_follow_what_members_say(connected: Ports) -> None:
    port = connected(4)[0]
    exchange = exchange_of(port, choice="similar", fanout=1)
    exchange.share_sketch(1, lambda: bytes(8))
    near, *far = (peer.me for peer in port.peers)
    port.news = {near: PeerNews(Step(1), 1.0, bytes(8)), **{p: PeerNews(Step(1), 1.0, b"\x0f" * 8) for p in far}}
    exchange.receive()
    likeness = exchange.affinity.likeness([near, *far])
    assert likeness[0] > likeness[1] == likeness[2]


def test_without_scores_nobody_needs_a_sketch(connected: Ports) -> None:
    assert not exchange_of(connected(2)[0]).scores_peers
    assert exchange_of(connected(2)[0], choice="similar").scores_peers


def test_dense_frames_are_taken_as_they_are_and_posted_outside_the_book(connected: Ports) -> None:
    port, one, other = connected(3)
    exchange = exchange_of(port)
    rows = np.full((2, 8), 3, np.float32)
    port.waiting = [
        Arrival(one.me, Kind.STATE, Value.F32, Selection(np.array([1, 2]), rows), Step(5), 1.0, 0.0, 0.0),
        Arrival(one.me, Kind.GRADIENT, Value.F32, Selection(np.array([1, 2]), rows), Step(5), 1.0, 0.0, 0.0),
    ]
    exchange.spared = frozenset({other.me})
    (arrival,) = exchange.take().arrivals
    assert arrival.step == 5 and arrival.selection.values is rows
    assert exchange.ready == {one.me}  # the other one's link is wanted for something else
    job = exchange.post((one.me,), np.array([4, 5]), rows, Kind.STATE, 7)
    assert not exchange.ready and job is not None
    (frame,) = one.view().arrivals
    assert frame.step == 7 and frame.value_type is Value.F32
    port.outcomes = [Outcome(job, one.me, accepted=False)]
    exchange.receive()
    assert exchange.metrics.snapshot()["gauges"]["blocks_owed"] == 0
    port.accepts = False
    assert exchange.post((one.me,), np.array([4]), rows[:1], Kind.STATE, 8) is None


def test_newer_values_of_a_link_take_the_place_of_older_ones_where_the_rule_wants_that(connected: Ports) -> None:
    port, one = connected(2)
    exchange = exchange_of(port)

    def taken() -> list[tuple[int, list[int]]]:
        port.waiting = [
            Arrival(one.me, Kind.STATE, Value.F32, Selection(np.array(blocks), np.ones((2, 8), np.float32)), Step(step), 1.0,
                    0.0, 0.0)
            for step, blocks in ((5, [1, 2]), (6, [2, 3]))
        ]  # fmt: skip
        return [(arrival.step, arrival.selection.indices.tolist()) for arrival in exchange.take().arrivals]

    assert taken() == [(5, [1]), (6, [2, 3])]
    assert port.metrics["blocks_coalesced"] == 1
    exchange.coalesces = False
    assert taken() == [(5, [1, 2]), (6, [2, 3])]


def test_who_waits_asks_its_owner_first_and_time_passes(connected: Ports) -> None:
    port, _ = connected(2)
    exchange = exchange_of(port)
    before = exchange.now()
    exchange.wait(2.0)
    assert exchange.now() - before == pytest.approx(2.0, abs=0.1)
    port.close()

    def closed() -> None:
        raise BusClosed("over")

    exchange.pauses.check = closed
    with pytest.raises(BusClosed):
        exchange.wait(2.0)
