"""Whole workers without sockets, clock or threads, on a network made of lists."""

from __future__ import annotations

from typing import Any

import numpy as np

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.framing import pack_frame
from dagrad_bus.bus.node import Node
from dagrad_bus.codec import Value
from dagrad_bus.errors import LayoutMismatch, UsageError
from dagrad_bus.events import Outcome, Outgoing, Selection
from dagrad_bus.ids import JobId, NodeId, Step
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.wire import Heartbeat, Kind, Ping, StateReq

LAYOUT = Layout((Entry("x", (16,), "float32"),), (), 1)
TICK = 0.01
OTHER = Layout((Entry("x", (17,), "float32"),), (), 1)


def ready(node: Node) -> set[NodeId]:
    return {state.peer for state in node.outlook.states if state.ready}


def frame(node: Node, job: int) -> tuple[tuple[NodeId, ...], Outgoing]:
    links = tuple(state.peer for state in node.outlook.states)
    rows = np.full((2, 1), job, np.float32)
    chosen = Selection(np.arange(2), rows)
    return links, Outgoing(JobId(job), links, Kind.STATE, Value.F32, chosen, Step(job), 1.0, 0.0)


def publish(hub: Any, node: Node, job: int) -> tuple[NodeId, ...]:
    links, outgoing = frame(node, job)
    node.submit(links, pack_frame(outgoing, LAYOUT, frozenset()), hub.now)
    return links


def test_links_come_up_along_the_graph(hub: Any) -> None:
    nodes = hub.start_all(9)
    hub.run(2.0)
    for node in nodes:
        assert ready(node) == set(node.neighbours)
        assert len(node.neighbours) == 4
    assert len({node.membership.digest for node in nodes}) == 1


def test_a_frame_reaches_every_neighbour_once(hub: Any) -> None:
    nodes = hub.start_all(6)
    hub.run(2.0)
    links = publish(hub, nodes[0], 1)
    hub.run(0.5)
    assert set(nodes[0].outlook.outcomes) == {Outcome(JobId(1), peer, accepted=True) for peer in links}
    assert [node.metrics["decoded"] for node in nodes if node.self_id in links] == [1] * 4


def test_a_crash_is_known_everywhere_and_the_graph_heals(hub: Any) -> None:
    nodes = hub.start_all(9)
    hub.run(3.0)
    victim = nodes[4]
    hub.lines[victim.port.inbox].dead = True
    for node in nodes:
        if victim.self_id in node.by_peer and node is not victim:
            node.connection(victim.self_id, up=False, now=hub.now)
            node.refused(victim.self_id, hub.now)
    hub.run(6.0)
    rest = [node for node in nodes if node is not victim]
    for node in rest:
        assert victim.self_id not in node.membership.view
        assert victim.self_id not in [contact.peer for contact in node.contacts.linked]
        assert ready(node) == set(node.neighbours)
        assert len(node.neighbours) == 4
        assert any(event.kind == "dead" for event in node.outlook.events)
    lost = publish(hub, rest[0], 1)
    assert victim.self_id not in lost


def test_a_restart_is_a_new_life(hub: Any) -> None:
    nodes = hub.start_all(3)
    hub.run(3.0)
    names = tuple(f"w{number}" for number in range(3))
    hub.lines[nodes[2].port.inbox].dead = True
    again = hub.start("w2", names, epoch=2).node
    hub.run(3.0)
    assert ready(again) == set(again.neighbours)
    for node in nodes[:2]:
        record = node.membership.record_of(again.self_id)
        assert record is not None
        assert record.epoch == 2
        assert ready(node) == set(node.neighbours)
        assert any(event.kind == "rejoined" for event in node.outlook.events)


def test_a_restart_under_a_clock_that_was_set_back_takes_a_later_epoch(hub: Any) -> None:
    names = ("w0", "w1", "w2")
    nodes = [hub.start(name, names, epoch=50).node for name in names]
    hub.run(3.0)
    hub.lines[nodes[2].port.inbox].dead = True
    for node in nodes[:2]:
        node.connection(nodes[2].self_id, up=False, now=hub.now)
    again = hub.start("w2", names, epoch=7).node
    hub.run(5.0)
    assert again.identity.epoch == 51
    assert again.metrics["epochs_renewed"] == 1
    assert ready(again) == set(again.neighbours)
    assert again.outlook.failure is None


def test_a_later_epoch_forgets_nobody_who_spoke_before(hub: Any) -> None:
    a, b = hub.start_all(2)
    hub.run(2.0)
    routing = a.by_peer[b.self_id].incoming.routing
    a.renew(60)
    a.received(routing, Ping(nonce=1), hub.now)
    assert a.metrics["frames_dropped.admission"] == 0
    hub.run(6.0)
    assert (ready(a), ready(b)) == ({b.self_id}, {a.self_id})


