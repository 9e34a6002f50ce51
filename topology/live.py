"""The graph as a pure function of who is there: neighbours are computed, never negotiated.

Two workers that agree on the members and on the :class:`TopologySpec` agree on every edge. While their views differ,
nothing breaks, since a frame is valid from any member.

**hash-rings, rule 1** (``degree`` even; ``N`` members):

1. ``N <= degree + 1``: the complete graph.
2. Ring r = 0 .. degree/2 - 1 orders the members by BLAKE2b(node id, r, seed, epoch); the smallest stands first, equal
   digests are ordered by id. A ring's edges join neighbours in that cyclic order.
3. Ring 0 stays as it is, a Hamiltonian cycle: the graph is connected.
4. Every later ring is walked from its first place, again until a walk finds nothing. Where the edge from place i to
   i + 1 already belongs to an earlier ring, the walk looks on along the ring for the smallest k >= 2 such that turning
   round the k members after place i makes two new edges, (i, i + k) and (i + 1, i + k + 1) by their old places, neither
   of them of an earlier ring; and turns them round. A ring so repaired is still a Hamiltonian cycle, and no edge is in
   two rings, so the degree holds exactly.
5. A repair has N - 3 choices of k, and at most 4 r - 2 of them are blocked: rule 4 cannot fail for N >= 2 degree - 2,
   for degree 4 never. Below that (a nearly complete graph), should a ring fail, all rings are replaced by the
   circulant graph of ring 0: places at most ``degree/2`` apart are joined.

One member that leaves or joins touches one place in each ring, and rarely a repair beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import combinations
from types import MappingProxyType
from typing import Literal, get_args

from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId
from dagrad_bus.topology.repair import Edge, sorted_edge
from dagrad_bus.topology.static import DIGEST_BYTES, StaticGraph

GraphKind = Literal["hash-rings", "ring", "complete", "static"]
Adjacency = Mapping[NodeId, tuple[NodeId, ...]]
"""The neighbours of every member, sorted by id."""
MAX_DEGREE = 254
NOBODY = NodeId(bytes(16))
"""Author of the spec that a run starts with."""
_U64 = 1 << 64


@dataclass(frozen=True, slots=True)
class TopologySpec:
    """What the graph is made by, beside the members: a register in which the highest (version, author) wins.

    Raises:
        UsageError: a kind this version does not know, or a number out of range.
    """

    version: int = 0
    """Rises with every rewiring; u64. 0 is the one that a run starts with, equal for all by their settings."""
    author: NodeId = NOBODY
    """Who published it; decides between equal versions."""
    kind: GraphKind = "hash-rings"
    degree: int = 4
    """Neighbours of each member, even; only ``hash-rings`` looks at it."""
    seed: int = 0
    """u64."""
    epoch: int = 0
    """u64; another epoch is another graph of the same kind."""
    graph: bytes = b""
    """``static``: digest of the graph document, 8 bytes; empty otherwise."""

    def __post_init__(self) -> None:
        """Check every bound."""
        if self.kind not in get_args(GraphKind):
            raise UsageError(f"kind is {self.kind!r}: needs one of {', '.join(get_args(GraphKind))}")
        if not 2 <= self.degree <= MAX_DEGREE or self.degree % 2:
            raise UsageError(f"degree is {self.degree}: needs an even number from 2 to {MAX_DEGREE}")
        for name in ("version", "seed", "epoch"):
            if not 0 <= getattr(self, name) < _U64:
                raise UsageError(f"{name} is {getattr(self, name)}: needs 0 to 2**64 - 1")
        if len(self.graph) != (DIGEST_BYTES if self.kind == "static" else 0):
            raise UsageError(f"graph is {len(self.graph)} bytes: static needs {DIGEST_BYTES}, every other kind none")

    def supersedes(self, other: TopologySpec) -> bool:
        """Whether this one replaces ``other``; equal ones do not."""
        return (self.version, self.author) > (other.version, other.author)


def neighbours(
    self_id: NodeId, view: Iterable[NodeId], spec: TopologySpec, graph: StaticGraph | None = None
) -> tuple[NodeId, ...]:
    """Return whom ``self_id`` exchanges with, sorted by id.

    Args:
        self_id: us; counts as a member whether ``view`` names it or not.
        view: the members believed there, in any order.
        spec: the graph's kind and numbers.
        graph: what ``spec.graph`` names; only ``static`` looks at it.

    Returns:
        For equal views symmetric: j is a neighbour of i exactly if i is one of j.

    Raises:
        UsageError: ``static`` without the graph that it names.
    """
    return _adjacency(_canonical([self_id, *view]), spec, graph)[self_id]


def edges(view: Iterable[NodeId], spec: TopologySpec, graph: StaticGraph | None = None) -> frozenset[Edge]:
    """Return every edge of the graph, the smaller id of each first. O(degree * N log N)."""
    return _edges(_canonical(view), spec, graph)


def adjacency(view: Iterable[NodeId], spec: TopologySpec, graph: StaticGraph | None = None) -> Adjacency:
    """Return the neighbours of every member, read-only."""
    return _adjacency(_canonical(view), spec, graph)


def member_key(node: NodeId) -> int:
    """Return a member's part in the key of :func:`shared_adjacency`, u64: BLAKE2b-64 of its id."""
    return int.from_bytes(blake2b(node, digest_size=8, person=b"dagrad-member-1").digest(), "little")


