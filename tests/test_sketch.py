"""Sketches agree between machines, and their cosines with the true ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from dagrad_bus.sketch import COORDINATES, LENGTH, SPAN, Projection, cosine, cosines, is_sketch, remember

DIGEST = bytes(range(8))
BIG = Projection(DIGEST, 10_000_000)
SMALL = Projection(DIGEST, 50)


def pair(alike: float, rng: np.random.Generator, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return two vectors whose cosine is ``alike``, of a heavy-tailed distribution as real changes are."""
    a, b = rng.standard_t(4, size), rng.standard_t(4, size)
    b -= a * (a @ b) / (a @ a)
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    return a.astype(np.float32), (alike * a + np.sqrt(1 - alike**2) * b).astype(np.float32)


def test_a_small_model_is_followed_whole_and_a_large_one_at_few_places() -> None:
    np.testing.assert_array_equal(SMALL.positions, np.arange(50))
    assert 0.99 * COORDINATES < len(BIG.positions) <= COORDINATES
    assert np.all(np.diff(BIG.positions) > 0) and BIG.positions[0] >= 0 and BIG.positions[-1] < 10_000_000
    assert abs(BIG.positions.mean() / 10_000_000 - 0.5) < 0.03


def test_equal_layouts_sketch_alike_and_others_do_not() -> None:
    own = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    assert Projection(DIGEST, 50).sketch(own) == SMALL.sketch(own)
    assert Projection(bytes(8), 50).sketch(own) != SMALL.sketch(own)


def test_a_known_sketch_stays_what_it_is() -> None:
    """Workers of other releases and machines compare with it."""
    assert SMALL.sketch(np.arange(-20, 30, dtype=np.float32)).hex() == "5b10b2acc81fc9f7"


@pytest.mark.parametrize("alike", [-0.9, -0.5, 0.0, 0.5, 0.9])
def test_the_estimated_cosine_is_the_true_one_on_average(alike: float) -> None:
    rng = np.random.default_rng(5)
    found: list[float] = []
    for _ in range(60):
        a, b = pair(alike, rng, len(BIG.positions))
        found.append(cosine(BIG.sketch(a), BIG.sketch(b)))
    assert abs(np.mean(found) - alike) < 0.07
    assert np.std(found) < 0.25


@settings(max_examples=40)
@given(arrays(np.float32, 50, elements=st.floats(-(2.0**60), 2.0**60, width=32)), st.integers(-40, 40))
def test_a_sketch_does_not_know_the_length_of_a_change(own: NDArray[np.float32], power: int) -> None:
    sketch = SMALL.sketch(own)
    assert len(sketch) == (LENGTH if own.any() else 0)
    if own.any() and np.abs(own[own != 0]).min() > 2.0**-60:  # nothing is lost below the smallest number
        assert SMALL.sketch(own * np.float32(2.0**power)) == sketch


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_no_sketch(value: float) -> None:
    own = np.ones(50, np.float32)
    own[7] = value
    assert SMALL.sketch(own) == b""
    assert SMALL.sketch(np.zeros(50, np.float32)) == b""


@settings(max_examples=40)
@given(st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=5))
def test_cosines_are_symmetric_one_with_oneself_and_minus_one_with_the_reverse(sketches: list[bytes]) -> None:
    table = cosines(sketches, sketches)
    np.testing.assert_array_equal(table, table.T)
    np.testing.assert_allclose(np.diag(table), 1)
    reverse = [bytes(255 - byte for byte in sketch) for sketch in sketches]
    np.testing.assert_allclose(cosines(sketches, reverse), -table, atol=1e-12)


def test_a_sketch_has_eight_bytes() -> None:
    assert is_sketch(bytes(8)) and not is_sketch(b"") and not is_sketch(bytes(9))


def test_a_step_is_forgotten_at_the_rate_of_the_span() -> None:
    own = np.zeros(3, np.float32)
    remember(own, np.array([1, 0, -2], np.float32))
    for _ in range(SPAN):
        remember(own, np.zeros(3, np.float32))
    np.testing.assert_allclose(own, (1 - 1 / SPAN) ** SPAN * np.array([1, 0, -2]), rtol=1e-5)
