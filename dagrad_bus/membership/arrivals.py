"""How regular a neighbour's heartbeats are, and how much silence that makes suspicious."""

from __future__ import annotations

import math
from array import array

WINDOW = 64
"""Arrivals that count."""
SPREAD = 4.0
LEAST_STD = 0.1
ALLOWANCE = 2.0
"""Seconds."""


class Arrivals:
    """The last 64 gaps between heartbeats, with running sums; O(1) a heartbeat.

    Args:
        interval: seconds between heartbeats, until there are gaps to go by.
    """

    __slots__ = ("_gaps", "_next", "_squares", "_sum", "interval")

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._gaps = array("d")
        self._next = 0
        self._sum = 0.0
        self._squares = 0.0

    def __len__(self) -> int:
        return len(self._gaps)

    def add(self, gap: float) -> None:
        """Take the gap between two heartbeats, seconds."""
        gaps, place = self._gaps, self._next
        if place == len(gaps) < WINDOW:
            gaps.append(gap)
            self._sum += gap
            self._squares += gap * gap
        else:
            old = gaps[place]
            gaps[place] = gap
            self._sum += gap - old
            self._squares += gap * gap - old * old
        self._next = place + 1
        if self._next == WINDOW:
            self._next = 0
            self._sum, self._squares = sum(gaps), sum(one * one for one in gaps)  # rounding must not pile up

    def suspect_after(self, low: float, high: float) -> float:
        """Return the silence after which a neighbour is suspected: mean + 4 max(std, 0.1) + 2 s, in [low, high].

        Phi-accrual as a linear bound; four observers of the same heartbeats need no more.
        """
        count = len(self._gaps)
        mean = self._sum / count if count else self.interval
        variance = self._squares / count - mean * mean if count else 0.0
        return min(max(mean + SPREAD * max(math.sqrt(max(variance, 0.0)), LEAST_STD) + ALLOWANCE, low), high)
