from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.topology.live import (
    GraphKind,
    TopologySpec,
    adjacency,
    edges,
    member_key,
    neighbours,
    shared_adjacency,
)
from dagrad_bus.topology.repair import Edge
from dagrad_bus.topology.static import StaticGraph

AUTHOR = NodeId(bytes(16))
VECTORS = Path(__file__).parents[1] / "vectors" / "hash-rings-v1.json"
SIZES = st.integers(2, 40)
DEGREES = st.sampled_from([2, 4, 6, 8])
U64 = st.integers(0, 2**64 - 1)


def members(count: int) -> list[NodeId]:
    return [derive_node_id("run", f"host.{i}") for i in range(count)]


def rings(degree: int = 4, seed: int = 0, epoch: int = 0) -> TopologySpec:
    return TopologySpec(1, AUTHOR, "hash-rings", degree, seed, epoch)


def degrees(graph: Iterable[Edge]) -> Counter[NodeId]:
    return Counter(end for edge in graph for end in edge)


def is_connected(view: list[NodeId], graph: Iterable[Edge]) -> bool:
    near: defaultdict[NodeId, set[NodeId]] = defaultdict(set)
    for a, b in graph:
        near[a].add(b)
        near[b].add(a)
    reached, frontier = {view[0]}, [view[0]]
    while frontier:
        new = near[frontier.pop()] - reached
        reached |= new
        frontier += new
    return reached == set(view)


def assert_regular(view: list[NodeId], graph: frozenset[Edge], degree: int) -> None:
    assert all(a < b for a, b in graph)
    wanted = min(degree, len(view) - 1)
    assert degrees(graph) == dict.fromkeys(view, wanted)
    assert is_connected(view, graph)


