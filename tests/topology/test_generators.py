from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.errors import UsageError
from dagrad_bus.topology import generators
from dagrad_bus.topology.graph import Round, Topology, is_connected
from dagrad_bus.topology.spectrum import mixing, spectrum


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def gap(one: Round) -> float:
    return spectrum(Topology("x", (one,))).gap


@pytest.mark.parametrize("size", [2, 3, 5, 6, 17, 64])
def test_the_plain_kinds_are_what_they_are_called(size: int) -> None:
    assert generators.ring(size).sends().tolist() == [min(2, size - 1)] * size
    assert len(generators.complete(size).edges) == size * (size - 1) / 2
    assert sorted(generators.star(size).sends().tolist()) == [1] * (size - 1) + [size - 1]
    for one in (generators.ring(size), generators.complete(size), generators.star(size), generators.exponential(size)):
        assert is_connected(one)


@pytest.mark.parametrize(("size", "rows"), [(9, 3), (12, 3), (24, 4), (64, 8), (100, 10)])
def test_a_torus_has_four_neighbours_and_is_as_square_as_it_can_be(size: int, rows: int) -> None:
    one = generators.torus(size)
    assert set(one.sends().tolist()) == {4}
    assert [0, size // rows] in one.edges.tolist() or rows == 3


@pytest.mark.parametrize("size", [8, 10, 17, 31])
def test_a_torus_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match="product of two numbers from 3 up"):
        generators.torus(size)


@given(st.integers(3, 40), st.integers(2, 7), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_random_regular_graphs_are_simple_connected_and_regular(size: int, degree: int, seed: int) -> None:
    if degree >= size or size * degree % 2:
        with pytest.raises(UsageError, match=f"no connected {degree}-regular graph of {size}"):
            generators.random_regular(size, degree, rng(seed))
    else:
        one = generators.random_regular(size, degree, rng(seed))  # Round refuses what is not simple
        assert set(one.sends().tolist()) == {degree}
        assert is_connected(one)


def test_the_same_seed_draws_the_same_graph() -> None:
    first, again, other = (generators.random_regular(30, 4, rng(seed)).edges.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_random_regular_graphs_mix_as_uniform_ones() -> None:
    # Rejection sampling, which is exactly uniform, gives 0.1765 +- 0.0008 at 32 workers (1000 draws).
    gaps = [gap(generators.random_regular(32, 4, rng(seed))) for seed in range(80)]
    assert np.mean(gaps) == pytest.approx(0.1765, abs=4 * 0.026 / 80**0.5)


def test_hash_rings_mix_within_a_tenth_of_random_regular_graphs() -> None:
    for size, uniform in ((32, 0.1765), (64, 0.1416)):
        gaps = [gap(generators.hash_rings(size, 4, seed)) for seed in range(30)]
        assert np.mean(gaps) == pytest.approx(uniform, rel=0.1)


def test_erdos_renyi_has_the_mean_degree_and_is_connected() -> None:
    graphs = [generators.erdos_renyi(40, 8, rng(seed)) for seed in range(20)]
    assert all(map(is_connected, graphs))
    assert np.mean([one.sends().mean() for one in graphs]) == pytest.approx(8, rel=0.05)
    with pytest.raises(UsageError, match=r"below ln\(300\) = 5.7"):
        generators.erdos_renyi(300, 2, rng())


@pytest.mark.parametrize("size", [2, 7, 32])
@pytest.mark.parametrize("make", [generators.equi_static, generators.equi_directed])
def test_equitopo_matrices_are_doubly_stochastic(
    size: int, make: Callable[[int, int, np.random.Generator], Round]
) -> None:
    for seed in range(5):
        one = make(size, 6, rng(seed))
        matrix = mixing(one)
        assert matrix.sum(axis=0) == pytest.approx(np.ones(size))
        assert matrix.min() > -1e-12
        assert one.sends().max() <= 6
        assert np.trace(matrix) == pytest.approx(1), "1 / size of each circulant stays at home"
        assert one.directed or np.allclose(matrix, matrix.T)


def test_the_exponential_graph_doubles_its_distances() -> None:
    one = generators.exponential(10)
    assert [b for a, b in one.edges.tolist() if a == 3] == [1, 4, 5, 7]


@pytest.mark.parametrize("make", [generators.ring, generators.star, generators.complete, generators.exponential])
def test_one_worker_is_no_graph(make: Callable[[int], Round]) -> None:
    with pytest.raises(UsageError, match="at least 2 workers, not 1"):
        make(1)


def test_an_odd_degree_has_no_mirror_images() -> None:
    with pytest.raises(UsageError, match="even degree, not 3"):
        generators.equi_static(10, 3, rng())
