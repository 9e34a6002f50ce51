from __future__ import annotations

import numpy as np
import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.topology.graph import Round
from dagrad_bus.topology.sequences import base_graph, epidemic, equi_one_peer, one_peer_exponential
from dagrad_bus.topology.spectrum import mixing


def product(rounds: tuple[Round, ...]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    whole = np.eye(rounds[0].size)
    for one in rounds:
        whole = mixing(one) @ whole
    return whole


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_a_base_graph_ends_in_the_exact_mean_for_every_size(degree: int) -> None:
    for size in range(degree + 1, 66):
        rounds = base_graph(size, degree)
        assert np.abs(product(rounds) - 1 / size).max() < 1e-12, size
        assert max(int(one.sends().max()) for one in rounds) <= degree, size
        for one in rounds:
            matrix = mixing(one)
            assert np.allclose(matrix, matrix.T) and matrix.min() > -1e-12


@pytest.mark.parametrize(
    ("size", "degree", "length"),
    [(5, 1, 5), (6, 1, 4), (8, 1, 3), (25, 1, 9), (25, 2, 6), (25, 4, 2), (27, 2, 3), (7, 2, 4), (12, 2, 3)],
)
def test_a_base_graph_is_as_short_as_published(size: int, degree: int, length: int) -> None:
    # Bound of the paper's theorem 1: 2 log_{k+1}(size) + 2.
    assert len(base_graph(size, degree)) == length <= 2 * np.log(size) / np.log(degree + 1) + 2


@pytest.mark.parametrize("degree", [0, 8])
def test_a_base_graph_of_no_such_degree_is_refused(degree: int) -> None:
    with pytest.raises(UsageError, match=f"degree of 1 to 7, not {degree}"):
        base_graph(8, degree)


def test_one_peer_exponential_is_exact_for_powers_of_two_alone() -> None:
    for size in (2, 8, 64):
        assert np.abs(product(one_peer_exponential(size)) - 1 / size).max() < 1e-12
    assert np.abs(product(one_peer_exponential(12)) - 1 / 12).max() > 0.01
    assert len(one_peer_exponential(12)) == 4
    assert all(set(one.sends().tolist()) == {1} for one in one_peer_exponential(12))


def test_equi_one_peer_keeps_the_mean_and_mixes() -> None:
    rounds = equi_one_peer(24, np.random.default_rng(3))
    assert all(set(one.sends().tolist()) == {1} for one in rounds)
    whole = product(rounds)
    assert whole.sum(axis=0) == pytest.approx(np.ones(24))
    assert np.abs(whole - 1 / 24).max() < 1e-3


def test_an_epidemic_sends_to_distinct_others_at_random() -> None:
    rounds = epidemic(20, 3, np.random.default_rng(5))
    assert all(set(one.sends().tolist()) == {3} for one in rounds)
    assert len({one.edges.tobytes() for one in rounds}) == len(rounds)
    receivers = np.bincount(np.concatenate([one.edges[:, 1] for one in rounds]), minlength=20)
    assert receivers.sum() == len(rounds) * 60
    assert receivers.min() > 0.5 * len(rounds) * 3
    assert np.abs(mixing(rounds[0]).sum(axis=1) - 1).max() < 1e-12


@pytest.mark.parametrize("sends", [0, 20])
def test_an_epidemic_needs_somebody_to_send_to(sends: int) -> None:
    with pytest.raises(UsageError, match=f"1 to 19 receivers each round, not {sends}"):
        epidemic(20, sends, np.random.default_rng(0))