@pytest.mark.parametrize("degree", [2, 4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_every_group_up_to_64_is_simple_connected_and_of_exact_degree(degree: int, seed: int) -> None:
    for count in range(2, 65):
        view = members(count)
        assert_regular(view, edges(view, rings(degree, seed)), degree)


@pytest.mark.parametrize("count", range(6, 13))
def test_tiny_groups_have_exact_degree_for_every_seed(count: int) -> None:
    view = members(count)
    for seed in range(100):
        assert_regular(view, edges(view, rings(4, seed)), 4)


@pytest.mark.parametrize("count", [100, 333, 1000, 2000])
def test_large_groups_are_simple_connected_and_of_exact_degree(count: int) -> None:
    view = members(count)
    assert_regular(view, edges(view, rings()), 4)


@given(SIZES, DEGREES, U64, U64)
@settings(max_examples=60, deadline=None)
def test_degree_is_exact_for_any_seed_and_epoch(count: int, degree: int, seed: int, epoch: int) -> None:
    view = members(count)
    assert_regular(view, edges(view, rings(degree, seed, epoch)), degree)


@given(SIZES, U64, st.sampled_from(["hash-rings", "ring", "complete"]))
@settings(max_examples=40, deadline=None)
def test_neighbours_are_symmetric_and_are_the_edges(count: int, seed: int, kind: GraphKind) -> None:
    view = members(count)
    spec = TopologySpec(1, AUTHOR, kind, seed=seed)
    graph = edges(view, spec)
    for me in view:
        mine = neighbours(me, view, spec)
        assert list(mine) == sorted({a if b == me else b for a, b in graph if me in (a, b)})
        assert all(me in neighbours(other, view, spec) for other in mine)
        assert adjacency(view, spec)[me] == mine


@given(st.permutations(members(12)), st.integers(0, 11))
@settings(deadline=None)
def test_the_order_of_a_view_and_members_named_twice_do_not_matter(view: list[NodeId], twice: int) -> None:
    assert edges([*view, view[twice]], rings()) == edges(members(12), rings())
    assert neighbours(view[0], view[1:], rings()) == neighbours(view[0], view, rings())


def test_up_to_degree_plus_one_members_are_a_complete_graph() -> None:
    assert [len(edges(members(count), rings())) for count in range(1, 8)] == [0, 1, 3, 6, 10, 12, 14]
    assert neighbours(AUTHOR, [], rings()) == ()


def test_the_trivial_kinds() -> None:
    view = members(9)
    assert len(edges(view, TopologySpec(1, AUTHOR, "complete"))) == 36
    ring = edges(view, TopologySpec(1, AUTHOR, "ring"))
    assert_regular(view, ring, 2)
    assert ring == edges(view, rings(degree=2))
    assert ring <= edges(view, rings())


def test_epochs_and_seeds_give_other_graphs() -> None:
    view = members(32)
    graphs = {edges(view, rings(seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)}
    assert len(graphs) == 9


@pytest.mark.parametrize(("count", "degree"), [(32, 4), (64, 4), (64, 6), (200, 4)])
def test_a_leave_or_join_changes_about_half_the_degree_in_edges(count: int, degree: int) -> None:
    view = members(count)
    changed: list[int] = []
    for seed in range(3):
        whole = edges(view, rings(degree, seed))
        for gone in view[:40]:
            rest = edges([member for member in view if member != gone], rings(degree, seed))
            kept = {edge for edge in whole if gone not in edge}
            changed.append(max(len(rest - kept), len(kept - rest)))  # the same counts read backwards are a join
    assert np.mean(changed) <= degree / 2 + 1
    assert max(changed) <= 3 * degree


def spectral_gap(view: list[NodeId], spec: TopologySpec) -> float:
    """Of Metropolis weights, on a regular graph W = (A + I) / (degree + 1): 1 - second largest |eigenvalue|."""
    place = {member: i for i, member in enumerate(view)}
    weights = np.eye(len(view))
    for a, b in edges(view, spec):
        weights[place[a], place[b]] = weights[place[b], place[a]] = 1
    moduli = np.sort(np.abs(np.linalg.eigvalsh(weights / (spec.degree + 1))))
    return float(1 - moduli[-2])


@pytest.mark.parametrize(("count", "of_random_regular"), [(32, 0.175), (64, 0.136)])
def test_the_spectral_gap_is_that_of_a_random_regular_graph(count: int, of_random_regular: float) -> None:
    gaps = [spectral_gap(members(count), rings(seed=seed)) for seed in range(40)]
    assert np.mean(gaps) == pytest.approx(of_random_regular, rel=0.1)


def test_every_python_computes_the_graphs_of_the_vectors() -> None:
    vectors: dict[str, Any] = json.loads(VECTORS.read_text())
    assert vectors["rule"] == "hash-rings, rule 1"
    for case in vectors["cases"]:
        view = [NodeId(bytes.fromhex(text)) for text in vectors["members"][: case["members"]]]
        graph = edges(view, rings(case["degree"], int(case["seed"]), int(case["epoch"])))
        place = {member: i for i, member in enumerate(view)}
        assert sorted(sorted((place[a], place[b])) for a, b in graph) == case["edges"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "torus"}, "kind is 'torus'"),
        ({"degree": 3}, "degree is 3"),
        ({"degree": 0}, "degree is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"epoch": 2**64}, "epoch is"),
        ({"kind": "static"}, "graph is 0 bytes: static needs 8"),
        ({"graph": bytes(8)}, "every other kind none"),
    ],
)
def test_a_spec_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TopologySpec(1, AUTHOR, **fields)


def test_of_two_specs_exactly_one_supersedes_the_other() -> None:
    low, high = TopologySpec(1, NodeId(b"b" * 16)), TopologySpec(2, NodeId(b"a" * 16))
    rival = TopologySpec(2, NodeId(b"b" * 16))
    assert high.supersedes(low) and rival.supersedes(high)
    assert low.supersedes(TopologySpec()), "the spec a run starts with gives way to any published one"
    assert not low.supersedes(high) and not high.supersedes(rival) and not low.supersedes(low)


def static(view: list[NodeId]) -> tuple[TopologySpec, StaticGraph]:
    graph = StaticGraph(tuple(view), edges(view, rings(seed=7)))
    return TopologySpec(2, AUTHOR, "static", graph=graph.digest), graph


def test_a_static_graph_is_the_written_one_and_symmetric_after_deaths_and_joins() -> None:
    view = members(30)
    spec, graph = static(view[:24])
    assert edges(view[:24], spec, graph) == graph.edges
    present = view[6:]
    whole = edges(present, spec, graph)
    assert is_connected(present, whole)
    for me in present:
        mine = neighbours(me, present, spec, graph)
        assert all(me in neighbours(other, present, spec, graph) for other in mine)
        assert adjacency(present, spec, graph)[me] == mine


def test_static_needs_the_graph_that_its_spec_names() -> None:
    spec, _ = static(members(9))
    _, other = static(members(8))
    for graph in (None, other):
        with pytest.raises(UsageError, match=f"needs graph {spec.graph.hex()}"):
            neighbours(AUTHOR, members(9), spec, graph)


def test_a_shared_adjacency_is_computed_once_and_kept_for_64_keys() -> None:
    asked: list[int] = []

    def view_of(count: int) -> tuple[NodeId, ...]:
        asked.append(count)
        return tuple(members(count))

    def ask(count: int, spec: TopologySpec) -> None:
        key = 0
        for node in members(count):
            key ^= member_key(node)
        assert shared_adjacency(key, lambda: view_of(count), spec) == adjacency(members(count), spec)

    spec = rings(seed=991)
    for count in (*range(2, 66), 2):
        ask(count, spec)
    assert asked == list(range(2, 66)), "64 remembered, the first of them still"
    ask(66, spec)
    ask(2, spec)
    assert asked[64:] == [66]
    ask(3, spec)
    assert asked[65:] == [3], "the one used longest ago went"
    ask(2, rings(seed=992))
    assert asked[66:] == [2]
    spec, graph = static(members(9))
    assert shared_adjacency(5, lambda: tuple(members(9)), spec, graph) == adjacency(members(9), spec, graph)


def test_member_keys_are_fixed() -> None:
    assert member_key(AUTHOR) == 14450154302468297154
