"""What a seed stands for: which faults may happen, and how hard each of them is. Drawn by coins, as a swarm."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from random import Random

from dagrad_bus.errors import UsageError

FAULTS = (
    "latency", "rate", "full", "reset", "hang", "partition", "oneway", "drop", "flip", "crash", "hostloss", "restart",
    "pause", "drift", "wallclock", "stall", "slowreader", "nocredit", "leave", "join", "hostile", "rewire",
)  # fmt: skip
"""Fault classes, each on or off by a coin."""
MOST_WORKERS = 10_000


@dataclass(frozen=True, slots=True)
class Options:
    """One run. Everything random about it follows from ``seed``.

    Raises:
        UsageError: a fault class that does not exist, or a number out of range.
    """

    seed: int
    workers: int = 6
    horizon: float = 40.0
    """Virtual seconds of phase 1."""
    faults: tuple[str, ...] = ()
    latency: float = 0.02
    """Most seconds between two hosts, where ``latency`` is on."""
    rate: float = 100_000.0
    """Bytes a second of a slow line; at least 210 kbit/s."""
    reset: float = 0.02
    """Chance of each worker, each second, that one of its connections breaks."""
    hang: float = 0.01
    """Chance, likewise, that one delivers nothing for a while."""
    partition: float = 0.02
    """Chance, each second, that the network falls apart."""
    drop: float = 0.1
    """Share of the copies of broadcasts that are lost."""
    flip: float = 0.002
    """Share of the messages that arrive damaged."""
    full: float = 0.02
    """Share of the sends that find no room."""
    crash: float = 0.01
    """Chance of each worker, each second."""
    pause: float = 0.01
    """Chance, likewise; for 0.5 to 25 s."""
    step: float = 1.0
    """Seconds a training step takes, about."""
    fanout: int = 0
    """Links that get each frame; 0: all."""
    window: int = 4
    """Frames in flight per link."""

    def __post_init__(self) -> None:
        """Check every bound."""
        unknown = set(self.faults) - set(FAULTS)
        if unknown:
            raise UsageError(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
        if not 2 <= self.workers <= MOST_WORKERS:
            raise UsageError(f"{self.workers} workers: needs 2 to {MOST_WORKERS}")
        if not 0 < self.horizon < 1e6:
            raise UsageError(f"a horizon of {self.horizon} s: needs more than 0 and less than 1000000")

    def has(self, fault: str) -> bool:
        """Whether a fault class is on."""
        return fault in self.faults

    def told(self) -> str:
        """Return it on one line."""
        values = asdict(self)
        values["faults"] = ",".join(self.faults) or "none"
        return " ".join(f"{name}={round(v, 4) if isinstance(v, float) else v}" for name, v in values.items())


def draw(seed: int, workers: tuple[int, int] = (4, 12), horizon: float = 40.0) -> Options:
    """Return the options of a seed.

    Args:
        seed: from 0.
        workers: least and most of them.
        horizon: most virtual seconds of phase 1; half of it at least.
    """
    rng = Random(seed * 2 + 1)
    faults = tuple(fault for fault in FAULTS if rng.random() < 0.5)
    return Options(
        seed=seed,
        workers=workers[0] + int(rng.random() * (workers[1] - workers[0] + 1)),
        horizon=horizon * rng.uniform(0.5, 1.0),
        faults=faults,
        latency=rng.choice((0.02, 0.1, 0.5)),
        rate=rng.choice((27_000.0, 100_000.0, 1_000_000.0)),
        reset=rng.uniform(0.0, 0.05),
        hang=rng.uniform(0.0, 0.02),
        partition=rng.uniform(0.0, 0.03),
        drop=rng.uniform(0.0, 0.3),
        flip=rng.choice((0.0005, 0.005, 0.02)),
        full=rng.uniform(0.0, 0.1),
        crash=rng.uniform(0.0, 0.02),
        pause=rng.uniform(0.0, 0.02),
        step=rng.choice((0.5, 1.0, 2.0)),
        fanout=rng.choice((0, 0, 1, 2)),
        window=rng.choice((1, 2, 4, 8)),
    )
