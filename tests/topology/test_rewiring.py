from __future__ import annotations

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.topology.graph import Topology, undirected
from dagrad_bus.topology.kinds import generate
from dagrad_bus.topology.rewiring import Change, compare_edges, edges_per_leave, to_static, to_topology


def members(count: int) -> list[NodeId]:
    return [derive_node_id("run", f"host.{i}") for i in range(count)]


def test_a_topology_and_its_written_graph_are_one() -> None:
    topology = generate("torus", 12)
    graph = to_static(topology, members(12))
    assert to_topology("torus", members(12), graph.edges).rounds[0].edges.tolist() == topology.rounds[0].edges.tolist()


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("exponential", 12, "exponential is directed"),
        ("base", 12, "base is a sequence of"),
        ("ring", 11, "for 11 workers, and the run has 12"),
    ],
)
def test_what_cannot_run_live_is_refused(kind: str, size: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        to_static(generate(kind, size, degree=2), members(12))


def test_edges_are_kept_opened_and_closed() -> None:
    a, b, c, d = members(4)
    assert compare_edges([(a, b), (b, c)], [(b, c), (c, d), (a, d)]) == Change(kept=1, new=2, closed=1)


def test_a_leave_costs_what_the_rules_say() -> None:
    assert edges_per_leave(generate("ring", 20), degree=4, seed=0) == 1
    assert edges_per_leave(generate("complete", 20), degree=4, seed=0) == 0
    assert edges_per_leave(generate("torus", 36), degree=4, seed=0) == 2
    rings = edges_per_leave(generate("hash-rings", 64), degree=4, seed=0)
    assert rings is not None and 1.5 <= rings <= 3


@pytest.mark.parametrize("kind", ["exponential", "base", "epidemic"])
def test_what_cannot_run_live_has_no_cost(kind: str) -> None:
    assert edges_per_leave(generate(kind, 8, degree=2), degree=2, seed=0) is None


def test_a_graph_in_parts_has_no_cost() -> None:
    parts = Topology("x", (undirected(4, [(0, 1), (2, 3)]),))
    assert edges_per_leave(parts, degree=2, seed=0) is None
