"""All kinds of topology by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dagrad_bus.errors import UsageError
from dagrad_bus.topology import generators, sequences
from dagrad_bus.topology.graph import MAX_SIZE, Round, Topology

Make = Callable[[int, int, int], Round | tuple[Round, ...]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: how it is made from size, degree and seed, and what to say of it."""

    make: Make
    about: str
    degree: str = ""
    """What ``degree`` means for it; empty: nothing."""
    random: bool = False
    """Whether the seed changes it."""
    periodic: bool = True


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


KINDS: dict[str, Kind] = {
    "hash-rings": Kind(generators.hash_rings, "what live workers use: degree/2 rings ordered by hash", "even", True),
    "random-regular": Kind(
        lambda n, d, s: generators.random_regular(n, d, _rng(s)), "uniform among regular graphs", "exact", True
    ),
    "ring": Kind(lambda n, _d, _s: generators.ring(n), "a cycle"),
    "torus": Kind(lambda n, _d, _s: generators.torus(n), "a grid closed both ways; 4 neighbours"),
    "star": Kind(lambda n, _d, _s: generators.star(n), "worker 0 joined to all others"),
    "complete": Kind(lambda n, _d, _s: generators.complete(n), "every pair"),
    "exponential": Kind(lambda n, _d, _s: generators.exponential(n), "directed: i sends to i + 1, 2, 4, ..."),
    "erdos-renyi": Kind(
        lambda n, d, s: generators.erdos_renyi(n, d, _rng(s)), "each pair with one probability", "mean", True
    ),
    "equi-static": Kind(
        lambda n, d, s: generators.equi_static(n, d, _rng(s)), "U-EquiStatic: random circulants", "even, at most", True
    ),
    "equi-directed": Kind(
        lambda n, d, s: generators.equi_directed(n, d, _rng(s)), "D-EquiStatic, directed", "at most", True
    ),
    "one-peer-exponential": Kind(
        lambda n, _d, _s: sequences.one_peer_exponential(n), "sequence: round k, i sends to i + 2^k"
    ),
    "equi-one-peer": Kind(
        lambda n, _d, s: sequences.equi_one_peer(n, _rng(s)), "sequence: OD-EquiDyn", "", True, periodic=False
    ),
    "base": Kind(
        lambda n, d, _s: sequences.base_graph(n, d), "sequence: Base-(k+1), exact mean after a period", "k, at most"
    ),
    "epidemic": Kind(
        lambda n, d, s: sequences.epidemic(n, d, _rng(s)),
        "sequence: each sends to random others (EL-Local)",
        "receivers",
        True,
        periodic=False,
    ),
}


def generate(kind: str, size: int, *, degree: int = 4, seed: int = 0) -> Topology:
    """Make a topology.

    Args:
        kind: one of :data:`KINDS`.
        size: workers, 2 to :data:`MAX_SIZE`.
        degree: see the kind.
        seed: u64, of random kinds.

    Raises:
        UsageError: no such kind, or no such graph; the message says why.
    """
    if kind not in KINDS:
        raise UsageError(f"kind is {kind!r}: needs one of {', '.join(KINDS)}")
    if not 2 <= size <= MAX_SIZE:
        raise UsageError(f"size is {size}: needs 2 to {MAX_SIZE}")
    if not 1 <= degree <= 254:
        raise UsageError(f"degree is {degree}: needs 1 to 254")
    if not 0 <= seed < 1 << 64:
        raise UsageError(f"seed is {seed}: needs 0 to 2**64 - 1")
    made = KINDS[kind].make(size, degree, seed)
    rounds = (made,) if isinstance(made, Round) else made
    return Topology(kind, rounds, periodic=KINDS[kind].periodic)
