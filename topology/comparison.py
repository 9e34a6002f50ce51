"""Kinds of topology side by side: means over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dagrad_bus.errors import UsageError
from dagrad_bus.topology.graph import Topology
from dagrad_bus.topology.kinds import KINDS, generate
from dagrad_bus.topology.rewiring import edges_per_leave
from dagrad_bus.topology.spectrum import Spectrum, spectrum
from dagrad_bus.topology.structure import distances, survival

PUBLISHED = {
    ("random-regular", 32): 0.175,
    ("random-regular", 64): 0.136,
    ("random-regular", 256): 0.114,
    ("hash-rings", 32): 0.163,
    ("hash-rings", 64): 0.138,
    ("hash-rings", 256): 0.113,
    ("ring", 32): 0.013,
    ("ring", 64): 0.003,
}
"""Gaps at degree 4 that DAGrad's documents name; those of hash-rings were taken before its rule 1 made degrees exact."""
DEATHS = 0.25


@dataclass(frozen=True, slots=True)
class Row:
    """One kind at one size. Numbers are means over seeds; None: not there."""

    kind: str
    size: int
    seeds: int
    """How many were drawn; 1 where chance has no part."""
    refused: str = ""
    """Why there is no such graph; all else is then None."""
    gap: float | None = None
    gap_error: float | None = None
    """Standard error of the mean; None for one seed."""
    gap_published: float | None = None
    rounds: float | None = None
    """Until 1e-3 of the disagreement is left."""
    exact_after: int | None = None
    sends: float | None = None
    """To how many a worker sends in a round."""
    diameter: float | None = None
    """Of the union of the rounds."""
    per_leave: float | None = None
    """Edges that open when one worker leaves."""
    survives: float | None = None
    """Share of trials in which the rest is connected after 25 % died at once."""


def compare(kind: str, size: int, *, degree: int, seeds: int, told: Callable[[], None] = lambda: None) -> Row:
    """Measure one kind at one size.

    Args:
        kind: one of :data:`KINDS`.
        size: workers.
        degree: see the kind.
        seeds: draws of a random kind, 0 .. seeds - 1.
        told: called after each draw.
    """
    count = seeds if KINDS[kind].random else 1
    measured: list[tuple[Spectrum, _Numbers]] = []
    for seed in range(count):
        try:
            topology = generate(kind, size, degree=degree, seed=seed)
        except UsageError as error:
            return Row(kind, size, count, str(error))
        measured.append((spectrum(topology), _measure(topology, degree, seed)))
        told()
    gaps = np.array([found.gap for found, _ in measured])
    exact = {found.exact_after for found, _ in measured}
    rounds = [found.rounds for found, _ in measured]
    return Row(
        kind,
        size,
        count,
        gap=float(gaps.mean()),
        gap_error=float(gaps.std(ddof=1) / np.sqrt(count)) if count > 1 else None,
        gap_published=PUBLISHED.get((kind, size)) if degree == 4 else None,
        rounds=_mean([None if number is None else float(number) for number in rounds]),
        exact_after=exact.pop() if len(exact) == 1 else None,
        sends=_mean([numbers.sends for _, numbers in measured]),
        diameter=_mean([numbers.diameter for _, numbers in measured]),
        per_leave=_mean([numbers.per_leave for _, numbers in measured]),
        survives=_mean([numbers.survives for _, numbers in measured]),
    )


@dataclass(frozen=True, slots=True)
class _Numbers:
    sends: float
    diameter: float | None
    per_leave: float | None
    survives: float


def _measure(topology: Topology, degree: int, seed: int) -> _Numbers:
    one = topology.union()
    diameter, _ = distances(one)
    sends = [each.sends().mean() for each in topology.rounds]
    return _Numbers(
        float(np.mean(sends)),
        None if diameter is None else float(diameter),
        edges_per_leave(topology, degree=degree, seed=seed),
        survival(one, DEATHS, trials=50, rng=np.random.default_rng(seed)),
    )


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return float(np.mean(known)) if known and len(known) == len(numbers) else None
