"""Frames are planned within budget, to the right links, and weighed by age."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dagrad_bus.attach.exchange import Exchange
from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.codec import Value
from dagrad_bus.events import Arrival, Selection
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
    assert exchange_of(port, density=0.4, max_frame=240).budget == 10
    assert exchange_of(port, density=0.4, max_frame=8).budget == 1


@pytest.mark.parametrize(("fanout", "count"), [(0, 3), (1, 1), (2, 2), (9, 3)])
def test_fanout_says_how_many_links_get_a_frame(connected: Ports, fanout: int, count: int) -> None:
    port = connected(4)[0]
    exchange = exchange_of(port, fanout=fanout)
    exchange.receive()
    plan = exchange.plan(repeats=True)
    assert plan is not None and len(plan.ready) == count


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
    selection = Selection(np.array([1]), np.ones((1, 8), np.float32))
    for transit in (0.0, 0.39):
        moment = port.now + 0.01
        port.waiting.append(Arrival(NodeId(peer.me), Kind.STATE, Value.F32, selection, Step(1), 1.0, transit, moment))
    young, old = exchange.receive()
    assert young.weight == pytest.approx(1.0)
    assert old.weight == pytest.approx(2.0 / 39.0, rel=0.05)


def test_int8_counts_as_shared_what_the_receiver_decodes(connected: Ports) -> None:
    exchange = exchange_of(connected(2)[0], wire="int8")
    values = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)
    shared = exchange.as_shared(values, exchange.to_wire(values))
    assert not np.array_equal(shared, values)
    np.testing.assert_allclose(shared, values, atol=1 / 127)


@pytest.mark.parametrize("wire", ["f32", "f16", "bf16"])
def test_other_wire_types_share_the_values_themselves(connected: Ports, wire: str) -> None:
    exchange = exchange_of(connected(2)[0], wire=wire)
    values = np.full((1, 8), 0.1, np.float32)
    assert exchange.as_shared(values, exchange.to_wire(values)) is values


def test_bf16_is_rounded_as_the_codec_rounds(connected: Ports) -> None:
    from dagrad_bus.codec import to_wire

    exchange = exchange_of(connected(2)[0])
    values = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    value, coded, _ = exchange.to_wire(values)
    assert value is Value.BF16
    np.testing.assert_array_equal(coded, to_wire(values, Value.BF16)[0])
