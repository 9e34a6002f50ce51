"""What the paper reports, as it reports it. None of it was measured here."""

from __future__ import annotations

from dataclasses import dataclass

SETTING = "ResNet-50 on ImageNet-1K, 32 workers, 10 Gbit/s"


@dataclass(frozen=True, slots=True)
class Published:
    """One row of the paper's tables 1 and 2."""

    method: str
    """As the paper calls it."""
    rules: tuple[str, ...]
    """The rules of this project that do the same, or mean to."""
    bandwidth: float
    """Percent of synchronous SGD."""
    accuracy: float
    """Percent."""
    efficiency: float
    """Parallel efficiency, percent."""
    throughput: int
    """Images a second."""
    efficiency_at_128: float | None = None
    """Parallel efficiency of 128 workers, percent; the paper gives it for three methods."""


ROWS = (
    Published("synchronous SGD, parameter server", ("sync-ps",), 100, 92.1, 68, 12_400, 61),
    Published("asynchronous SGD, parameter server", ("async-ps",), 82, 91.3, 79, 16_800, 79),
    Published("gossip SGD, full exchange", ("gossip-dense",), 68, 90.8, 85, 19_200),
    Published("QSGD, asynchronous", ("gossip-qsgd",), 51, 91.7, 82, 17_900),
    Published("DAGrad", ("gradient", "state"), 29, 91.9, 87, 21_600, 87),
)
"""``gradient`` is DAGrad as the paper's text says; ``state`` is this project's own form of it."""


def find_published(rule: str) -> Published | None:
    """Return the paper's row for a rule; None where it has none."""
    return next((row for row in ROWS if rule in row.rules), None)