def test_two_processes_of_one_name_do_not_flap(hub: Any) -> None:
    names = ("w0", "w1", "w2")
    nodes = [hub.start(name, names, epoch=50).node for name in names]
    hub.run(3.0)
    twin = hub.start("w2", names, epoch=60).node
    hub.run(5.0)
    assert ready(twin) == set(twin.neighbours)
    assert isinstance(nodes[2].outlook.failure, UsageError)
    assert "another process runs as 'w2'" in str(nodes[2].outlook.failure)


def test_leaving_makes_room_without_any_suspicion(hub: Any) -> None:
    nodes = hub.start_all(8)
    hub.run(3.0)
    gone = nodes[3]
    gone.leave(hub.now)
    hub.run(0.3)
    gone.say_goodbye(hub.now)
    hub.run(0.2)
    hub.lines[gone.port.inbox].dead = True
    hub.run(10.0)
    for node in nodes:
        if node is not gone:
            assert gone.self_id not in node.membership.view
            assert ready(node) == set(node.neighbours)
            assert node.metrics["members_changed.suspect"] == 0
            assert node.metrics["members_changed.left"] == 1


def test_a_rewired_graph_keeps_old_links_until_the_new_ones_are_up(hub: Any) -> None:
    nodes = hub.start_all(10, topology="ring")
    hub.run(3.0)
    assert all(len(node.neighbours) == 2 for node in nodes)
    nodes[5].rewire(TopologySpec(version=1, author=nodes[5].self_id), hub.now)
    fewest = 2
    for _ in range(300):
        hub.run(TICK)
        fewest = min(fewest, *(len(ready(node)) for node in nodes))
    assert fewest == 2  # never less than before
    for node in nodes:
        assert node.membership.spec.version == 1
        assert ready(node) >= set(node.neighbours)
        assert len(node.neighbours) == 4
    hub.run(12.0)
    assert all(ready(node) == set(node.neighbours) for node in nodes)


def test_one_who_was_not_launched_joins(hub: Any) -> None:
    nodes = hub.start_all(6)
    hub.run(2.0)
    late = hub.start("late", (), seeds=(("w3", nodes[3].port.inbox),)).node
    late.contacts.reach(nodes[3].self_id, hub.now, (nodes[3].port.inbox, nodes[3].port.beat))
    hub.run(3.0)
    assert late.membership.view == nodes[0].membership.view
    assert len(late.membership.view) == 7
    assert ready(late) == set(late.neighbours)
    assert {node.membership.digest for node in nodes} == {late.membership.digest}


def test_requests_for_state_reach_the_owner(hub: Any) -> None:
    a, b, _ = hub.start_all(3)
    hub.run(2.0)
    assert a.tell(b.self_id, StateReq(request=1, ranges=((0, 5),)), hub.now)
    assert not a.tell(NodeId(bytes(16)), StateReq(request=1, ranges=((0, 5),)), hub.now)
    hub.run(0.1)
    assert list(b.outlook.requests) == [(a.self_id, StateReq(request=1, ranges=((0, 5),)))]


def test_a_heartbeat_in_anothers_name_is_dropped(hub: Any) -> None:
    a, b, c = hub.start_all(3)
    hub.run(2.0)
    beat = Heartbeat(c.self_id, 1, 0, 1, Step(9), 1.0)
    a.beaten(b.self_id, beat, hub.now)
    assert a.metrics["frames_dropped.spoofed"] == 1
    assert a.outlook.news[c.self_id].step == 0


def test_the_one_that_trains_another_model_is_told(hub: Any) -> None:
    names = ("w0", "w1", "w2")
    most = [hub.start(name, names).node for name in names[:2]]
    odd = hub.start("w2", names, layout=OTHER).node
    hub.run(3.0)
    assert isinstance(odd.outlook.failure, LayoutMismatch)
    assert [node.outlook.failure for node in most] == [None, None]


def test_a_training_thread_that_is_stuck_is_told_and_kept(hub: Any) -> None:
    nodes = hub.start_all(4)
    for _ in range(80):
        for node in nodes[:3]:
            node.outlook.progress = (Step(1), 2.0, hub.now)
        if not nodes[3].outlook.progress[2]:
            nodes[3].outlook.progress = (Step(1), 2.0, hub.now)
        hub.run(1.0)
    for node in nodes[:3]:
        kinds = [event.kind for event in node.outlook.events if event.peer == nodes[3].self_id]
        assert "wedged" in kinds
        assert "dead" not in kinds
        assert nodes[3].self_id in node.neighbours
