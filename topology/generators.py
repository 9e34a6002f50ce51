"""Graphs that stay as they are. Arguments are checked first; chance comes from ``rng``."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.errors import UsageError
from dagrad_bus.ids import derive_node_id
from dagrad_bus.topology.graph import Pair, Round, is_connected, undirected
from dagrad_bus.topology.live import TopologySpec, edges

_DRAWS = 200
"""Random graphs tried before giving up on a connected one."""
_SWITCHES = 10
"""Random switches an edge after a random regular graph has become simple."""


def need_size(size: int, least: int, kind: str) -> None:
    """Raise UsageError if there are fewer than ``least`` workers."""
    if size < least:
        raise UsageError(f"{kind} needs at least {least} workers, not {size}")


def hash_rings(size: int, degree: int, seed: int) -> Round:
    """Return what live workers named ``local.0`` and on would compute: :func:`dagrad_bus.topology.live.edges`."""
    need_size(size, 2, "hash-rings")
    ids = [derive_node_id("graph", f"local.{i}") for i in range(size)]
    place = {node: i for i, node in enumerate(ids)}
    return undirected(size, [(place[a], place[b]) for a, b in edges(ids, TopologySpec(degree=degree, seed=seed))])


def ring(size: int) -> Round:
    """Return a cycle; a single edge for two."""
    need_size(size, 2, "ring")
    return undirected(size, [(i, (i + 1) % size) for i in range(size)])


def torus(size: int) -> Round:
    """Return the grid closed both ways, as square as its size allows.

    Raises:
        UsageError: the size is no product of two numbers from 3 up.
    """
    rows = next((rows for rows in range(math.isqrt(size), 2, -1) if size % rows == 0), 0)
    if not rows:
        raise UsageError(f"a torus needs a size that is a product of two numbers from 3 up, not {size}")
    columns = size // rows
    right = [(r * columns + c, r * columns + (c + 1) % columns) for r in range(rows) for c in range(columns)]
    down = [(r * columns + c, (r + 1) % rows * columns + c) for r in range(rows) for c in range(columns)]
    return undirected(size, right + down)


def star(size: int) -> Round:
    """Return worker 0 joined to all others."""
    need_size(size, 2, "star")
    return undirected(size, [(0, i) for i in range(1, size)])


def complete(size: int) -> Round:
    """Return every pair."""
    need_size(size, 2, "complete")
    return undirected(size, combinations(range(size), 2))


def random_regular(size: int, degree: int, rng: np.random.Generator) -> Round:
    """Return a connected random graph in which each has ``degree`` neighbours.

    Pairs the ends at random (configuration model); a pair that is a loop or a double exchanges ends with a random other
    pair until none is left; then ten switches an edge of random pairs take away what bias that left. A graph in parts is
    drawn anew.

    Raises:
        UsageError: no such graph: ``degree`` of at least ``size``, or both odd, or degree 1 above two workers.

    Source: Bollobas 1980; switches as in McKay and Wormald 1990.
    """
    need_size(size, 2, "random-regular")
    if not 1 <= degree < size or size * degree % 2 or (degree == 1 and size > 2):
        raise UsageError(f"there is no connected {degree}-regular graph of {size} workers")
    for _ in range(_DRAWS):
        pairs = _pair_ends(size, degree, rng)
        if pairs is not None and is_connected(found := undirected(size, pairs)):
            return found
    raise UsageError(f"found no connected {degree}-regular graph of {size} workers in {_DRAWS} draws")


def _pair_ends(size: int, degree: int, rng: np.random.Generator) -> list[Pair] | None:
    ends: NDArray[np.int64] = rng.permutation(np.repeat(np.arange(size), degree))
    pairs: list[Pair] = [_sorted(a, b) for a, b in ends.reshape(-1, 2).tolist()]
    count = dict.fromkeys(pairs, 0)
    for pair in pairs:
        count[pair] += 1
    bad = [i for i, (a, b) in enumerate(pairs) if a == b or count[a, b] > 1]
    for _ in range(100 * len(pairs)):
        while bad and (pairs[bad[-1]][0] != pairs[bad[-1]][1] and count[pairs[bad[-1]]] == 1):
            bad.pop()
        if not bad:
            _shuffle(pairs, count, rng)
            return pairs
        _switch(pairs, count, bad[-1], int(rng.integers(len(pairs))), flip=bool(rng.integers(2)))
    return None


def _shuffle(pairs: list[Pair], count: dict[Pair, int], rng: np.random.Generator) -> None:
    drawn: list[list[int]] = rng.integers(len(pairs), size=(_SWITCHES * len(pairs), 2)).tolist()
    flips: list[bool] = rng.integers(2, size=len(drawn)).astype(bool).tolist()
    for (i, j), flip in zip(drawn, flips, strict=True):
        _switch(pairs, count, i, j, flip=flip)


def _switch(pairs: list[Pair], count: dict[Pair, int], i: int, j: int, *, flip: bool) -> None:
    """Exchange ends of two pairs if both become good."""
    (a, b), (c, d) = pairs[i], pairs[j][::-1] if flip else pairs[j]
    new = _sorted(a, c), _sorted(b, d)
    if i == j or a == c or b == d or new[0] == new[1] or count.get(new[0], 0) or count.get(new[1], 0):
        return
    for place, pair in zip((i, j), new, strict=True):
        count[pairs[place]] -= 1
        pairs[place] = pair
        count[pair] = 1


def _sorted(a: int, b: int) -> Pair:
    return (a, b) if a < b else (b, a)


def erdos_renyi(size: int, degree: int, rng: np.random.Generator) -> Round:
    """Return each pair with one probability, such that ``degree`` is the mean; drawn anew until connected.

    Raises:
        UsageError: found none: the mean degree is far below ln(size), where a graph has lone workers.

    Source: Erdos and Renyi 1960.
    """
    need_size(size, 2, "erdos-renyi")
    every = np.stack(np.triu_indices(size, 1), axis=1)
    share = min(1.0, degree / (size - 1))
    for _ in range(_DRAWS):
        found = Round(size, every[rng.random(len(every)) < share])
        if is_connected(found):
            return found
    raise UsageError(
        f"found no connected graph of {size} workers with mean degree {degree} in {_DRAWS} draws: "
        f"below ln({size}) = {math.log(size):.1f} some worker is alone"
    )


def exponential(size: int) -> Round:
    """Return the directed graph in which i sends to i + 1, i + 2, i + 4, ... modulo size.

    Source: Ying et al. 2021, arXiv 2110.13363.
    """
    need_size(size, 2, "exponential")
    return shifts(size, [1 << k for k in range(hops(size))])


def hops(size: int) -> int:
    """Return ceil(log2(size)), at least 1."""
    return max(1, (size - 1).bit_length())


def shifts(size: int, distances: list[int], weight: float | None = None) -> Round:
    """Return the directed circulant round: i sends to i + u modulo size for each distinct distance u.

    Args:
        size: workers.
        distances: 1 .. size - 1; one named twice has twice the weight.
        weight: of one naming; None leaves the weights to the degrees.
    """
    distinct = sorted(set(distances))
    start = np.arange(size)
    pairs = np.concatenate([np.stack([start, (start + u) % size], axis=1) for u in distinct])
    weights = None
    if weight is not None:
        weights = np.repeat([weight * distances.count(u) for u in distinct], size)
    return Round(size, pairs, directed=True, weights=weights)


def equi_directed(size: int, degree: int, rng: np.random.Generator) -> Round:
    """Return D-EquiStatic: the mean of ``degree`` random circulants, (size - 1) / size of which goes to the neighbour.

    Its consensus rate does not depend on the size for degrees of the order of ln(size).

    Source: Song et al. 2022, arXiv 2210.07881, algorithm 1.
    """
    need_size(size, 2, "equi-directed")
    drawn: list[int] = rng.integers(1, size, degree).tolist()
    return shifts(size, drawn, (size - 1) / size / degree)


def equi_static(size: int, degree: int, rng: np.random.Generator) -> Round:
    """Return U-EquiStatic: ``degree // 2`` random circulants, each with its mirror image; undirected.

    Source: Song et al. 2022, arXiv 2210.07881, section 4.
    """
    need_size(size, 2, "equi-static")
    if degree % 2:
        raise UsageError(f"equi-static needs an even degree, not {degree}")
    drawn: list[int] = rng.integers(1, size, degree // 2).tolist()
    matrix = np.zeros((size, size))
    start = np.arange(size)
    for u in drawn:
        matrix[start, (start + u) % size] += (size - 1) / size / degree
        matrix[(start + u) % size, start] += (size - 1) / size / degree
    rows, columns = np.nonzero(np.triu(matrix))
    return Round(size, np.stack([rows, columns], axis=1), weights=matrix[rows, columns])
