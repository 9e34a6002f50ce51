"""What things cost in virtual time: computing, links, stragglers; pure functions of numbers handed in.

A worker's step computes for a random time around ``compute``, then sends. A frame waits until the sender's card is
free, leaves it at ``bandwidth``, flies for ``latency`` and a random tail, and waits again for the receiver's card: so a
server that hears many workers is slowed down by all of them, as a real one is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dagrad_bus.errors import UsageError


def _check(ok: bool, name: str, value: object, bound: str) -> None:
    if not ok:
        raise UsageError(f"costs: {name} is {value!r}: needs {bound}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds and bytes of a made-up cluster; every worker has the same card and the same kind of processor."""

    compute: float = 0.05
    """Median seconds of forward, backward and the optimizer of one step."""
    spread: float = 0.05
    """Sigma of the logarithm of a step's time (log-normal); 0: every step takes ``compute``."""
    slowdown: Mapping[int, float] = field(default_factory=dict[int, float])
    """Worker index: how many times longer its steps take. Stragglers."""
    exchange: float = 0.0
    """Seconds that one step boundary costs the training thread, whatever it sends."""
    exchange_byte: float = 0.0
    """Seconds that each byte handed over or mixed in costs the training thread."""
    bandwidth: float = 1.25e9
    """Bytes a second of a worker's card, in each direction; infinity: bytes cost no time."""
    latency: float = 0.0002
    """Seconds a message flies at least."""
    tail: float = 0.0
    """Scale in seconds of a heavy-tailed (Pareto) addition to the flight of each message; 0: none."""
    tail_index: float = 1.5
    """Index of that tail: below 2 its variance is infinite, at 1 or below its mean too."""
    swing: float = 0.0
    """Share by which every card's bandwidth swings over time, in [0, 1): time-varying links."""
    swing_period: float = 10.0
    """Seconds of one swing; each worker's begins at another phase."""

    def __post_init__(self) -> None:
        """Check every bound."""
        for name in ("spread", "exchange", "exchange_byte", "latency", "tail"):
            value = getattr(self, name)
            _check(value >= 0 and math.isfinite(value), name, value, "0 or more")
        _check(self.compute > 0 and math.isfinite(self.compute), "compute", self.compute, "seconds over 0")
        _check(self.bandwidth > 0, "bandwidth", self.bandwidth, "bytes a second over 0")
        _check(self.tail_index > 0, "tail_index", self.tail_index, "an index over 0")
        _check(0 <= self.swing < 1, "swing", self.swing, "a share in [0, 1)")
        _check(self.swing_period > 0, "swing_period", self.swing_period, "seconds over 0")
        for worker, factor in self.slowdown.items():
            _check(worker >= 0 and factor > 0, "slowdown", dict(self.slowdown), "factors over 0 by worker index")

    def step_time(self, worker: int, rng: np.random.Generator) -> float:
        """Draw the seconds that one step of ``worker`` computes."""
        drawn = math.exp(self.spread * rng.standard_normal()) if self.spread else 1.0
        return self.compute * drawn * self.slowdown.get(worker, 1.0)

    def boundary_time(self, size: int) -> float:
        """Return the seconds that a boundary costs which hands over or mixes ``size`` bytes."""
        return self.exchange + self.exchange_byte * size

    def transfer_time(self, size: int, worker: int, now: float) -> float:
        """Return the seconds that ``size`` bytes occupy the card of ``worker``, in one direction, at time ``now``."""
        if math.isinf(self.bandwidth):
            return 0.0
        phase = 2 * math.pi * (now / self.swing_period + worker * 0.618)
        return size / (self.bandwidth * (1 + self.swing * math.sin(phase)))

    def flight_time(self, rng: np.random.Generator) -> float:
        """Draw the seconds that a message flies."""
        return self.latency + (self.tail * rng.pareto(self.tail_index) if self.tail else 0.0)
