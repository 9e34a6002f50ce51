"""What a worker tells about its links, and how often."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from dagrad_bus.bus.link_reports import SOONEST, answer
from dagrad_bus.bus.node import Node
from dagrad_bus.ids import NodeId
from dagrad_bus.wire import MAX_LINKS, NEVER_HEARD, LinkPhase, LinkReport, LinkRole, Links, LinksReq


def reports_of(node: Node, now: float) -> dict[NodeId, LinkReport]:
    asker = next(iter(node.contacts))
    asker.tally.told_at = -1e9
    parts = answer(asker, LinksReq(7), node.contacts, node.mailbox.waiting, now)
    assert {part.nonce for part in parts} == {7}
    reports = [report for part in parts for report in part.reports]
    assert {part.total for part in parts} == {len(reports)}
    return {report.peer: report for report in reports}


def test_every_link_is_told_with_both_directions(hub: Any) -> None:
    nodes = hub.start_all(3)
    hub.run(5)
    told = reports_of(nodes[0], hub.now)
    assert told.keys() == set(nodes[0].neighbours)
    for report in told.values():
        assert (report.role, report.phase) == (LinkRole.NEIGHBOUR, LinkPhase.UP)
        assert (report.accepted, report.lost, report.in_flight, report.queued) == (0, 0, 0, 0)
        assert 0 <= report.heard_ms < 5000


def test_what_was_never_heard_says_so(hub: Any) -> None:
    [node] = hub.start_all(1)
    hub.run(0.1)
    node.contacts.reach(NodeId(b"x" * 16), hub.now)
    assert reports_of(node, hub.now) == {}, "no link, no report"
    node.contacts.explore([NodeId(b"x" * 16)], hub.now)
    [report] = reports_of(node, hub.now).values()
    assert (report.role, report.phase, report.heard_ms) == (LinkRole.EXPLORED, LinkPhase.DOWN, NEVER_HEARD)


def test_an_asker_is_answered_so_often_and_in_pieces(hub: Any) -> None:
    nodes = hub.start_all(MAX_LINKS + 2, topology="complete")
    node, now = nodes[0], hub.now
    asker = next(iter(node.contacts))
    parts = answer(asker, LinksReq(1), node.contacts, node.mailbox.waiting, now)
    assert [len(part.reports) for part in parts] == [MAX_LINKS, 1]
    assert answer(asker, LinksReq(2), node.contacts, node.mailbox.waiting, now + SOONEST / 2) == []
    assert answer(asker, LinksReq(3), node.contacts, node.mailbox.waiting, now + SOONEST)


def test_a_member_may_ask_too(hub: Any) -> None:
    first, second = hub.start_all(2)
    hub.run(3)
    heard: list[Links] = []
    serve: Callable[..., None] = second._serve

    def listen(contact: Any, routing: bytes, message: Any, now: float) -> None:
        if isinstance(message, Links):
            heard.append(message)
        serve(contact, routing, message, now)

    second._serve = listen
    contact = second.by_peer[first.self_id]
    for _ in range(3):
        contact.queue(LinksReq(9))
        second.act(contact, [])
        hub.run(0.5)
    assert [part.nonce for part in heard] == [9, 9, 9]
    assert [report.peer for part in heard for report in part.reports] == [second.self_id] * 3
    assert all(a.reports[0].peer == b.reports[0].peer for a, b in pairwise(heard))
    assert second.metrics["frames_dropped.unexpected"] == 3, "an answer nobody waits for is dropped"


@pytest.mark.parametrize("seconds", [0.0, 1e7])
def test_no_number_leaves_its_range(seconds: float, hub: Any) -> None:
    nodes = hub.start_all(2)
    hub.run(2)
    contact = next(iter(nodes[0].contacts))
    contact.out.srtt = contact.tally.delay = seconds
    [report] = reports_of(nodes[0], hub.now + seconds).values()
    assert 0 <= report.rtt_us < 1 << 32 and 0 <= report.delay_ms < 1 << 32 and 0 <= report.heard_ms <= NEVER_HEARD
