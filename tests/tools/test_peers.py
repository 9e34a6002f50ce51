"""``dagrad peers``: links as both ends see them, their flaws, and those of a live run."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from dagrad_bus.bus.survey import Picture, Sighting
from dagrad_bus.ids import NodeId, Step, derive_node_id
from dagrad_bus.tools.peers import Link, draw, find_links, verdict
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.wire import NEVER_HEARD, Heartbeat, LinkPhase, LinkReport, LinkRole, MemberState, Record
from dagrad_bus.workers.launch.folder import RunFolder

Dagrad = Callable[..., "subprocess.CompletedProcess[str]"]
LiveRun = Callable[[int], tuple[RunFolder, list["subprocess.Popen[bytes]"]]]
A, B, C = (derive_node_id("r", name) for name in "abc")


def sighting(
    name: str, peers: tuple[NodeId, ...], *, reports: bool = True, state: MemberState = MemberState.ALIVE,
    heard: bool = True, **report: Any,
) -> Sighting:  # fmt: skip
    node = derive_node_id("r", name)
    record = Record(node, 1, 0, state, b"", "h", 1, 2, name)
    prefixes = tuple(peer[:8] for peer in peers)
    beat = Heartbeat(node, 1, 0, 1, Step(5), 10.0, neighbours=prefixes, sketch=bytes(8)) if heard else None
    plain: dict[str, Any] = {"accepted": 9, "lost": 1, "received": 8, "rtt_us": 2000, "delay_ms": 50, "heard_ms": 20}
    values = dict.fromkeys(("in_flight", "refused", "queued", "bytes_sent", "bytes_received"), 0) | plain | report
    links = [LinkReport(peer, LinkRole.NEIGHBOUR, LinkPhase.UP, **values) for peer in peers]
    return Sighting(record, True, beat, 0.1 if heard else math.inf, None, tuple(links) if reports else None)


def links_of(*members: Sighting) -> dict[tuple[str, str], Link]:
    return {(link.worker, link.peer): link for link in find_links(Picture("r", "a", TopologySpec(), members))}


def test_a_link_stands_there_from_both_ends() -> None:
    found = links_of(sighting("a", (B,)), sighting("b", (A,)))
    assert list(found) == [("a", "b"), ("b", "a")]
    link = found["a", "b"]
    assert (link.state, link.flaw, link.accepted, link.lost, link.received) == ("up", "", 9, 1, 8)
    assert (link.rtt, link.delay, link.age, link.heard, link.cosine) == (0.002, 0.05, 0.5, 0.02, 1.0)


def test_flaws_of_links() -> None:
    dead, silent = sighting("c", (), state=MemberState.DEAD, heard=False), sighting("c", (), heard=False)
    assert links_of(sighting("a", (B,)), sighting("b", ()))["a", "b"].flaw == "one-sided"
    assert links_of(sighting("a", (C,)), dead)["a", "c"].flaw == "unreachable"
    assert links_of(sighting("a", (C,)), silent)["a", "c"].flaw == "unreachable"


def test_a_worker_that_tells_nothing_shows_its_neighbours() -> None:
    found = links_of(sighting("a", (B,), reports=False), sighting("b", (A,)))
    assert (found["a", "b"].state, found["a", "b"].flaw, found["a", "b"].accepted) == (None, "", None)


def test_what_was_never_measured_is_no_number() -> None:
    link = links_of(sighting("a", (B,), rtt_us=0, received=0, heard_ms=NEVER_HEARD), sighting("b", (A,)))["a", "b"]
    assert (link.rtt, link.delay, link.age, link.heard) == (None, None, None, None)


def test_a_link_that_is_not_wanted_has_no_flaw() -> None:
    one = sighting("a", ())
    report = LinkReport(B, LinkRole.INCOMING, LinkPhase.DOWN, 0, 0, 0, 5, 0, 0, 0, 0)
    asked = Sighting(one.record, True, one.beat, 0.1, None, (report,))
    link = links_of(asked, sighting("b", ()))["a", "b"]
    assert (link.role, link.state, link.flaw) == ("incoming", "down", "")


@pytest.mark.parametrize("width", [80, 150])
def test_the_table_and_its_verdict(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    members = (sighting("a", (B, C)), sighting("b", ()), sighting("c", (A,)))
    picture = Picture("r", "a", TopologySpec(), members)
    console = Console(width=width)
    monkeypatch.setattr("dagrad_bus.tools.peers.wide_console", lambda: console)
    with console.capture() as captured:
        console.print(draw(find_links(picture)), *verdict(picture, find_links(picture)), sep="\n")
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert any(line.startswith("a b one-sided 9 1") for line in lines)
    assert any(line.startswith("c up 9 1") for line in lines), "a worker's name stands before its first link only"
    assert "one-sided: a -> b" in lines
    assert any("in flight" in line for line in lines) == (width == 150)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_links_of_a_live_run(live_run: LiveRun, dagrad: Dagrad) -> None:
    folder, _ = live_run(3)
    told: dict[str, Any] = {}
    for _ in range(8):
        ran = dagrad("peers", str(folder.path), "--json")
        told = json.loads(ran.stdout)
        if ran.returncode == 0 and len(told["links"]) == 6 and all(link["received"] for link in told["links"]):
            break
    else:
        raise AssertionError(told)
    assert told["schema"] == "dagrad.peers/1" and told["flaws"] == 0
    sent = {(link["worker"], link["peer"]): link["accepted"] for link in told["links"]}
    got = {(link["peer"], link["worker"]): link["received"] for link in told["links"]}
    assert all(abs(sent[pair] - got[pair]) < 20 for pair in sent), "both ends count the same frames"
    assert all(link["rtt"] > 0 and link["bytes_sent"] > 0 and link["heard"] < 2 for link in told["links"])
    one = json.loads(dagrad("peers", str(folder.path), "--name", "local.1", "--json").stdout)
    assert {link["worker"] for link in one["links"]} == {"local.1"}
    assert dagrad("peers", str(folder.path), "--name", "nobody").returncode == 2
