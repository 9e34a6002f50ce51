"""What is timed, and what came out: a cluster that does not exist, its rule, its numbers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.parcels import Simulated
from dagrad_bus.metrics import AGE_EDGES
from dagrad_bus.settings import SERVED, ExchangeSettings, LinkSettings, RuleName

RULES: tuple[Simulated, ...] = (*get_args(RuleName), "all-reduce")
"""Everything that can be timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Workers that compute and exchange, without learning anything. Equal scenarios give equal timings."""

    rule: Simulated = "state"
    workers: int = 32
    parameters: int = 25_557_032
    """Size P of the model."""
    costs: Costs = field(default_factory=Costs)
    exchange: ExchangeSettings = field(default_factory=ExchangeSettings)
    """``rule`` above counts; the one in here does not."""
    degree: int = 4
    link: LinkSettings = field(default_factory=LinkSettings)
    codec: str = ""
    """Compression of frames; empty: as the laboratory's runs of the rule have it."""
    beat: float = 1.0
    """Seconds between two heartbeats."""
    pace: float = 0.0
    """Seconds that a step takes at least, exchange included, as of ``--pace``; as many times more as a straggler is slow."""
    steps: int = 40
    """Of each worker, measured."""
    warmup: int = 10
    """Steps before those: queues fill meanwhile."""
    churn: float = 0.0
    """Share of the workers, never the server, that leave once and come back, in [0, 1)."""
    away: float = 10.0
    """Median steps for which they stay away."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every bound."""
        bounds = {
            "rule": (self.rule in RULES, f"one of {', '.join(RULES)}"),
            "workers": (1 <= self.workers <= 100_000, "1 to 100 000"),
            "parameters": (self.parameters >= 1, "at least 1"),
            "steps": (self.steps >= 1, "at least 1"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "pace": (self.pace >= 0, "seconds, 0 or more"),
            "churn": (0 <= self.churn < 1, "a share in [0, 1)"),
            "away": (self.away > 0, "steps over 0"),
        }
        for name, (ok, bound) in bounds.items():
            if not ok:
                raise UsageError(f"{name} is {getattr(self, name)!r}: needs {bound}")

    @property
    def links(self) -> int:
        """Links of each worker, those included that carry no frames: the graph has them, and heartbeats."""
        if self.rule in {"local", "all-reduce"}:
            return 0
        return self.workers - 1 if self.rule in SERVED else min(self.degree, self.workers - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What a scenario gave, means over the workers unless said. Nothing here says what was learned."""

    rule: Simulated
    workers: int
    rate: float
    """Steps a second of a worker."""
    efficiency: float
    """Steps by those of the same workers if they exchanged nothing. It says nothing of staleness: see the ages."""
    healthy_efficiency: float
    """The same over workers that are no stragglers."""
    bytes_per_step: float
    """Sent by a worker per step, receipts and heartbeats included."""
    dense_share: float
    """The same by 8 P, what synchronous dense training moves a worker and step."""
    median_age: float | None
    """Of the values (``async-ps``: and of the pushes) taken in, in steps of the receiver; None where there were none. Vectors of several frames are as
    old as the moment at which they were made; a run's own histogram counts each frame from its own posting."""
    p99_age: float | None
    ages: tuple[int, ...]
    """Histogram over ``metrics.AGE_EDGES``."""
    contacts: float
    """Versions of somebody else's values taken in, per step: whole models under rules that wait for an answer or for all,
    frames under the others."""
    skipped: float
    """Share of the frames due at a step boundary whose link had no credit."""
    seconds: float
    """Virtual."""
    steps: int
    """Measured of each worker."""


class AgeTally:
    """Ages of what was taken in, in bounded memory."""

    _FINE = np.geomspace(0.01, 1e5, 650)
    """Edges within 2.5 % of each other."""

    def __init__(self) -> None:
        self._fine = np.zeros(len(self._FINE) + 1, np.int64)
        self._bins = [0] * (len(AGE_EDGES) + 1)
        self._waiting: list[float] = []

    def add(self, age: float) -> None:
        """Take one, in steps."""
        self._bins[bisect_left(AGE_EDGES, age)] += 1
        self._waiting.append(age)
        if len(self._waiting) >= 8192:
            self._pour()

    def _pour(self) -> None:
        places = np.searchsorted(self._FINE, self._waiting)
        self._fine += np.bincount(places, minlength=len(self._fine))
        self._waiting.clear()

    @property
    def bins(self) -> tuple[int, ...]:
        """The histogram that runs keep."""
        return tuple(self._bins)

    def quantile(self, share: float) -> float | None:
        """Return an age that ``share`` of all ages do not exceed, within 2.5 %; None where there are none."""
        self._pour()
        total = int(self._fine.sum())
        if not total:
            return None
        place = int(np.searchsorted(np.cumsum(self._fine), share * total))
        return float(self._FINE[min(place, len(self._FINE) - 1)]) if place else 0.0


def mean_of(values: Sequence[float]) -> float:
    """Return the mean; 0 where there is nothing."""
    return float(np.mean(values)) if len(values) else 0.0
