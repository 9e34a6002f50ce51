"""What a graph is like beside its spectrum: distances, degrees, and what it bears of deaths and of liars.

Of a sequence the union of its rounds is looked at. Distances follow the direction of links; clustering, algebraic
connectivity and robustness take every link both ways.

**Liars.** Two bounds on Byzantine neighbours, both for rules that look at neighbours' values alone:

* ``trimmed``: b such that b faulty among the neighbours of *any* worker are outvoted by a coordinate-wise trimmed mean,
  which drops the b largest and b smallest values it got in a round: 2 b < least in-degree. Source: Yin et al. 2018,
  arXiv 1803.01498; on graphs BRIDGE, Fang, Yang and Bajwa 2022, arXiv 1908.08649 (least in-degree 2 b + 1).
* ``robustness``: r such that of any two disjoint groups of workers one has a member with r neighbours outside its group.
  W-MSR then agrees in spite of F liars around each worker if r >= 2 F + 1 (LeBlanc et al. 2013). Computing r is NP-hard;
  ceil(lambda_2 / 2) of the Laplacian bounds it from below: a group of at most half the workers has at least
  lambda_2 |S| / 2 edges leaving it, hence a member with that many per head. For undirected graphs that do not change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.topology.graph import Round, Topology

DEATHS = (0.1, 0.25, 0.5)
"""Shares of workers that die at once, without repair."""
_DENSE = 2048
"""Largest size for which the Laplacian's eigenvalue is computed."""


@dataclass(frozen=True, slots=True)
class Structure:
    """Numbers of one graph."""

    size: int
    edges: int
    directed: bool
    connected: bool
    """Directed: every worker reaches every other."""
    degree_least: int
    """Of receivers that a worker sends to, over the union of the rounds."""
    degree_mean: float
    degree_most: int
    sends_most: int
    """To how many a worker sends in one round, at most."""
    diameter: int | None
    """None: not connected."""
    mean_path: float | None
    clustering: float
    """Mean over workers of the share of pairs of neighbours that are joined (Watts and Strogatz 1998)."""
    survives: dict[float, float]
    """Share of workers that die at once: share of trials in which the rest is connected."""
    trimmed: int
    robustness: int | None
    """Lower bound of r; None: a directed graph, a sequence, or over 2048 workers."""
    algebraic: float | None
    """lambda_2 of the Laplacian."""

    @property
    def liars(self) -> int | None:
        """F: liars around each worker in spite of whom W-MSR is guaranteed to agree."""
        return None if self.robustness is None else max(0, (self.robustness - 1) // 2)


def structure(topology: Topology, *, trials: int = 200, seed: int = 0) -> Structure:
    """Measure a graph; O(size * edges * diameter / 64) for the distances, O(size^3) for the Laplacian.

    Args:
        topology: its rounds are joined.
        trials: draws of the dead, for each share.
        seed: of those draws.
    """
    one = topology.union()
    sends = one.sends()
    received = min(int(np.bincount(each.arcs()[:, 1], minlength=one.size).min()) for each in topology.rounds)
    diameter, mean_path = distances(one)
    rng = np.random.default_rng(seed)
    algebraic = algebraic_connectivity(one) if one.size <= _DENSE else None
    return Structure(
        size=one.size,
        edges=len(one.edges),
        directed=one.directed,
        connected=diameter is not None,
        degree_least=int(sends.min()),
        degree_mean=float(sends.mean()),
        degree_most=int(sends.max()),
        sends_most=max(int(each.sends().max()) for each in topology.rounds),
        diameter=diameter,
        mean_path=mean_path,
        clustering=clustering(one),
        survives={share: survival(one, share, trials=trials, rng=rng) for share in DEATHS},
        trimmed=max(0, (received - 1) // 2),
        robustness=_robustness(algebraic) if not one.directed and len(topology.rounds) == 1 else None,
        algebraic=algebraic,
    )


def _robustness(algebraic: float | None) -> int | None:
    """Return the lower bound of r; 0: in parts. 1e-9 is rounding, not connection."""
    if algebraic is None:
        return None
    return 0 if algebraic < 1e-9 else max(1, math.ceil(algebraic / 2 - 1e-9))


def distances(one: Round) -> tuple[int | None, float | None]:
    """Return the diameter and the mean length of the shortest path over ordered pairs; (None, None): not connected."""
    if one.size == 1:
        return 0, 0.0
    near = [0] * one.size
    for a, b in _pairs(one.arcs()):
        near[a] |= 1 << b
    outward = [[b for b in range(one.size) if near[a] >> b & 1] for a in range(one.size)]
    reached = [1 << a for a in range(one.size)]
    whole, total, steps = one.size * one.size, 0, 0
    found = one.size
    while found < whole:
        steps += 1
        new: list[int] = []
        for a, others in enumerate(outward):
            bits = reached[a]
            for b in others:
                bits |= reached[b]
            new.append(bits)
        now = sum(bits.bit_count() for bits in new)
        if now == found:
            return None, None
        total += steps * (now - found)
        reached, found = new, now
    return steps, total / (whole - one.size)


def _pairs(arcs: NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    return ((a, b) for a, b in arcs.tolist())


def clustering(one: Round) -> float:
    """Return the mean local clustering coefficient; workers with fewer than two neighbours count 0."""
    near: list[set[int]] = [set() for _ in range(one.size)]
    for a, b in _pairs(one.edges):
        near[a].add(b)
        near[b].add(a)
    shares = [
        sum(len(near[a] & near[b]) for b in near[a]) / (len(near[a]) * (len(near[a]) - 1))
        for a in range(one.size)
        if len(near[a]) > 1
    ]
    return sum(shares) / one.size


def survival(one: Round, share: float, *, trials: int, rng: np.random.Generator) -> float:
    """Return in what share of trials the graph stays connected when ``share`` of the workers die at once, unrepaired."""
    dead = round(share * one.size)
    if dead >= one.size - 1 or trials < 1:
        return 1.0
    arcs = one.arcs()
    good = 0
    for _ in range(trials):
        alive = np.ones(one.size, bool)
        alive[rng.permutation(one.size)[:dead]] = False
        left = arcs[alive[arcs[:, 0]] & alive[arcs[:, 1]]]
        good += _whole(alive, left) and (not one.directed or _whole(alive, left[:, ::-1]))
    return good / trials


def _whole(alive: NDArray[np.bool_], arcs: NDArray[np.int64]) -> bool:
    seen = np.zeros(len(alive), bool)
    seen[np.argmax(alive)] = True
    count = 0
    while count != (count := int(seen.sum())):
        seen[arcs[seen[arcs[:, 0]], 1]] = True
    return count == int(alive.sum())


def algebraic_connectivity(one: Round) -> float:
    """Return the second smallest eigenvalue of the Laplacian, every link taken both ways."""
    if one.size == 1:
        return 0.0
    adjacent = np.zeros((one.size, one.size))
    adjacent[one.edges[:, 0], one.edges[:, 1]] = 1
    adjacent = np.maximum(adjacent, adjacent.T)
    return float(max(0.0, np.linalg.eigvalsh(np.diag(adjacent.sum(axis=1)) - adjacent)[1]))
