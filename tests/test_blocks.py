from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dagrad_bus.blocks import (
    Entry,
    Layout,
    Stripe,
    block_scores,
    choose,
    choose_block,
    frame_budget,
    gather_blocks,
    scatter_blocks,
    top_blocks,
)
from dagrad_bus.errors import UsageError

WEIGHT = Entry("weight", (3, 4), "float32")
BIAS = Entry("bias", (3,), "float32")
COUNT = Entry("batches", (), "int64")
SCORES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, np.inf, np.nan]), max_size=40)
DISTINCT = st.lists(st.integers(0, 50), max_size=20, unique=True)
INDICES = st.lists(st.integers(0, 50), max_size=20)


def as_indices(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def test_a_layout_counts_floats_and_integers_apart_in_blocks() -> None:
    layout = Layout((WEIGHT, BIAS), (COUNT,), block=4)
    assert (layout.size, layout.blocks, layout.integer_size, layout.integer_blocks) == (15, 4, 1, 1)
    assert Layout((BIAS,), (), block=1).integer_blocks == 0
    assert "15 elements in 4 blocks of 4, 1 integers, 3 tensors" in layout.describe()


def test_equal_layouts_have_equal_digests_of_a_fixed_value() -> None:
    layout = Layout((WEIGHT, BIAS), (COUNT,), block=4)
    assert layout.digest == Layout((WEIGHT, BIAS), (COUNT,), block=4).digest
    assert layout.digest.hex() == "a5ed0a5b1488e460"  # a peer on any other Python must compute the same


@pytest.mark.parametrize(
    "other",
    [
        Layout((WEIGHT, BIAS), (COUNT,), block=8),
        Layout((BIAS, WEIGHT), (COUNT,), block=4),
        Layout((WEIGHT, BIAS), (), block=4),
        Layout((WEIGHT, BIAS, COUNT), (), block=4),
        Layout((Entry("weight", (4, 3), "float32"), BIAS), (COUNT,), block=4),
        Layout((Entry("weight", (3, 4), "float16"), BIAS), (COUNT,), block=4),
        Layout((Entry("kernel", (3, 4), "float32"), BIAS), (COUNT,), block=4),
    ],
)
def test_every_part_of_a_layout_enters_its_digest(other: Layout) -> None:
    assert other.digest != Layout((WEIGHT, BIAS), (COUNT,), block=4).digest


@pytest.mark.parametrize("block", [0, 3, -4, 512])
def test_a_block_size_that_is_no_small_power_of_two_is_refused(block: int) -> None:
    with pytest.raises(UsageError, match=f"block is {block}"):
        Layout((WEIGHT,), (), block)


def test_a_layout_without_floats_or_with_a_name_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to exchange"):
        Layout((), (COUNT,), 1)
    with pytest.raises(UsageError, match="'bias' twice"):
        Layout((BIAS, WEIGHT, BIAS), (), 1)
    with pytest.raises(UsageError, match="buffer_size is 16: needs 0 to 15"):
        Layout((WEIGHT, BIAS), (), 1, 16)


def test_small_models_select_single_elements() -> None:
    assert (choose_block(999_999), choose_block(1_000_000)) == (1, 64)


@pytest.mark.parametrize(
    ("density", "blocks", "refresh", "expected"),
    [
        (0.01, 10_000, 1 / 16, (100, 6)),
        (0.01, 10_000, 0.0, (100, 0)),
        (0.01, 500, 1 / 16, (5, 1)),
        (0.01, 30, 1 / 16, (1, 0)),
        (1.0, 7, 1.0, (7, 7)),
    ],
)
def test_a_frame_has_a_share_of_the_blocks_and_its_stripe_is_part_of_it(
    density: float, blocks: int, refresh: float, expected: tuple[int, int]
) -> None:
    assert frame_budget(density, blocks, refresh) == expected


@given(st.integers(1, 30), st.integers(0, 29), st.integers(0, 30))
def test_stripes_in_a_row_visit_every_block_in_turn(total: int, start: int, size: int) -> None:
    stripe = Stripe(start % total, min(size, total), total)
    inside = [block for block in range(total) if block in stripe]
    assert stripe.indices().tolist() == inside
    assert len(inside) == stripe.size
    assert stripe.end == (stripe.start + stripe.size) % total


@given(st.integers(1, 40), st.sampled_from([1, 2, 4, 8]))
def test_scattering_what_was_gathered_changes_nothing_and_padding_is_zero(size: int, block: int) -> None:
    x = np.arange(1, size + 1, dtype=np.float32)
    every = np.arange(-(-size // block))
    rows = gather_blocks(x, every, block)
    assert rows.ravel()[size:].tolist() == [0.0] * (rows.size - size)
    copy = np.zeros_like(x)
    scatter_blocks(copy, every, rows + np.float32(0))
    assert copy.tolist() == x.tolist()


@given(st.integers(1, 40), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**32 - 1))
def test_a_score_is_the_squared_change_of_the_padded_block(size: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, anchor = rng.normal(size=(2, size)).astype(np.float32)
    rows = gather_blocks(x - anchor, np.arange(-(-size // block)), block).astype(np.float64)
    np.testing.assert_allclose(block_scores(x, anchor, block), (rows**2).sum(axis=1), rtol=1e-5)


def test_a_diverged_block_has_no_finite_score_and_does_not_touch_others() -> None:
    x = np.array([np.nan, 0, np.inf, 0, 3e38, 0, 1, 1], dtype=np.float32)
    scores = block_scores(x, np.zeros_like(x), 2)
    assert np.isfinite(scores).tolist() == [False, False, False, True]
    assert scores[3] == 2
    assert top_blocks(scores, 4).tolist() == [3]


@given(SCORES, st.integers(0, 45))
def test_top_blocks_are_the_largest_finite_changes_ties_by_number(values: list[float], count: int) -> None:
    scores = np.array(values, dtype=np.float32)
    good = [i for i, score in enumerate(values) if np.isfinite(score) and score > 0]
    assert top_blocks(scores, count).tolist() == sorted(good, key=lambda i: (-values[i], i))[:count]


@given(DISTINCT, INDICES, INDICES, st.integers(0, 30))
def test_a_frame_takes_stripe_then_dirty_then_top_within_its_budget(
    top: list[int], stripe: list[int], dirty: list[int], budget: int
) -> None:
    in_order = list(dict.fromkeys([*stripe, *dirty, *top]))
    chosen = choose(as_indices(top), as_indices(stripe), as_indices(dirty), budget)
    assert chosen.tolist() == sorted(in_order[:budget])
    assert chosen.dtype == np.int64


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_budget_many_candidates_always_fill_the_frame(blocks: int, budget: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(1, 2, size=blocks).astype(np.float32)
    repeats = rng.permutation(blocks)[: budget // 2]
    stripe = Stripe(int(rng.integers(blocks)), min(2, blocks, budget), blocks).indices()
    chosen = choose(top_blocks(scores, budget), stripe, repeats, budget)
    assert chosen.size == min(budget, blocks)
