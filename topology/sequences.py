"""Graphs that change from round to round: each worker talks to few others at a time, and to many over the rounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dagrad_bus.errors import UsageError
from dagrad_bus.topology.generators import hops, need_size, shifts
from dagrad_bus.topology.graph import Pair, Round

SAMPLE = 32
"""Rounds drawn of a sequence that never ends."""
Weighted = dict[Pair, float]
"""Undirected edges of one round, the smaller number first, with their weights."""


def one_peer_exponential(size: int) -> tuple[Round, ...]:
    """Return ceil(log2(size)) rounds: in round k, i sends half to i + 2^k modulo size.

    Exact consensus after one period where the size is a power of two.

    Source: Ying et al. 2021, arXiv 2110.13363.
    """
    need_size(size, 2, "one-peer-exponential")
    return tuple(shifts(size, [1 << k], 0.5) for k in range(hops(size)))


def equi_one_peer(size: int, rng: np.random.Generator, *, share: float = 0.5) -> tuple[Round, ...]:
    """Return rounds of OD-EquiDyn: each a circulant of a random distance.

    Args:
        size: workers.
        rng: draws the distances.
        share: eta, (0, 1): how much of a round's circulant is taken.

    Source: Song et al. 2022, arXiv 2210.07881, section 5.
    """
    need_size(size, 2, "equi-one-peer")
    drawn: list[int] = rng.integers(1, size, SAMPLE).tolist()
    return tuple(shifts(size, [u], share * (size - 1) / size) for u in drawn)


def epidemic(size: int, sends: int, rng: np.random.Generator) -> tuple[Round, ...]:
    """Return rounds in which each sends to ``sends`` random others; a receiver averages what it got with its own.

    Row-stochastic only: replicas agree, on the mean in expectation.

    Source: de Vos et al. 2023, arXiv 2310.01972, EL-Local.
    """
    need_size(size, 2, "epidemic")
    if not 1 <= sends < size:
        raise UsageError(f"epidemic needs 1 to {size - 1} receivers each round, not {sends}")
    rounds: list[Round] = []
    for _ in range(SAMPLE):
        ranks = rng.random((size, size))
        np.fill_diagonal(ranks, 2.0)  # nobody sends to itself
        receivers = np.argpartition(ranks, sends - 1, axis=1)[:, :sends]
        pairs = np.stack([np.repeat(np.arange(size), sends), receivers.ravel()], axis=1)
        rounds.append(Round(size, pairs, directed=True))
    return tuple(rounds)


def base_graph(size: int, degree: int) -> tuple[Round, ...]:
    """Return the Base-(k+1) graph, k = ``degree``: exact consensus after one period, for every size.

    The shorter of two ways: the simple graph over all; or, with m the largest divisor without prime factors above k + 1,
    the simple graph in each of m groups at once, then cliques across the groups.

    Source: Takezawa et al. 2023, arXiv 2305.11420, algorithms 1 to 3.
    """
    need_size(size, 2, "base")
    if not 1 <= degree < size:
        raise UsageError(f"base needs a degree of 1 to {size - 1}, not {degree}")
    best = _simple(range(size), degree + 1)
    factors = _smooth_factors(size, degree + 1)
    groups = int(np.prod(factors, initial=1))
    if groups > 1:
        rest = size // groups
        inner = _beside([_simple(range(g * rest, (g + 1) * rest), degree + 1) for g in range(groups)])
        across = _beside([_cliques(range(place, size, rest), factors) for place in range(rest)])
        best = min(best, inner + across, key=len)
    return tuple(_round(size, one) for one in best)


def _round(size: int, edges: Weighted) -> Round:
    pairs = np.array(list(edges), np.int64).reshape(-1, 2)
    return Round(size, pairs, weights=np.array(list(edges.values())))


def _beside(sequences: Sequence[list[Weighted]]) -> list[Weighted]:
    """Run sequences over distinct workers at the same time; they are equally long."""
    return [{pair: w for one in rounds for pair, w in one.items()} for rounds in zip(*sequences, strict=True)]


def _smooth_factors(size: int, base: int) -> list[int]:
    """Return factors of at most ``base`` each, the large ones first, until only larger primes are left of ``size``."""
    factors: list[int] = []
    for factor in range(base, 1, -1):
        while size % factor == 0:
            factors.append(factor)
            size //= factor
    return factors


def _cliques(nodes: Sequence[int], factors: Sequence[int]) -> list[Weighted]:
    """Return the hyper-hypercube: exact mean of as many nodes as the product of the factors, a factor a round.

    In each round cliques average whose members differ in one digit of the mixed radix.
    """
    rounds: list[Weighted] = []
    stride = 1
    for factor in factors:
        edges: Weighted = {}
        for i in range(len(nodes)):
            if i // stride % factor == 0:
                clique = [nodes[i + k * stride] for k in range(factor)]
                edges |= {_pair(a, b): 1 / factor for k, a in enumerate(clique) for b in clique[k + 1 :]}
        rounds.append(edges)
        stride *= factor
    return rounds


def _pair(a: int, b: int) -> Pair:
    return (a, b) if a < b else (b, a)


def _simple(nodes: Sequence[int], base: int) -> list[Weighted]:
    """Return the simple Base-(k+1) graph over ``nodes``.

    The count is written in the base: parts V_1, V_2, ... of a * base^p nodes with falling p, 1 <= a < base. First every
    part takes its own mean. Then, part by part, each node of a later part exchanges with one node in each of the a groups
    of V_l, by weights that bring the later parts, and every group of V_l as a whole, to the mean of all. Last, the groups
    take their mean while later parts are still at it.
    """
    parts = _digits(nodes, base)
    own = [_cliques(part, [base] * power + [count] * (count > 1)) for part, count, power in parts]
    if len(parts) == 1:
        return own[0]
    first, longest = len(own[0]), len(own[0]) + 1 + parts[0][2]
    rounds: list[Weighted] = [{} for _ in range(longest)]
    for index, (part, count, power) in enumerate(parts):
        for i, edges in enumerate(own[index]):
            rounds[i] |= edges
        if index == len(parts) - 1:
            break  # it is at the mean with the others' last exchange
        rounds[first + index] |= _exchange(parts, index)
        for g in range(count):
            group = part[g * base**power : (g + 1) * base**power]
            for i, edges in enumerate(_cliques(group, [base] * power)):
                rounds[first + index + 1 + i] |= edges
    return rounds


def _digits(nodes: Sequence[int], base: int) -> list[tuple[Sequence[int], int, int]]:
    """Return (its nodes, digit, power) for each digit of the count of nodes that is not 0."""
    parts: list[tuple[Sequence[int], int, int]] = []
    power = 0
    while base ** (power + 1) <= len(nodes):
        power += 1
    while nodes:
        count = len(nodes) // base**power
        if count:
            parts.append((nodes[: count * base**power], count, power))
            nodes = nodes[count * base**power :]
        power -= 1
    return parts


def _exchange(parts: Sequence[tuple[Sequence[int], int, int]], index: int) -> Weighted:
    part, count, _ = parts[index]
    later = [node for nodes, _, _ in parts[index + 1 :] for node in nodes]
    weight = len(part) / (len(part) + len(later)) / count
    group = len(part) // count
    return {_pair(node, part[g * group + i]): weight for i, node in enumerate(later) for g in range(count)}
