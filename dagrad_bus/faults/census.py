"""The promises MB and ED, held against what the workers of a herd report: who is thought dead, and how the graph looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from dagrad_bus.faults.herd import Herd
from dagrad_bus.faults.lines import Answer

UP = ("up", "stalled")


@dataclass(frozen=True, slots=True)
class Event:
    """A change in one worker's member table, as its training thread saw it."""

    at: float
    """Monotonic seconds; all of a host share the clock."""
    observer: str
    member: str
    kind: str


@dataclass(slots=True, eq=False)
class Chronicle:
    """All member events of a herd since it was made."""

    herd: Herd
    events: list[Event] = field(default_factory=list[Event])

    def __post_init__(self) -> None:
        """Forget what was before."""
        self.herd.ask_all("events")

    def read(self, names: Iterable[str] | None = None) -> list[Event]:
        """Take in what is new, and return all."""
        for observer, answer in self.herd.ask_all("events", names).items():
            self.events += [Event(at, observer, member, kind) for at, member, kind in answer["events"]]
        return self.events

    def first(self, kind: str, member: str) -> dict[str, float]:
        """Return when each observer first said so of a member."""
        found: dict[str, float] = {}
        for event in sorted(self.events, key=lambda event: event.at):
            if (event.kind, event.member) == (kind, member):
                found.setdefault(event.observer, event.at)
        return found

    def count(self, kind: str, *, but: Iterable[str] = (), of: Iterable[str] | None = None) -> int:
        """Return how often ``kind`` was said of members; ``but`` leaves some out, ``of`` names the only ones."""
        left_out, only = set(but), None if of is None else set(of)
        said = [event for event in self.events if event.kind == kind and event.member not in left_out]
        return len([event for event in said if only is None or event.member in only])


def delays(chronicle: Chronicle, kind: str, moments: Mapping[str, float]) -> list[float]:
    """Return seconds from each member's moment until each observer said ``kind`` of it, rising."""
    return sorted(at - moment for member, moment in moments.items() for at in chronicle.first(kind, member).values())


def percentile(values: Iterable[float], percent: float) -> float:
    """Return a percentile; infinity of nothing."""
    kept = list(values)
    return float(np.percentile(kept, percent)) if kept else float("inf")


def all_say(states: Mapping[str, Answer], members: Iterable[str], state: str) -> bool:
    """Whether every observer has every one of ``members`` (itself apart) in ``state``."""
    wanted = tuple(members)
    return all(
        answer["members"].get(member) == state and member not in answer["expected"]
        for observer, answer in states.items()
        for member in wanted
        if member != observer
    )


def degrees(states: Mapping[str, Answer]) -> dict[str, int]:
    """Return for each observer how many links to other observers are up."""
    return {
        name: sum(state["out"].get(peer) in UP for peer in state["neighbours"] if peer in states)
        for name, state in states.items()
    }


def half_open(states: Mapping[str, Answer]) -> list[str]:
    """Return links between observers that are up in one direction only, or wanted by one end only."""
    up = {
        (name, peer)
        for name, state in states.items()
        for peer in state["neighbours"]
        if peer in states and state["out"].get(peer) in UP
    }
    return sorted(f"{one} -> {other}" for one, other in up if (other, one) not in up)


def components(states: Mapping[str, Answer]) -> int:
    """Return into how many parts the links that are up divide the observers."""
    parts = {name: {name} for name in states}
    for name, state in states.items():
        for peer in state["neighbours"]:
            if peer in states and state["out"].get(peer) in UP and parts[peer] is not parts[name]:
                merged = parts[peer] | parts[name]
                parts.update(dict.fromkeys(merged, merged))
    return len({id(part) for part in parts.values()})


def is_whole(states: Mapping[str, Answer], low: int = 3, high: int = 5) -> bool:
    """Whether the observers form one component of degree ``low`` to ``high``, every link up in both directions."""
    few = min(low, len(states) - 1)
    return components(states) == 1 and not half_open(states) and all(few <= d <= high for d in degrees(states).values())


def tables_agree(states: Mapping[str, Answer]) -> bool:
    """Whether all observers have the same member table and graph spec."""
    return len({state["digest"] for state in states.values()}) == 1


def changes_by_member(events: Iterable[Event], since: float) -> Counter[tuple[str, str]]:
    """Return how often each observer changed its mind on each member since a moment."""
    return Counter((event.observer, event.member) for event in events if event.at >= since)
