from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.topology.graph import Round, Topology, undirected
from dagrad_bus.topology.kinds import KINDS, generate
from dagrad_bus.topology.spectrum import mixing, spectrum


@pytest.mark.parametrize("size", [8, 32, 64])
def test_a_ring_has_the_gap_of_the_books(size: int) -> None:
    exact = 2 / 3 * (1 - math.cos(2 * math.pi / size))
    assert spectrum(generate("ring", size)).gap == pytest.approx(exact)


def test_known_spectra() -> None:
    assert spectrum(generate("complete", 9)).exact_after == 1
    assert spectrum(generate("star", 10)).gap == pytest.approx(1 / 10)
    assert spectrum(generate("exponential", 64)).gap == pytest.approx(2 / 7)
    torus = spectrum(generate("torus", 64))
    assert torus.gap == pytest.approx(2 / 5 * (1 - math.cos(math.pi / 4)))


def test_metropolis_weights_on_a_regular_graph_are_those_of_the_adjacency() -> None:
    one = generate("random-regular", 20).rounds[0]
    adjacent = np.zeros((20, 20))
    adjacent[one.edges[:, 0], one.edges[:, 1]] = 1
    assert mixing(one) == pytest.approx((adjacent + adjacent.T + np.eye(20)) / 5)


@given(st.sampled_from(sorted(KINDS)), st.sampled_from([12, 15, 16]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_rows_sum_to_one_and_no_weight_is_negative(kind: str, size: int, seed: int) -> None:
    topology = generate(kind, size, degree=4, seed=seed)
    for one in topology.rounds:
        matrix = mixing(one)
        assert matrix.sum(axis=1) == pytest.approx(np.ones(size))
        assert matrix.min() > -1e-12
    found = spectrum(topology)
    assert 0 <= found.second <= 1
    assert found.keeps_mean == (kind != "epidemic")


def test_the_predicted_rounds_are_those_that_it_takes() -> None:
    topology = generate("hash-rings", 40, seed=3)
    found = spectrum(topology)
    assert found.rounds is not None
    power = np.linalg.matrix_power(mixing(topology.rounds[0]), found.rounds) - 1 / 40
    before = np.linalg.matrix_power(mixing(topology.rounds[0]), found.rounds - 1) - 1 / 40
    assert np.linalg.norm(power, 2) <= 1e-3 < np.linalg.norm(before, 2)


def test_parts_never_agree() -> None:
    found = spectrum(Topology("x", (undirected(4, [(0, 1), (2, 3)]),)))
    assert found.gap == pytest.approx(0)
    assert found.rounds is None and found.exact_after is None


def test_a_sequence_is_judged_by_its_product() -> None:
    halves = (undirected(4, [(0, 1), (2, 3)]), undirected(4, [(0, 2), (1, 3)]))
    found = spectrum(Topology("x", halves))
    assert (found.exact_after, found.rounds, found.gap) == (2, 2, 1.0)
    assert spectrum(generate("one-peer-exponential", 12)).exact_after is None


def test_a_sample_of_random_rounds_has_no_end() -> None:
    found = spectrum(generate("equi-one-peer", 16))
    assert found.exact_after is None and found.rounds is not None


def test_directed_graphs_average_what_arrives() -> None:
    matrix = mixing(Round(3, np.array([[0, 2], [1, 2]]), directed=True))
    assert matrix[2] == pytest.approx([1 / 3] * 3)
    assert matrix[0].tolist() == [1, 0, 0]
    assert not spectrum(Topology("x", (Round(3, np.array([[0, 2], [1, 2]]), directed=True),))).keeps_mean


def test_weights_that_come_along_are_used() -> None:
    one = Round(2, np.array([[0, 1]]), weights=np.array([0.1]))
    assert mixing(one) == pytest.approx(np.array([[0.9, 0.1], [0.1, 0.9]]))
    assert spectrum(Topology("x", (one,))).gap == pytest.approx(0.2)
    assert spectrum(Topology("x", (undirected(1, []),))).second == 0
