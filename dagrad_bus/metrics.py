"""Counters, gauges and histograms as plain data: one writer each, any reader.

Each thread owns one :class:`Metrics`; a snapshot taken from another thread is consistent name by name, not across
names. Nothing here knows how numbers are shown or sent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

AGE_EDGES = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512, 1024)
"""Upper edges of the age histogram, in local steps; a last bin takes the rest."""


class Metrics:
    """Numbers of one thread.

    Counters only rise; gauges are set; histograms count values between fixed edges. Names are
    ``lower_case``; a reason follows a dot: ``frames_dropped.crc``.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._gauges: dict[str, float] = {}
        self._bins: dict[str, list[int]] = {}

    def count(self, name: str, by: int = 1) -> None:
        """Add ``by`` to a counter."""
        self._counts[name] += by

    def gauge(self, name: str, value: float) -> None:
        """Set a gauge."""
        self._gauges[name] = value

    def observe(self, name: str, value: float, edges: Sequence[float] = AGE_EDGES) -> None:
        """Count ``value`` into its histogram bin; the edges of a name never change."""
        bins = self._bins.get(name)
        if bins is None:
            bins = self._bins[name] = [0] * (len(edges) + 1)
        bins[bisect_left(edges, value)] += 1

    def __getitem__(self, name: str) -> int:
        """Return a counter's value, 0 if it never rose."""
        return self._counts[name]

    def snapshot(self) -> dict[str, Mapping[str, object]]:
        """Return a copy: ``{"counters": ..., "gauges": ..., "histograms": ...}``, ready for JSON."""
        return {
            "counters": dict(self._counts),
            "gauges": dict(self._gauges),
            "histograms": {name: list(bins) for name, bins in self._bins.items()},
        }


def sum_bins(histograms: Sequence[Sequence[int]]) -> list[int]:
    """Add histograms bin by bin; empty ones count as zeros."""
    length = max((len(bins) for bins in histograms), default=0)
    return [sum(bins[place] for bins in histograms if place < len(bins)) for place in range(length)]


def histogram_median(bins: Sequence[int], edges: Sequence[float] = AGE_EDGES) -> float | None:
    """Return the median of a histogram, values taken as evenly spread in their bin; None if it is empty.

    Args:
        bins: counts, one more than edges; the last bin has no upper edge and gives the last edge.
        edges: upper edges, rising.
    """
    half, below = sum(bins) / 2, 0
    if half == 0:
        return None
    for place, count in enumerate(bins[: len(edges)]):
        if below + count >= half:
            lower = edges[place - 1] if place else 0.0
            return lower + (edges[place] - lower) * (half - below) / count
        below += count
    return edges[-1]
