"""A topology for looking at: one graph, or a sequence of them that workers go through round by round.

Workers are numbered 0 .. size - 1 here and may have names; what runs live knows members by their ids
(:mod:`dagrad_bus.topology.live`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.errors import UsageError

MAX_SIZE = 16_384
"""Workers of a topology."""
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """The links of one round.

    Raises:
        UsageError: an edge from a worker to itself or to none, twice the same edge, or weights that are none.
    """

    size: int
    edges: NDArray[np.int64]
    """[m, 2]. Undirected: the smaller number first. Directed: sender, receiver. Sorted, whatever was given."""
    directed: bool = False
    weights: NDArray[np.float64] | None = None
    """[m], of the mixing matrix; None: they follow from the degrees (:func:`dagrad_bus.topology.spectrum.mixing`)."""

    def __post_init__(self) -> None:
        """Bring into canonical form and check."""
        edges = np.asarray(self.edges, np.int64).reshape(-1, 2)
        if edges.size and (edges.min() < 0 or edges.max() >= self.size):
            raise UsageError(f"an edge names worker {edges.min() if edges.min() < 0 else edges.max()} of {self.size}")
        if (loops := edges[edges[:, 0] == edges[:, 1]]).size:
            raise UsageError(f"an edge joins worker {loops[0, 0]} to itself: the graph must be simple")
        edges = edges if self.directed else np.sort(edges, axis=1)
        order = np.lexsort((edges[:, 1], edges[:, 0]))
        edges = edges[order]
        if len(twice := edges[1:][(edges[1:] == edges[:-1]).all(axis=1)]):
            raise UsageError(f"edge {twice[0, 0]}-{twice[0, 1]} is named twice: the graph must be simple")
        object.__setattr__(self, "edges", edges)
        if self.weights is not None:
            weights = np.asarray(self.weights, np.float64)
            if weights.shape != (len(edges),) or not np.isfinite(weights).all() or (weights < 0).any():
                raise UsageError("weights must be finite, not negative, and one for each edge")
            object.__setattr__(self, "weights", weights[order])

    def sends(self) -> NDArray[np.int64]:
        """Return to how many each worker sends, int64[size]."""
        senders = self.edges[:, 0] if self.directed else self.edges.ravel()
        return np.bincount(senders, minlength=self.size)

    def arcs(self) -> NDArray[np.int64]:
        """Return (sender, receiver) of every link, both ways where undirected; int64[k, 2]."""
        return self.edges if self.directed else np.concatenate([self.edges, self.edges[:, ::-1]])


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """One or more rounds over the same workers.

    Raises:
        UsageError: no workers or too many, no round, or names that are not one for each.
    """

    kind: str
    rounds: tuple[Round, ...]
    names: tuple[str, ...] = ()
    """One a worker, distinct; empty: their numbers."""
    periodic: bool = field(default=True, kw_only=True)
    """Whether the rounds come again and again; False: they are a sample of endless random ones."""

    def __post_init__(self) -> None:
        """Check."""
        if not self.rounds:
            raise UsageError("a topology needs at least one round")
        if not 1 <= self.size <= MAX_SIZE:
            raise UsageError(f"the graph has {self.size} workers: needs 1 to {MAX_SIZE}")
        if self.names and (len(self.names) != self.size or len(set(self.names)) != self.size):
            raise UsageError(f"names must be distinct and one for each of {self.size} workers")

    @property
    def size(self) -> int:
        """How many workers."""
        return self.rounds[0].size

    @property
    def directed(self) -> bool:
        """Whether any round is."""
        return any(one.directed for one in self.rounds)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names, or numbers as text."""
        return self.names or tuple(map(str, range(self.size)))

    def union(self) -> Round:
        """Return all links of all rounds as one round without weights."""
        if len(self.rounds) == 1:
            return self.rounds[0]
        parts = [one.arcs() if self.directed else one.edges for one in self.rounds]
        return Round(self.size, np.unique(np.concatenate(parts), axis=0), self.directed)


def undirected(size: int, pairs: Iterable[Pair]) -> Round:
    """Return a round of these pairs, each of which may be named twice and either way round."""
    distinct = sorted({(min(a, b), max(a, b)) for a, b in pairs})
    return Round(size, np.array(distinct, np.int64).reshape(-1, 2))


def is_connected(one: Round) -> bool:
    """Return whether every worker is reached from every other, along the direction of the links."""
    forward = _reached(one.size, one.arcs())
    return forward and (not one.directed or _reached(one.size, one.edges[:, ::-1]))


def _reached(size: int, arcs: NDArray[np.int64]) -> bool:
    seen = np.zeros(size, bool)
    seen[0] = True
    count = 0
    while count != (count := int(seen.sum())):
        seen[arcs[seen[arcs[:, 0]], 1]] = True
    return count == size
