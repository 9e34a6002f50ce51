"""Who is let in, who is told why not, and whose earlier life is over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.contacts import PROBE_LIFE
from dagrad_bus.bus.greeting import JOINERS, MOST_JOINERS
from dagrad_bus.errors import LayoutMismatch
from dagrad_bus.ids import derive_node_id
from dagrad_bus.messages import VISITOR
from dagrad_bus.wire import Error, ErrorCode, Hello


def hello_of(node: Any, **changes: Any) -> Hello:
    hello: Hello = replace(node.hello, wanted=True, **changes)
    return hello


def test_a_stranger_gets_no_answer_and_no_connection(hub: Any) -> None:
    a, b = hub.start_all(2)
    hub.run(2.0)
    before = dict(a.port.to)
    a.received(b"stranger", hello_of(b, job=bytes(16)), hub.now)
    assert a.metrics["frames_dropped.admission"] == 1
    assert a.port.to == before


def test_a_model_of_another_shape_is_told_by_an_error(hub: Any) -> None:
    a, b = hub.start_all(2)
    a.received(b"r", hello_of(b, layout=bytes(8)), hub.now)
    contact = a.by_peer[b.self_id]
    assert "trains another model" in contact.refusal
    assert [m.code for m in contact._control if isinstance(m, Error)] == [ErrorCode.LAYOUT]
    assert isinstance(a.outlook.failure, LayoutMismatch)  # its only neighbour


@pytest.mark.parametrize("connected", [True, False])
def test_an_older_life_is_told_of_the_later_one_unless_that_still_speaks(hub: Any, connected: bool) -> None:
    a, b = [hub.start(name, ("w0", "w1"), epoch=9).node for name in ("w0", "w1")]
    hub.run(2.0)
    if not connected:
        a.connection(b.self_id, up=False, now=hub.now)
    a.received(b"older", hello_of(b, epoch=3, inbox_port=7), hub.now)
    assert a.metrics["frames_dropped.stale_epoch"] == 1
    queued = [m for m in a.by_peer[b.self_id]._control if isinstance(m, Error)]
    assert [m.epoch for m in queued] == ([] if connected else [9])
    assert a.port.address_of(b.self_id) == (b.port.inbox if connected else "tcp://h:7")


def test_a_visitor_is_answered_and_is_no_member(hub: Any) -> None:
    (a, *_) = hub.start_all(3)
    hub.run(1.0)
    guest = hub.start("guest", (), seeds=(("w0", a.port.inbox),)).node
    guest.hello = replace(guest.hello, capabilities=VISITOR)
    a.received(b"guest", guest.hello, hub.now)
    assert a.by_peer[guest.self_id].is_visitor
    assert guest.self_id not in a.membership.view
    a._tidy_at = 0.0
    a.tick(hub.now + PROBE_LIFE + 1)
    assert guest.self_id not in a.by_peer


def test_a_flood_of_joiners_is_held_back(hub: Any) -> None:
    (a, *_) = hub.start_all(3)
    hub.run(2.0)
    for number in range(500):
        name = f"ghost{number}"
        ghost = replace(hello_of(a), node=derive_node_id("r", name), name=name, inbox_port=9)
        a.received(b"%d" % number, ghost, hub.now + number / 500)
    assert len(a.membership.view) <= 3 + MOST_JOINERS + JOINERS + 1
    assert a.metrics["frames_dropped.joining"] >= 480


def test_a_joiner_whose_model_nobody_shares_is_told(hub: Any) -> None:
    nodes = hub.start_all(3)
    hub.run(3.0)
    other = Layout((Entry("y", (24,), "float32"),), (), 1)
    joiner = hub.start("late", (), layout=other, seeds=(("w0", nodes[0].port.inbox),)).node
    joiner.contacts.reach(nodes[0].self_id, hub.now, (nodes[0].port.inbox, nodes[0].port.beat))
    hub.run(3.0)
    assert isinstance(joiner.outlook.failure, LayoutMismatch)
    assert all(node.outlook.failure is None for node in nodes)


def test_visitors_leave_nothing_behind(hub: Any) -> None:
    (a, *_) = hub.start_all(3)
    hub.run(1.0)
    guest = hub.start("guest", (), seeds=(("w0", a.port.inbox),)).node
    a.received(b"guest", replace(guest.hello, capabilities=VISITOR), hub.now)
    guest.port.dead = True
    hub.run(PROBE_LIFE + 2.0)
    assert guest.self_id not in a.by_peer
    assert guest.self_id not in a.contacts._generations
