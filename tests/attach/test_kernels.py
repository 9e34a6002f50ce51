"""The kernels do, over the flat vector, what the numpy references define."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus import blocks
from dagrad_bus.attach import kernels
from dagrad_bus.attach.kernels import ElementChooser, block_scores, gather, sampled_positions, scatter, top_blocks

CPU = torch.device("cpu")
BLOCKS = st.sampled_from([1, 8, 64, 256])


def vectors(size: int, block: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x and a, padded to whole blocks with zeros; about half of the elements differ."""
    rng = np.random.default_rng(seed)
    x = np.zeros(-(-size // block) * block, np.float32)
    a = x.copy()
    x[:size] = rng.standard_normal(size)
    a[:size] = x[:size] - rng.standard_normal(size) * (rng.random(size) < 0.5)
    return torch.from_numpy(x), torch.from_numpy(a)


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 3000), block=BLOCKS, seed=st.integers(0, 99))
def test_block_scores_equal_the_reference(size: int, block: int, seed: int) -> None:
    x, a = vectors(size, block, seed)
    out = torch.empty(len(x) // block)
    assert block_scores(x, a, block, out) == 0
    expected = blocks.block_scores(x.numpy()[:size], a.numpy()[:size], block)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5)


def test_block_scores_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    x, a = vectors(5000, 8, 1)
    whole, parts = torch.empty(625), torch.empty(625)
    block_scores(x, a, 8, whole)
    monkeypatch.setattr(kernels, "CHUNK", 48)
    block_scores(x, a, 8, parts)
    assert torch.equal(whole, parts)


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 2000), block=BLOCKS, seed=st.integers(0, 99), count=st.integers(0, 300))
def test_top_blocks_are_the_reference_s(size: int, block: int, seed: int, count: int) -> None:
    x, a = vectors(size, block, seed)
    out = torch.empty(len(x) // block)
    block_scores(x, a, block, out)
    expected = np.sort(blocks.top_blocks(out.numpy(), count))
    np.testing.assert_array_equal(top_blocks(out, count), expected)


def test_top_blocks_by_a_sampled_threshold_are_exact() -> None:
    rng = np.random.default_rng(5)
    for scores in (rng.random(200_000), np.sort(rng.random(200_000)), np.repeat(rng.random(50), 4000)):
        found = top_blocks(torch.from_numpy(scores.astype(np.float32)), 2000)
        np.testing.assert_array_equal(found, np.sort(blocks.top_blocks(scores.astype(np.float32), 2000)))


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 3000), seed=st.integers(0, 99), count=st.integers(1, 200))
def test_elements_of_a_small_vector_are_the_reference_s(size: int, seed: int, count: int) -> None:
    x, a = vectors(size, 1, seed)
    found = ElementChooser(size, 0, CPU).top(x, a, count)
    np.testing.assert_array_equal(found, np.sort(blocks.top_blocks(np.abs((x - a).numpy()), count)))


@pytest.mark.parametrize("spread", [1.0, 0.02, 0.001])
def test_elements_of_a_large_vector_are_the_largest_whatever_the_share_that_changed(spread: float) -> None:
    rng = np.random.default_rng(2)
    size, count = 400_000, 4000
    change = rng.standard_normal(size) * (rng.random(size) < spread)
    x = torch.from_numpy(change.astype(np.float32))
    found = ElementChooser(size, 0, CPU).top(x, None, count)
    np.testing.assert_array_equal(found, np.sort(blocks.top_blocks(np.abs(x.numpy()), count)))


def test_change_concentrated_in_few_elements_is_found() -> None:
    x = torch.zeros(400_000)
    x[1234:1334] = torch.arange(1.0, 101.0)
    np.testing.assert_array_equal(ElementChooser(400_000, 0, CPU).top(x, None, 10), np.arange(1324, 1334))


def test_values_that_are_not_finite_are_never_selected_and_counted() -> None:
    x, a = vectors(512, 8, 3)
    x[17], x[100] = torch.nan, torch.inf
    out = torch.empty(64)
    assert block_scores(x, a, 8, out) == 2
    assert not {2, 12} & set(top_blocks(out, 64).tolist())
    chooser = ElementChooser(512, 0, CPU)
    assert not {17, 100} & set(chooser.top(x, a, 512).tolist())
    assert chooser.poisoned == 2
    assert np.isfinite(chooser.norm)


def test_sampled_positions_depend_on_seed_and_size_only() -> None:
    np.testing.assert_array_equal(sampled_positions(1_000_000, 3), sampled_positions(1_000_000, 3))
    assert not np.array_equal(sampled_positions(1_000_000, 3), sampled_positions(1_000_000, 4))


@settings(deadline=None, max_examples=40)
@given(block=BLOCKS, seed=st.integers(0, 99))
def test_gather_returns_what_scatter_put(block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = torch.zeros(40 * block)
    indices = np.sort(rng.choice(40, 10, replace=False)).astype(np.int64)
    values = rng.standard_normal((10, block)).astype(np.float32)
    scatter(x, block, indices, values)
    np.testing.assert_array_equal(gather(x, block, indices), values)
    assert int(torch.count_nonzero(x)) == int(np.count_nonzero(values))
    scatter(x, block, indices, 0.0)
    assert not x.any()
