from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.topology.graph import Round, Topology, is_connected, undirected


def test_a_round_is_brought_into_canonical_form() -> None:
    one = Round(4, np.array([[3, 1], [1, 0]]), weights=np.array([0.3, 0.1]))
    assert one.edges.tolist() == [[0, 1], [1, 3]]
    assert one.weights is not None and one.weights.tolist() == [0.1, 0.3]
    assert one.sends().tolist() == [1, 2, 0, 1]
    assert sorted(one.arcs().tolist()) == [[0, 1], [1, 0], [1, 3], [3, 1]]


def test_directed_links_keep_their_direction() -> None:
    one = Round(3, np.array([[2, 0], [0, 2]]), directed=True)
    assert one.edges.tolist() == [[0, 2], [2, 0]]
    assert one.sends().tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("edges", "weights", "message"),
    [
        ([[0, 3]], None, "worker 3 of 3"),
        ([[-1, 0]], None, "worker -1"),
        ([[1, 1]], None, "to itself"),
        ([[0, 1], [1, 0]], None, "named twice"),
        ([[0, 1]], [0.1, 0.2], "one for each edge"),
        ([[0, 1]], [np.nan], "finite"),
        ([[0, 1]], [-0.5], "not negative"),
    ],
)
def test_a_round_that_is_no_graph_is_refused(edges: Any, weights: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Round(3, np.array(edges), weights=None if weights is None else np.array(weights))


@pytest.mark.parametrize(
    ("rounds", "names", "message"),
    [
        ((), (), "at least one round"),
        ((undirected(0, []),), (), "0 workers"),
        ((undirected(2, []),), ("a",), "one for each of 2"),
        ((undirected(2, []),), ("a", "a"), "distinct"),
    ],
)
def test_a_topology_that_is_none_is_refused(rounds: Any, names: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Topology("x", rounds, names)


def test_a_union_has_every_link_once() -> None:
    topology = Topology("x", (undirected(3, [(0, 1)]), undirected(3, [(1, 0), (1, 2)])))
    assert topology.union().edges.tolist() == [[0, 1], [1, 2]]
    assert topology.labels == ("0", "1", "2")
    mixed = Topology("x", (undirected(2, [(0, 1)]), Round(2, np.array([[0, 1]]), directed=True)))
    assert mixed.directed and mixed.union().edges.tolist() == [[0, 1], [1, 0]]


def test_connected_follows_the_direction() -> None:
    assert is_connected(undirected(3, [(0, 1), (1, 2)]))
    assert not is_connected(undirected(3, [(0, 1)]))
    assert is_connected(Round(3, np.array([[0, 1], [1, 2], [2, 0]]), directed=True))
    assert not is_connected(Round(3, np.array([[0, 1], [0, 2]]), directed=True))
    assert not is_connected(Round(3, np.array([[1, 0], [2, 0]]), directed=True))
