"""A written graph kept whole around members that died and members that came: a pure function, rule 1.

Of (graph, set of members), never of the order of events, so equal views give equal graphs:

1. The dead are skipped one by one in the order of their hash. The neighbours of each, in the order of
   hash(dead, neighbour), are paired: the first with the first later one that it is not joined to yet, and so on.
2. Who then lacks neighbours (an odd one, or all others were joined already) is filled up to its degree of old: two that
   both lack one and are not joined are joined; one that lacks two goes into the edge of smallest hash(member, edge);
   two that are joined and lack one each replace the edge of smallest hash by one end each.
3. If the graph fell apart (a star without its hub), its parts are joined in a ring, in the order of the hash of their
   first member, by the member of least degree of each.
4. Joiners, in the order of their hash, each go into the edges of smallest hash(joiner, edge), no two of which touch, as
   many as half the mean degree of the graph: a - b becomes a - joiner - b. Where too few such edges exist it is joined
   directly to members in the order of hash(joiner, member), and to all of them while they are no more than its degree.

Splicing keeps a graph connected and every other degree as it was. Rules 1 and 2 may lose connection, rule 3 restores it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.ids import NodeId

Edge = tuple[NodeId, NodeId]
"""Two members, the smaller id first."""
Near = dict[NodeId, set[NodeId]]
_FIRST_LOOK = 64
"""Edges looked at before more of them are sorted."""


def sorted_edge(a: NodeId, b: NodeId) -> Edge:
    """Return the edge of two members, the smaller id first."""
    return (a, b) if a < b else (b, a)


def parts(nodes: Iterable[NodeId], edges: Iterable[Edge]) -> list[set[NodeId]]:
    """Return the connected parts of a graph, in the order of their first node in ``nodes``."""
    near: Near = {node: set() for node in nodes}
    for a, b in edges:
        near[a].add(b)
        near[b].add(a)
    return _parts(near)


def _parts(near: Near) -> list[set[NodeId]]:
    found: list[set[NodeId]] = []
    seen: set[NodeId] = set()
    for node in near:
        if node not in seen:
            part, waiting = {node}, [node]
            while waiting:
                new = near[waiting.pop()] - part
                part |= new
                waiting += new
            seen |= part
            found.append(part)
    return found


def repair(
    nodes: Collection[NodeId], edges: Collection[Edge], view: frozenset[NodeId], *, salt: bytes
) -> frozenset[Edge]:
    """Return the edges among ``view``, by the rules of this module.

    Args:
        nodes: of the written graph.
        edges: of the written graph, which is simple and connected.
        view: members that are there.
        salt: at most 16 bytes; other graphs draw other hashes.
    """
    near: Near = {node: set() for node in nodes}
    for a, b in edges:
        near[a].add(b)
        near[b].add(a)
    work = _Repair(near, salt)
    half = max(1, (len(edges) + len(nodes) // 2) // len(nodes))
    work.skip(near.keys() - view)
    work.splice(view - set(nodes), half)
    return frozenset((a, b) for a, others in near.items() for b in others if a < b)


class _Repair:
    """One graph on its way to another; ``near`` is changed in place."""

    def __init__(self, near: Near, salt: bytes) -> None:
        self._near = near
        self._salt = salt
        self._degree = {node: len(others) for node, others in near.items()}

    def _hash(self, *nodes: NodeId) -> bytes:
        return blake2b(b"".join(nodes), digest_size=8, salt=self._salt, person=b"dagrad-static-1").digest()

    def _in_order(self, nodes: Iterable[NodeId], *around: NodeId) -> list[NodeId]:
        return sorted(nodes, key=lambda node: (self._hash(*around, node), node))

    def _link(self, a: NodeId, b: NodeId) -> None:
        self._near[a].add(b)
        self._near[b].add(a)

    def skip(self, dead: Iterable[NodeId]) -> None:
        """Take the dead out, by rules 1 to 3."""
        ordered = self._in_order(dead)
        for node in ordered:
            around = self._near.pop(node)
            for other in around:
                self._near[other].discard(node)
            self._pair(self._in_order(around, node))
        if ordered and self._near:
            self._fill()
            self._join_parts()

    def _pair(self, waiting: list[NodeId]) -> None:
        while waiting:
            node = waiting.pop(0)
            mate = next((other for other in waiting if other not in self._near[node]), None)
            if mate is not None:
                waiting.remove(mate)
                self._link(node, mate)

    def _lacks(self, node: NodeId) -> int:
        return min(self._degree[node], len(self._near) - 1) - len(self._near[node])

    def _short(self) -> list[NodeId]:
        return self._in_order(node for node in self._near if self._lacks(node) > 0)

    def _fill(self) -> None:
        """Rule 2."""
        short = self._short()
        for i, node in enumerate(short):
            for other in short[i + 1 :]:
                if self._lacks(node) <= 0:
                    break
                if self._lacks(other) > 0 and other not in self._near[node]:
                    self._link(node, other)
        short = [node for node in short if self._lacks(node) > 0]
        table = _EdgeTable(self._near, self._hash) if short else None
        if table is not None:
            for node in short:
                table.splice(node, self._lacks(node) // 2)
            short = [node for node in short if self._lacks(node) > 0]
            for a, b in zip(short[::2], short[1::2], strict=False):
                table.divert(a, b)

    def _join_parts(self) -> None:
        """Rule 3."""
        found = _parts(self._near)
        if len(found) > 1:
            found = [set(part) for _, part in sorted((self._first(part), part) for part in found)]
            for part, following in zip(found, found[1:] + found[:1] * (len(found) > 2), strict=False):
                self._link(self._least(part), self._least(following))

    def _first(self, part: set[NodeId]) -> tuple[bytes, NodeId]:
        return min((self._hash(node), node) for node in part)

    def _least(self, part: set[NodeId]) -> NodeId:
        return min(part, key=lambda node: (len(self._near[node]), self._hash(node), node))

    def splice(self, joiners: Iterable[NodeId], half: int) -> None:
        """Bring the joiners in, by rule 4."""
        ordered = self._in_order(joiners)
        table = _EdgeTable(self._near, self._hash) if ordered else None
        for node in ordered:
            assert table is not None  # there is one as soon as there is a joiner
            self._near[node] = set()
            if len(self._near) > 2 * half + 1:  # else all others are its neighbours
                table.splice(node, half)
            missing = min(2 * half, len(self._near) - 1) - len(self._near[node])
            if missing > 0:
                others = self._near.keys() - self._near[node] - {node}
                for other in self._in_order(others, node)[:missing]:
                    table.link(node, other)


class _EdgeTable:
    """The edges as arrays, so that the one of smallest hash for a member is found at once.

    hash(member, edge) mixes 64-bit hashes of the three ids: one BLAKE2b an id, one pass over an array a question.
    """

    def __init__(self, near: Near, hashed: Callable[[NodeId], bytes]) -> None:
        self._near = near
        self._hashed = hashed
        self._numbers: dict[NodeId, int] = {}
        self._edges: list[Edge] = sorted((a, b) for a, others in near.items() for b in others if a < b)
        self._marks = np.zeros(2 * len(self._edges) + 64, np.uint64)
        self._marks[: len(self._edges)] = self._mark(self._edges)

    def _number(self, node: NodeId) -> int:
        if node not in self._numbers:
            self._numbers[node] = int.from_bytes(self._hashed(node), "little")
        return self._numbers[node]

    def _mark(self, edges: list[Edge]) -> NDArray[np.uint64]:
        low = np.array([self._number(a) for a, _ in edges], np.uint64)
        high = np.array([self._number(b) for _, b in edges], np.uint64)
        return _mix(low + _mix(high))

    def _set(self, row: int, a: NodeId, b: NodeId) -> None:
        edge = sorted_edge(a, b)
        if row == len(self._edges):
            self._edges.append(edge)
            if row == len(self._marks):
                self._marks = np.concatenate([self._marks, np.zeros_like(self._marks)])
        else:
            self._unlink(*self._edges[row])
            self._edges[row] = edge
        self._marks[row] = self._mark([edge])[0]
        self._near[a].add(b)
        self._near[b].add(a)

    def _unlink(self, a: NodeId, b: NodeId) -> None:
        self._near[a].discard(b)
        self._near[b].discard(a)

    def link(self, a: NodeId, b: NodeId) -> None:
        """Add an edge."""
        self._set(len(self._edges), a, b)

    def _nearest(self, node: NodeId) -> Iterator[int]:
        """Yield the rows in the order of hash(node, edge), then of the edge; the table must not change meanwhile."""
        count, done, look = len(self._edges), 0, _FIRST_LOOK
        keys = _mix(self._marks[:count] ^ np.uint64(self._number(node)))
        while done < count:
            look = min(look, count)
            rows: list[int] = np.argpartition(keys, look - 1)[:look].tolist()
            rows.sort(key=lambda row: (keys[row], self._edges[row]))
            yield from rows[done:]
            done, look = look, 8 * look

    def splice(self, node: NodeId, edges: int) -> None:
        """Put ``node`` into that many edges that do not touch, or as many as there are."""
        chosen: list[int] = []
        taken = self._near[node] | {node}
        for row in self._nearest(node) if edges > 0 else ():
            if not taken & set(self._edges[row]):
                chosen.append(row)
                taken |= set(self._edges[row])
                if len(chosen) == edges:
                    break
        for row in chosen:
            a, b = self._edges[row]
            self._set(row, a, node)
            self._set(len(self._edges), node, b)

    def divert(self, a: NodeId, b: NodeId) -> None:
        """Replace an edge x - y by a - x and b - y, if there is one that allows it. Connected stays connected if a - b."""
        for row in self._nearest(a):
            for x, y in (self._edges[row], self._edges[row][::-1]):
                if not {a, b} & {x, y} and x not in self._near[a] and y not in self._near[b]:
                    self._set(row, a, x)
                    self._set(len(self._edges), b, y)
                    return


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the numbers well mixed, one to one. Source: SplitMix64 (Steele, Lea and Flood 2014), its finalizer."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
