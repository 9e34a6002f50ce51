"""The graph that follows from the view: spec register, neighbours, and stand-ins for those out of reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from types import MappingProxyType

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.actions import GraphMissing, NeighboursChanged, SpecChanged
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.rumours import Rumours
from dagrad_bus.membership.table import Table
from dagrad_bus.messages import MemberState
from dagrad_bus.topology.live import TopologySpec, shared_adjacency
from dagrad_bus.topology.static import StaticGraph

GraphSource = Callable[[bytes], StaticGraph | None]
"""Returns the graph document of a digest, or None while it is not at hand."""
ASK_AGAIN = 3.0
"""Seconds until a graph document that was missing is looked for again."""


NOBODY: Mapping[NodeId, NodeId] = MappingProxyType({})


def no_graphs(digest: bytes) -> StaticGraph | None:
    """Know no graph document."""
    return None


def spec_fingerprint(spec: TopologySpec) -> int:
    """Return a spec's part in the digest, u64."""
    numbers = f"{spec.version} {spec.kind} {spec.degree} {spec.seed} {spec.epoch} "
    text = numbers.encode() + spec.author + spec.graph
    return int.from_bytes(blake2b(text, digest_size=8, person=b"dagrad-spec-1").digest(), "little")


class Wiring:
    """The neighbours of one worker. Pure in (view, spec, who is out of reach), computed anew only where they change.

    Args:
        context: shared.
        table: whose view counts.
        rumours: floods a newer spec.
        spec: what the run starts with.
        graph: finds graph documents.
    """

    def __init__(
        self, context: Context, table: Table, rumours: Rumours, spec: TopologySpec, graph: GraphSource
    ) -> None:
        self._context = context
        self._table = table
        self._rumours = rumours
        self._source = graph
        self._graph: StaticGraph | None = None
        self._done: object = None
        self.register = spec
        """The newest spec known; it is what spreads."""
        self.spec = spec
        """The one in force."""
        self.fingerprint = spec_fingerprint(spec)
        self.adjacency: Mapping[NodeId, tuple[NodeId, ...]] = {}
        """Neighbours of everybody in the view."""
        self.neighbours: tuple[NodeId, ...] = ()
        self.prefixes: tuple[bytes, ...] = ()
        """First 8 bytes of the neighbours' ids."""
        if not self._find_graph(spec):  # nothing else was in force before
            self.spec = TopologySpec(degree=spec.degree, seed=spec.seed, epoch=spec.epoch)
            self._miss(0.0)

    def _find_graph(self, spec: TopologySpec) -> bool:
        """Have the spec's graph document, if it names one."""
        found = self._source(spec.graph) if spec.kind == "static" else None
        if spec.kind == "static" and (found is None or found.digest != spec.graph):
            return False
        self._graph = found
        return True

    def _miss(self, now: float) -> None:
        self._context.out.append(GraphMissing(self.register))
        self._context.agenda.put("spec", now + ASK_AGAIN)

    def offer(self, spec: TopologySpec, now: float) -> bool:
        """Take a spec if it supersedes the register; whether it did."""
        if not spec.supersedes(self.register):
            return False
        self.register = spec
        self.fingerprint = spec_fingerprint(spec)
        self._rumours.add_spec(spec)
        if not self._enforce():
            self._miss(now)
        return True

    def look_again(self, now: float) -> None:
        """Look for the graph document that was missing."""
        if self.spec != self.register and not self._enforce():
            self._context.agenda.put("spec", now + ASK_AGAIN)

    def _enforce(self) -> bool:
        if not self._find_graph(self.register):
            return False
        self.spec = self.register
        self._context.agenda.drop("spec")
        self._context.out.append(SpecChanged(self.spec))
        return True

    def update(self, apart: frozenset[NodeId], through: Mapping[NodeId, NodeId] = NOBODY) -> bool:
        """Compute the neighbours anew if anything they follow from changed; whether they did.

        Args:
            apart: members out of reach.
            through: one that reaches them, where known.
        """
        state = self._table.key, self.spec, apart, through, self._context.guests
        if state == self._done or self._context.is_leaving:
            return False
        self._done = state
        self.adjacency = shared_adjacency(self._table.key, self._table.view, self.spec, self._graph)
        former = set(self.neighbours)
        graph = self.adjacency[self._context.me.node]
        stand_ins = self._stand_ins(graph, apart, through)
        self._context.stand_ins = tuple(stand_ins)
        guests = {node for node in self._context.guests if self._is_alive(node)}
        now = {*graph, *stand_ins, *guests}
        if now == former:
            return False
        self.neighbours = tuple(sorted(now))
        self.prefixes = tuple(node[:8] for node in self.neighbours[:64])
        added, removed = tuple(sorted(now - former)), tuple(sorted(former - now))
        self._context.out.append(NeighboursChanged(self.neighbours, added, removed))
        return True

    def _stand_ins(
        self, graph: tuple[NodeId, ...], apart: frozenset[NodeId], through: Mapping[NodeId, NodeId]
    ) -> list[NodeId]:
        """Return for each neighbour out of reach who reaches it, or one near it, in an order drawn by hash."""
        found: list[NodeId] = []
        me = self._context.me.node
        for missing in sorted(apart.intersection(graph)):
            seen = {me, missing, *graph, *found, *apart}
            relay = through.get(missing)
            if relay is not None and relay not in seen and self._is_alive(relay):
                found.append(relay)
                continue
            free = [node for node in self._around(missing) if node not in seen and self._is_alive(node)]
            if free:
                found.append(min(free, key=lambda node: blake2b(me + missing + node, digest_size=8).digest()))
        return found

    def _around(self, node: NodeId) -> set[NodeId]:
        """Return a member's neighbours and theirs."""
        near = self.adjacency.get(node, ())
        return set(near).union(*(self.adjacency[one] for one in near))

    def _is_alive(self, node: NodeId) -> bool:
        record = self._table.find(node)
        return record is not None and record.epoch > 0 and record.state is MemberState.ALIVE

    def near(self, node: NodeId) -> tuple[NodeId, ...]:
        """Return the neighbours of any member, in the graph."""
        return self.adjacency.get(node, ())
