"""What a change does to the graph of a run: a worker that leaves, or another spec.

A written graph takes the numbers 0 .. size - 1 for a list of members; only undirected graphs that stay as they are can run
live (:mod:`dagrad_bus.topology.live`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.topology.graph import Topology, is_connected, undirected
from dagrad_bus.topology.live import TopologySpec, edges
from dagrad_bus.topology.repair import Edge, sorted_edge
from dagrad_bus.topology.static import StaticGraph

LIVE_KINDS = ("hash-rings", "ring", "complete")
"""Kinds that workers compute themselves; any other is written down."""


@dataclass(frozen=True, slots=True)
class Change:
    """Edges of two graphs compared."""

    kept: int
    new: int
    closed: int


def compare_edges(before: Collection[Edge], after: Collection[Edge]) -> Change:
    """Return how many edges stay, open and close."""
    old, now = frozenset(before), frozenset(after)
    return Change(len(old & now), len(now - old), len(old - now))


def to_static(topology: Topology, members: Sequence[NodeId]) -> StaticGraph:
    """Return the written graph in which ``members[i]`` has the place of worker i. Weights are left out.

    Raises:
        UsageError: a sequence, a directed graph, one in parts, or another number of members.
    """
    if len(topology.rounds) > 1 or topology.directed:
        why = f"a sequence of {len(topology.rounds)} graphs" if len(topology.rounds) > 1 else "directed"
        raise UsageError(f"{topology.kind} is {why}: only one undirected graph can run live")
    if len(members) != topology.size or len(set(members)) != len(members):
        raise UsageError(f"the graph is for {topology.size} workers, and the run has {len(members)}")
    pairs: list[list[int]] = topology.union().edges.tolist()
    return StaticGraph(tuple(members), frozenset(sorted_edge(members[a], members[b]) for a, b in pairs))


def to_topology(kind: str, members: Sequence[NodeId], graph: Collection[Edge]) -> Topology:
    """Return edges of members as a topology, worker i being ``members[i]``."""
    place = {member: i for i, member in enumerate(members)}
    return Topology(kind, (undirected(len(members), [(place[a], place[b]) for a, b in graph]),))


def edges_per_leave(topology: Topology, *, degree: int, seed: int, most: int = 16) -> float | None:
    """Return how many edges open when one worker leaves, by the rule that live workers follow; mean over leavers.

    Args:
        topology: its kind says the rule: ``hash-rings`` is computed anew, others are repaired.
        degree: of ``hash-rings``.
        seed: of ``hash-rings``.
        most: leavers tried at most.

    Returns:
        None for what cannot run live: sequences, directed graphs, graphs in parts.
    """
    if len(topology.rounds) > 1 or topology.directed or topology.size < 3 or not is_connected(topology.union()):
        return None
    ids = [derive_node_id("graph", f"local.{i}") for i in range(topology.size)]
    if topology.kind == "hash-rings":
        spec, graph = TopologySpec(degree=degree, seed=seed), None
    else:
        graph = to_static(topology, ids)
        spec = TopologySpec(kind="static", graph=graph.digest)
    whole = edges(ids, spec, graph)
    places: list[int] = np.linspace(0, len(ids) - 1, min(most, len(ids))).astype(np.int64).tolist()
    leavers = [ids[i] for i in places]
    return float(np.mean([len(edges([m for m in ids if m != gone], spec, graph) - whole) for gone in leavers]))
