"""Virtual time: a heap of events, one source of chance, and a hash of everything that happened.

An event is a call with two arguments, ``(due, order, call, a, b)`` in the heap: nothing is allocated for it but this
tuple. ``order`` counts events, so two at one moment run as they were made, and no two entries compare further. Equal
seeds give equal traces on every machine and in every process, as nothing here, and nothing that it drives, depends on
the order of a set or on the address of an object.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

REMEMBERED = 200
"""Events kept for the report of a failure."""

Call = Callable[[Any, Any], object]
Entry = tuple[float, int, Call, Any, Any]


class World:
    """The clock, the heap and chance.

    Args:
        seed: of all chance in this world.
        start: seconds at which it begins.
    """

    __slots__ = ("_heap", "_order", "events", "now", "recent", "rng", "trace")

    def __init__(self, seed: int, start: float = 0.0) -> None:
        self.now = start
        self.rng = Random(seed)
        self.events = 0
        """Events run so far."""
        self.trace = seed
        """Hash of when each event was due, in order: equal for equal runs."""
        self.recent: deque[Entry] = deque(maxlen=REMEMBERED)
        self._heap: list[Entry] = []
        self._order = 0

    def __len__(self) -> int:
        """How many events are to come."""
        return len(self._heap)

    def at(self, due: float, call: Call, a: object = None, b: object = None) -> None:
        """Have ``call(a, b)`` run at ``due``; what lies in the past runs next."""
        self._order += 1
        heappush(self._heap, (due, self._order, call, a, b))

    def after(self, delay: float, call: Call, a: object = None, b: object = None) -> None:
        """Have ``call(a, b)`` run ``delay`` seconds from now."""
        self._order += 1
        heappush(self._heap, (self.now + delay, self._order, call, a, b))

    def run(self, until: float, most: int = sys.maxsize) -> None:
        """Run every event due up to ``until``, those included that they make, ``most`` of them; then it is ``until``."""
        heap, recent, pop = self._heap, self.recent, heappop
        events, trace = self.events, self.trace
        last = events + most
        try:
            while heap and events < last and heap[0][0] <= until:
                entry = pop(heap)
                due, order, call, a, b = entry
                self.now = max(self.now, due)
                events += 1
                trace = hash((trace, due, order))  # of numbers only: the same in every process
                recent.append(entry)
                call(a, b)
        finally:
            self.events, self.trace = events, trace
        self.now = max(self.now, until)

    def run_next(self) -> None:
        """Run the next event, whenever it is due; there must be one."""
        self.run(self._heap[0][0], 1)

    def fork(self, salt: int) -> int:
        """Return a seed for a generator of its own; drawing from that one disturbs no other."""
        return self.rng.getrandbits(48) ^ salt

    def told(self) -> list[str]:
        """Return the last events as text, oldest first."""
        return [
            f"{due:12.6f} #{order} {_name(call)} {_brief(a)} {_brief(b)}".rstrip()
            for due, order, call, a, b in self.recent
        ]


def _name(call: Call) -> str:
    return str(getattr(call, "__qualname__", call))


def _brief(value: object) -> str:
    text = "" if value is None else repr(value)
    return text if len(text) <= 300 else f"{text[:297]}..."