_SHARED = 64
_shared: dict[tuple[int, TopologySpec], Adjacency] = {}  # in the order of last use; pure, so a cache is safe


def shared_adjacency(
    key: int, members: Callable[[], tuple[NodeId, ...]], spec: TopologySpec, graph: StaticGraph | None = None
) -> Adjacency:
    """Return :func:`adjacency` of ``members()``, remembered for the last 64 pairs of key and spec.

    A hit costs the same for any number of members, which simulated workers with equal views share.

    Args:
        key: XOR of :func:`member_key` of every member; the caller keeps it up to date as members come and go.
        members: called only where nothing is remembered.
        spec: the graph's kind and numbers.
        graph: what ``spec.graph`` names.

    Raises:
        UsageError: ``static`` without the graph that it names.
    """
    found = _shared.pop((key, spec), None)
    if found is None:
        found = _compute(_canonical(members()), spec, graph)
    _shared[key, spec] = found
    for oldest in list(_shared)[:-_SHARED]:
        _shared.pop(oldest, None)  # each step is atomic: another thread may do the same
    return found


def _canonical(view: Iterable[NodeId]) -> tuple[NodeId, ...]:
    return tuple(sorted(set(view)))


@lru_cache(maxsize=16)
def _adjacency(members: tuple[NodeId, ...], spec: TopologySpec, graph: StaticGraph | None) -> Adjacency:
    return _compute(members, spec, graph)


def _compute(members: tuple[NodeId, ...], spec: TopologySpec, graph: StaticGraph | None) -> Adjacency:
    near: dict[NodeId, list[NodeId]] = {member: [] for member in members}
    for a, b in _edges(members, spec, graph):
        near[a].append(b)
        near[b].append(a)
    return MappingProxyType({member: tuple(sorted(others)) for member, others in near.items()})


def _edges(members: tuple[NodeId, ...], spec: TopologySpec, graph: StaticGraph | None) -> frozenset[Edge]:
    if spec.kind == "static":
        if graph is None or graph.digest != spec.graph:
            raise UsageError(f"the spec needs graph {spec.graph.hex()}, not {graph.digest.hex() if graph else 'none'}")
        return graph.for_view(members)
    degree = 2 if spec.kind == "ring" else spec.degree
    if spec.kind == "complete" or len(members) <= degree + 1:
        return frozenset(combinations(members, 2))
    first = _ring_order(members, 0, spec)
    used = _cycle_edges(first)
    for ring in range(1, degree // 2):
        order = _ring_order(members, ring, spec)
        if not _repair(order, used):
            return _circulant_edges(first, degree // 2)
        used |= _cycle_edges(order)
    return frozenset(used)


def _ring_order(members: tuple[NodeId, ...], ring: int, spec: TopologySpec) -> list[NodeId]:
    numbers = ring.to_bytes(4, "little") + spec.seed.to_bytes(8, "little") + spec.epoch.to_bytes(8, "little")

    def place(member: NodeId) -> tuple[bytes, NodeId]:
        return blake2b(member + numbers, digest_size=16, person=b"dagrad-rings-1").digest(), member

    return sorted(members, key=place)


def _cycle_edges(order: list[NodeId]) -> set[Edge]:
    return {sorted_edge(a, b) for a, b in zip(order, order[1:] + order[:1], strict=True)}


def _circulant_edges(order: list[NodeId], reach: int) -> frozenset[Edge]:
    size = len(order)
    return frozenset(sorted_edge(order[i], order[(i + k) % size]) for i in range(size) for k in range(1, reach + 1))


def _repair(order: list[NodeId], used: set[Edge]) -> bool:
    """Make a ring share no edge with ``used``, in place, by rule 4; False: it cannot, the order is void.

    Ends, because every turn leaves fewer shared edges: it removes one, makes two good ones and moves the others.
    """
    turned = True
    while turned:  # a turn across the first place may move a shared edge to places walked already
        turned = False
        for i in range(len(order)):
            if sorted_edge(order[i], order[(i + 1) % len(order)]) in used:
                if not _turn_away(order, i, used):
                    return False
                turned = True
    return True


def _turn_away(order: list[NodeId], i: int, used: set[Edge]) -> bool:
    """Remove the edge from place i to i + 1 by the shortest turn that makes good edges only."""
    size = len(order)
    here, after = order[i], order[(i + 1) % size]
    for k in range(2, size - 1):
        last, beyond = order[(i + k) % size], order[(i + k + 1) % size]
        if sorted_edge(here, last) not in used and sorted_edge(after, beyond) not in used:
            _turn_round(order, i + 1, k)
            return True
    return False


def _turn_round(order: list[NodeId], start: int, count: int) -> None:
    places = [(start + j) % len(order) for j in range(count)]
    for place, member in zip(places, [order[place] for place in reversed(places)], strict=True):
        order[place] = member
