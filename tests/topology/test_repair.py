from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.topology.live import TopologySpec, edges
from dagrad_bus.topology.repair import Edge, parts, repair, sorted_edge

SALT = b"12345678"


def members(count: int, kind: str = "host") -> list[NodeId]:
    return [derive_node_id("run", f"{kind}.{i}") for i in range(count)]


def written(kind: str, count: int) -> tuple[list[NodeId], frozenset[Edge]]:
    nodes = members(count)
    match kind:
        case "regular":
            return nodes, edges(nodes, TopologySpec())
        case "ring":
            return nodes, edges(nodes, TopologySpec(kind="ring"))
        case "star":
            return nodes, frozenset(sorted_edge(nodes[0], other) for other in nodes[1:])
        case "path":
            return nodes, frozenset(sorted_edge(a, b) for a, b in pairwise(nodes))
        case "complete":
            return nodes, frozenset(sorted_edge(a, b) for a, b in combinations(nodes, 2))
        case _:
            raise AssertionError(kind)


KINDS = st.sampled_from(["regular", "ring", "star", "path", "complete"])


def degrees(graph: Iterable[Edge]) -> Counter[NodeId]:
    return Counter(end for edge in graph for end in edge)


def assert_simple_and_connected(view: Iterable[NodeId], graph: frozenset[Edge]) -> None:
    assert all(a < b for a, b in graph)
    assert set(degrees(graph)) <= set(view)
    assert len(parts(view, graph)) <= 1


@given(KINDS, st.integers(1, 24), st.sets(st.integers(0, 23)), st.integers(0, 12))
@settings(max_examples=50, deadline=None)
def test_any_deaths_and_joins_leave_a_simple_connected_graph(kind: str, size: int, dead: set[int], new: int) -> None:
    nodes, graph = written(kind, size)
    view = [node for i, node in enumerate(nodes) if i not in dead] + members(new, "new")
    assert_simple_and_connected(view, repair(nodes, graph, frozenset(view), salt=SALT))


@given(st.permutations(range(16)), st.integers(1, 15))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_written_members_and_edges_does_not_matter(order: list[int], left: int) -> None:
    nodes, graph = written("regular", 16)
    view = frozenset(nodes[:left] + members(3, "new"))
    turned = [nodes[i] for i in order]
    assert repair(turned, frozenset(sorted(graph, reverse=True)), view, salt=SALT) == repair(
        nodes, graph, view, salt=SALT
    )


@pytest.mark.parametrize("dead", [1, 8, 16, 32, 48])
@pytest.mark.parametrize("new", [0, 1, 16])
def test_a_regular_graph_stays_regular(dead: int, new: int) -> None:
    nodes, graph = written("regular", 64)
    for seed in range(5):
        order: list[int] = np.random.default_rng(seed).permutation(64).tolist()
        view = [nodes[i] for i in order[dead:]] + members(new, "new")
        repaired = repair(nodes, graph, frozenset(view), salt=SALT)
        assert_simple_and_connected(view, repaired)
        found = Counter(degrees(repaired).values())
        assert found[4] >= len(view) - 2, found
        assert set(found) <= {3, 4, 5}


def test_a_death_changes_few_edges() -> None:
    nodes, graph = written("regular", 64)
    new: list[int] = []
    for seed in range(40):
        order: list[int] = np.random.default_rng(seed).permutation(64).tolist()
        before = repair(nodes, graph, frozenset(nodes[i] for i in order[16:]), salt=SALT)
        after = repair(nodes, graph, frozenset(nodes[i] for i in order[17:]), salt=SALT)
        new.append(len(after - before))
    assert np.mean(new) <= 3


def test_a_joiner_takes_the_place_of_two_edges() -> None:
    nodes, graph = written("regular", 64)
    [joiner] = members(1, "new")
    joined = repair(nodes, graph, frozenset([*nodes, joiner]), salt=SALT)
    assert len(graph - joined) == 2
    assert len(joined - graph) == 4
    assert set(degrees(joined).values()) == {4}


def test_a_ring_stays_a_ring() -> None:
    nodes, graph = written("ring", 20)
    view = [*nodes[::2], *members(4, "new")]
    repaired = repair(nodes, graph, frozenset(view), salt=SALT)
    assert degrees(repaired) == dict.fromkeys(view, 2)
    assert_simple_and_connected(view, repaired)


def test_a_star_without_its_hub_becomes_a_ring() -> None:
    nodes, graph = written("star", 17)
    repaired = repair(nodes, graph, frozenset(nodes[1:]), salt=SALT)
    assert_simple_and_connected(nodes[1:], repaired)
    assert degrees(repaired) == dict.fromkeys(nodes[1:], 2)


def test_where_all_died_the_joiners_have_a_graph_of_their_own() -> None:
    nodes, graph = written("regular", 12)
    for count in range(8):
        new = members(count, "new")
        repaired = repair(nodes, graph, frozenset(new), salt=SALT)
        assert_simple_and_connected(new, repaired)
        assert set(degrees(repaired).values()) <= {min(4, count - 1)}


def test_other_salts_draw_other_repairs() -> None:
    nodes, graph = written("regular", 40)
    view = frozenset(nodes[10:] + members(5, "new"))
    assert len({repair(nodes, graph, view, salt=bytes([i])) for i in range(5)}) == 5


def test_every_python_computes_the_same_repair() -> None:
    nodes, graph = written("regular", 12)
    view = [*nodes[3:], *members(2, "new")]
    place = {node: i for i, node in enumerate(view)}
    repaired = repair(nodes, graph, frozenset(view), salt=SALT)
    assert sorted(sorted((place[a], place[b])) for a, b in repaired) == [[0, 4], [0, 5], [0, 8], [0, 10], [1, 2], [1, 5], [1, 6], [1, 7], [2, 3], [2, 6], [2, 10], [3, 5], [3, 9], [3, 10], [4, 6], [4, 8], [4, 9], [5, 7], [6, 7], [7, 8], [8, 9], [9, 10]]  # fmt: skip


def test_parts_are_found_in_the_order_of_the_nodes() -> None:
    a, b, c, d = members(4)
    assert parts([a, b, c, d], [(b, d)]) == [{a}, {b, d}, {c}]
