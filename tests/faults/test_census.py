"""Graphs and member events, counted."""

from __future__ import annotations

from typing import Any

from dagrad_bus.faults.census import (
    Event,
    all_say,
    changes_by_member,
    components,
    degrees,
    half_open,
    is_whole,
    percentile,
)


def state(neighbours: str, up: str | None = None) -> dict[str, Any]:
    return {
        "neighbours": list(neighbours),
        "out": {peer: "up" if peer in (neighbours if up is None else up) else "down" for peer in neighbours},
        "members": dict.fromkeys("abcd", "ALIVE"),
        "expected": [],
    }


def test_a_whole_graph_has_one_part_and_no_half_links() -> None:
    ring = {"a": state("bd"), "b": state("ac"), "c": state("bd"), "d": state("ca")}
    assert components(ring) == 1 and not half_open(ring)
    assert is_whole(ring, low=2) and not is_whole(ring, low=3)
    assert degrees(ring) == dict.fromkeys("abcd", 2)
    broken = {**ring, "a": state("bd", up="b")}
    assert half_open(broken) == ["d -> a"]
    apart = {"a": state("b"), "b": state("a"), "c": state("d"), "d": state("c")}
    assert components(apart) == 2


def test_words_on_members_are_counted() -> None:
    states = {"a": state("b"), "b": state("a")}
    assert all_say(states, "abcd", "ALIVE")
    states["b"]["members"]["c"] = "DEAD"
    assert not all_say(states, "c", "DEAD")
    events = [Event(1.0, "a", "c", "dead"), Event(3.0, "a", "c", "alive"), Event(4.0, "b", "c", "alive")]
    assert changes_by_member(events, 2.0) == {("a", "c"): 1, ("b", "c"): 1}
    assert percentile([], 50) == float("inf")
