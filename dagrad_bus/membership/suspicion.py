"""How long a suspected member has to refute: the timer of memberlist's ``suspicion.go``."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.records import Version
from dagrad_bus.messages import Record

CONFIRMATIONS = 2
"""Further accusers after which the time is at its least (k)."""


class Suspicion:
    """One suspected (epoch, incarnation) of one member.

    Args:
        record: the SUSPECT record; its accuser is the first one.
        others: members that could confirm; with none the time is at its least from the start.
        longest: seconds while there is one accuser.
        shortest: seconds with ``k`` more.
        now: seconds, monotonic.
    """

    __slots__ = ("_accusers", "_k", "_longest", "_shortest", "_started", "version")

    def __init__(self, record: Record, others: int, longest: float, shortest: float, now: float) -> None:
        self.version = record.epoch, record.incarnation
        self._accusers = {record.accuser}
        self._k = min(CONFIRMATIONS, max(others, 0))
        self._longest = longest
        self._shortest = shortest
        self._started = now

    def confirm(self, accuser: bytes) -> bool:
        """Count one more accuser, each of them once; whether that was news worth passing on."""
        if len(self._accusers) > self._k or accuser in self._accusers:
            return False
        self._accusers.add(accuser)
        return True

    @property
    def deadline(self) -> float:
        """When the member is dead: the time shrinks with the logarithm of the accusers."""
        done = math.log(len(self._accusers)) / math.log(self._k + 1) if self._k else 1.0
        return self._started + max(self._shortest, self._longest - done * (self._longest - self._shortest))

    def age(self, now: float) -> float:
        """Return for how many seconds it has run."""
        return now - self._started

    def hurry(self) -> None:
        """Give no more than the shortest time: the accusers have waited already, elsewhere."""
        self._longest = self._shortest

    def restart(self, now: float) -> None:
        """Begin again: there was evidence of life."""
        self._started = now
        self._accusers.clear()
        self._accusers.add(b"")

    def shift(self, by: float, now: float) -> None:
        """Move the deadline, at most to where it would be if it all began now."""
        self._started = min(now, self._started + by)


class Suspicions:
    """All that are running. A heap whose entries may be outdated: they are looked at again when they come up."""

    def __init__(self) -> None:
        self._of: dict[NodeId, Suspicion] = {}
        self._due: list[tuple[float, NodeId]] = []

    def __contains__(self, node: NodeId) -> bool:
        return node in self._of

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._of)

    def age(self, node: NodeId, now: float) -> float:
        """Return for how many seconds a member has been suspected here; 0 if it is not."""
        suspicion = self._of.get(node)
        return 0.0 if suspicion is None else suspicion.age(now)

    def hurry(self, node: NodeId) -> None:
        """Give a member no more than the shortest time."""
        if (suspicion := self._of.get(node)) is not None:
            suspicion.hurry()
            heapq.heappush(self._due, (suspicion.deadline, node))

    def start(self, node: NodeId, suspicion: Suspicion) -> None:
        """Run a timer for a member, in place of a former one."""
        self._of[node] = suspicion
        heapq.heappush(self._due, (suspicion.deadline, node))

    def drop(self, node: NodeId) -> None:
        """Stop a timer."""
        self._of.pop(node, None)

    def confirm(self, record: Record) -> bool:
        """Count the accuser of a SUSPECT record; whether it was a new one against the same incarnation."""
        suspicion = self._of.get(record.node)
        if suspicion is None or suspicion.version != (record.epoch, record.incarnation):
            return False
        if not suspicion.confirm(record.accuser):
            return False
        heapq.heappush(self._due, (suspicion.deadline, record.node))
        return True

    def restart(self, node: NodeId, now: float) -> None:
        """Give a member the whole time again: there was evidence of life."""
        if (suspicion := self._of.get(node)) is not None:
            suspicion.restart(now)

    def take(self, now: float) -> list[tuple[NodeId, Version]]:
        """Return whose time is up, with what was suspected, and forget them."""
        found: list[tuple[NodeId, Version]] = []
        while self._due and self._due[0][0] <= now:
            _, node = heapq.heappop(self._due)
            suspicion = self._of.get(node)
            if suspicion is None:
                continue
            if suspicion.deadline > now:
                heapq.heappush(self._due, (suspicion.deadline, node))
                continue
            del self._of[node]
            found.append((node, suspicion.version))
        return found

    @property
    def due(self) -> float:
        """When to look again."""
        return self._due[0][0] if self._due else math.inf

    def shift(self, by: float, now: float) -> None:
        """Move all deadlines: the judge was not there to hear."""
        for suspicion in self._of.values():
            suspicion.shift(by, now)
        self._due = [(suspicion.deadline, node) for node, suspicion in self._of.items()]
        heapq.heapify(self._due)
