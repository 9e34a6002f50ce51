from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from dagrad_bus.topology.formats import networkx
from dagrad_bus.topology.graph import Round, Topology, undirected
from dagrad_bus.topology.kinds import KINDS, generate
from dagrad_bus.topology.structure import algebraic_connectivity, clustering, distances, structure, survival


@pytest.mark.parametrize("kind", KINDS)
def test_distances_and_clustering_are_those_of_networkx(kind: str) -> None:
    nx = networkx()
    one = generate(kind, 24, degree=4).union()
    graph = nx.DiGraph(one.edges.tolist()) if one.directed else nx.Graph(one.edges.tolist())
    if nx.is_strongly_connected(graph) if one.directed else nx.is_connected(graph):
        diameter, mean = distances(one)
        assert diameter == nx.diameter(graph)
        assert mean == pytest.approx(nx.average_shortest_path_length(graph))
    else:
        assert distances(one) == (None, None)
    assert clustering(one) == pytest.approx(nx.average_clustering(graph.to_undirected()))


def test_the_numbers_of_a_torus() -> None:
    found = structure(generate("torus", 36), trials=20)
    assert (found.size, found.edges, found.diameter, found.connected) == (36, 72, 6, True)
    assert (found.degree_least, found.degree_mean, found.degree_most, found.sends_most) == (4, 4.0, 4, 4)
    assert found.algebraic == pytest.approx(1.0)
    assert (found.trimmed, found.robustness, found.liars) == (1, 1, 0)
    assert found.survives[0.1] >= 0.9


def test_a_graph_in_parts_says_so() -> None:
    found = structure(Topology("x", (undirected(5, [(0, 1), (2, 3), (3, 4)]),)), trials=5)
    assert (found.connected, found.diameter, found.mean_path, found.robustness, found.trimmed) == (
        False,
        None,
        None,
        0,
        0,
    )


def test_of_sequences_and_directed_graphs_no_robustness_is_claimed() -> None:
    base, exponential = structure(generate("base", 12), trials=2), structure(generate("exponential", 12), trials=2)
    assert base.robustness is base.liars is exponential.robustness is None
    assert base.trimmed == 0, "in some round a worker hears nobody"
    assert exponential.trimmed == 1


def test_a_complete_graph_stands_the_most_liars() -> None:
    found = structure(generate("complete", 16), trials=5)
    assert (found.trimmed, found.robustness, found.liars) == (7, 8, 3)
    assert set(found.survives.values()) == {1.0}


def exact_robustness(one: Round) -> int:
    """By all pairs of disjoint groups: for tiny graphs."""
    near = [{int(b) for a, b in one.arcs() if a == i} for i in range(one.size)]
    best = one.size
    for sides in product(range(3), repeat=one.size):
        groups = [{i for i, side in enumerate(sides) if side == k} for k in (1, 2)]
        if all(groups):
            best = min(best, max(len(near[i] - group) for group in groups for i in group))
    return best


@pytest.mark.parametrize("kind", ["ring", "star", "complete", "hash-rings"])
def test_the_bound_of_robustness_holds(kind: str) -> None:
    topology = generate(kind, 8)
    found = structure(topology, trials=1)
    assert found.robustness is not None
    assert found.robustness <= exact_robustness(topology.rounds[0])


def test_a_star_survives_as_its_hub_does() -> None:
    rng = np.random.default_rng(0)
    assert survival(generate("star", 20).rounds[0], 0.25, trials=400, rng=rng) == pytest.approx(0.75, abs=0.08)
    assert survival(generate("ring", 20).rounds[0], 0.25, trials=50, rng=rng) == 0
    assert survival(generate("ring", 4).rounds[0], 0.9, trials=50, rng=rng) == 1, "one or none is left"
    assert survival(undirected(4, [(0, 1), (2, 3)]), 0.1, trials=5, rng=rng) == 0


def test_directed_survival_needs_both_ways() -> None:
    one_way = Round(4, np.array([[0, 1], [1, 2], [2, 3]]), directed=True)
    assert survival(one_way, 0.25, trials=20, rng=np.random.default_rng(0)) == 0


def test_a_lone_worker_is_a_graph() -> None:
    lone = undirected(1, [])
    assert distances(lone) == (0, 0.0)
    assert algebraic_connectivity(lone) == 0
