"""Blending obeys the law of ``mixing.mix_versions``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.attach import blend
from dagrad_bus.attach.blend import Blender
from dagrad_bus.mixing import Version, mix_versions

CPU = torch.device("cpu")


def frames(rng: np.random.Generator, blocks: int, block: int, count: int) -> list[Version]:
    """Return ``count`` frames with random blocks and weights."""
    made: list[Version] = []
    for _ in range(count):
        indices = np.sort(rng.choice(blocks, rng.integers(1, blocks + 1), replace=False)).astype(np.int64)
        values = (rng.standard_normal((len(indices), block)) * 10 ** rng.uniform(-2, 2)).astype(np.float32)
        made.append(Version(indices, values, float(rng.uniform(0.01, 5))))
    return made


@settings(deadline=None, max_examples=40)
@given(
    block=st.sampled_from([1, 8, 64, 256]), blocks=st.integers(1, 60), count=st.integers(0, 6), seed=st.integers(0, 999)
)
def test_blending_equals_the_reference(block: int, blocks: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(blocks * block).astype(np.float32)
    versions = frames(rng, blocks, block, count)
    expected = x.copy()
    reference = mix_versions(expected, versions, block=block, clip=0.5)
    found = torch.from_numpy(x)
    done = Blender(blocks, block, 0.5, CPU).blend(found, versions)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert (done.mixed, done.clipped, done.refused) == (reference.mixed, reference.clipped, reference.refused)


def test_the_order_of_frames_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    versions = frames(rng, 50, 8, 5)
    one, two = torch.randn(400), torch.empty(400)
    two.copy_(one)
    blender = Blender(50, 8, 2.0, CPU)
    blender.blend(one, versions)
    blender.blend(two, versions[::-1])
    torch.testing.assert_close(one, two)


def test_the_scratch_is_clean_between_calls() -> None:
    rng = np.random.default_rng(2)
    blender = Blender(50, 8, 2.0, CPU)
    for seed in range(3):
        versions = frames(rng, 50, 8, 3)
        used, fresh = torch.randn(400, generator=torch.Generator().manual_seed(seed)), torch.empty(400)
        fresh.copy_(used)
        blender.blend(used, versions)
        Blender(50, 8, 2.0, CPU).blend(fresh, versions)
        assert torch.equal(used, fresh)


def test_spans_of_single_elements_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    versions = frames(rng, 500, 1, 4)
    whole, parts = torch.randn(500), torch.empty(500)
    parts.copy_(whole)
    Blender(500, 1, 2.0, CPU).blend(whole, versions)
    monkeypatch.setattr(blend, "SPAN", 64)
    Blender(500, 1, 2.0, CPU).blend(parts, versions)
    assert torch.equal(whole, parts)


def test_a_frame_that_meets_own_values_that_are_not_finite_is_left_out() -> None:
    x = torch.ones(16)
    x[3] = torch.nan
    versions = [
        Version(np.array([0]), np.zeros((1, 8), np.float32), 1.0),
        Version(np.array([1]), np.zeros((1, 8), np.float32), 1.0),
    ]
    done = Blender(2, 8, 2.0, CPU).blend(x, versions)
    assert (done.mixed, done.refused) == (1, 1)
    torch.testing.assert_close(x[8:], torch.full((8,), 0.5))
