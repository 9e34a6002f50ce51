from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dagrad_bus.blocks import gather_blocks
from dagrad_bus.codec import Value
from dagrad_bus.events import Arrival, Selection
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.mixing import (
    CLIP_FLOOR,
    AgeTracker,
    StepClock,
    Version,
    arrival_age,
    clip_share,
    discount,
    mix_versions,
    raise_integers,
    version_weight,
)
from dagrad_bus.wire import Kind

SEEDS = st.integers(0, 2**32 - 1)
BLOCK_SIZES = st.sampled_from([1, 2, 4, 8])


def some_versions(rng: np.random.Generator, size: int, block: int, count: int) -> list[Version]:
    total = -(-size // block)
    versions: list[Version] = []
    for _ in range(count):
        indices = np.sort(rng.permutation(total)[: rng.integers(1, total + 1)])
        rows = gather_blocks(rng.normal(size=size).astype(np.float32), indices, block)
        versions.append(Version(indices, rows, float(rng.uniform(0, 3))))
    return versions


def whole(values: list[float], weight: float = 1.0) -> Version:
    return Version(np.arange(len(values)), np.array(values, dtype=np.float32)[:, None], weight)


@given(st.floats(0, 1e6), st.floats(0.01, 1e4), st.floats(0, 10))
def test_a_version_counts_fully_up_to_tau_and_fades_beyond(age: float, tau: float, power: float) -> None:
    share = discount(age, tau, power)
    assert 0 <= share <= 1
    assert age > tau or share == 1
    assert discount(2 * age, tau, power) <= share
    assert discount(age, tau, 0) == 1


def test_the_weight_of_a_version_is_w0_at_typical_age_and_nothing_at_infinity() -> None:
    assert version_weight(0.5, age=3, tau=3, power=1) == 1
    assert version_weight(0.5, age=12, tau=3, power=1) == 0.25
    assert version_weight(0.75, age=6, tau=3, power=2) == 0.75
    assert version_weight(0.5, age=math.inf, tau=3, power=1) == 0


def arrival(transit: float, arrived_at: float) -> Arrival:
    selection = Selection(np.zeros(0, np.int64), np.zeros((0, 1), np.float32))
    return Arrival(
        NodeId(bytes(16)), Kind.STATE, Value.F32, selection, Step(1), rate=1.0, transit=transit, arrived_at=arrived_at
    )


def test_age_is_transit_and_waiting_in_own_steps_and_never_negative() -> None:
    assert arrival_age(arrival(0.5, 10.0), now=11.0, own_rate=4.0) == 6
    assert arrival_age(arrival(0.0, 10.0), now=9.0, own_rate=4.0) == 0
    assert arrival_age(arrival(0.5, 10.0), now=11.0, own_rate=0.0) == 0


def test_tau_follows_the_median_age_has_floor_one_and_ignores_outliers() -> None:
    tracker = AgeTracker()
    assert tracker.tau == 1
    tracker.observe([0.1, 0.2])
    assert tracker.tau == 1
    tracker.observe([8.0, 8.0, 8.0, 8.0, 500.0, math.inf] * 60)
    assert tracker.tau == pytest.approx(8, abs=0.1)
    tracker.observe([2.0] * 200)
    assert tracker.tau == pytest.approx(2, abs=0.1)


def test_a_fixed_tau_stays() -> None:
    tracker = AgeTracker(fixed=0.5)
    tracker.observe([9.0] * 20)
    assert tracker.tau == 0.5


@pytest.mark.parametrize("slow_steps", [1, 3])
def test_the_step_rate_forgets_slow_first_steps_and_overlooks_pauses(slow_steps: int) -> None:
    clock = StepClock()
    assert clock.rate == 0
    now = 100.0
    clock.tick(now)
    assert clock.rate == 0
    for step in range(200):
        now += 5.0 if step < slow_steps else 30.0 if step % 50 == 49 else 0.1
        clock.tick(now)
    assert clock.rate == pytest.approx(10, rel=0.02)


def test_a_clock_that_stands_still_gives_a_finite_rate() -> None:
    clock = StepClock()
    for _ in range(5):
        clock.tick(1.0)
    assert math.isfinite(clock.rate)


@given(SEEDS, BLOCK_SIZES, st.integers(1, 30), st.integers(1, 5))
def test_the_order_of_versions_does_not_matter(seed: int, block: int, size: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    versions = some_versions(rng, size, block, count)
    x = rng.normal(size=size).astype(np.float32)
    y = x.copy()
    first = mix_versions(x, versions, block=block, clip=2.0)
    second = mix_versions(y, versions[::-1], block=block, clip=2.0)
    np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)
    assert first.touched.tolist() == second.touched.tolist()
    assert set(first.touched.tolist()) == {block for version in versions for block in version.indices.tolist()}


@given(SEEDS, BLOCK_SIZES, st.integers(1, 30), st.integers(1, 5))
def test_mixing_is_the_weighted_average_of_own_value_and_versions(seed: int, block: int, size: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    versions = some_versions(rng, size, block, count)
    x = rng.normal(size=size).astype(np.float32)
    expected = x.astype(np.float64)
    for i in range(size):
        terms = [
            (version.weight, float(version.values[np.flatnonzero(version.indices == i // block)[0], i % block]))
            for version in versions
            if i // block in version.indices
        ]
        expected[i] = (expected[i] + sum(q * v for q, v in terms)) / (1 + sum(q for q, _ in terms))
    mix_versions(x, versions, block=block, clip=math.inf)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


@given(SEEDS, st.integers(1, 30), st.integers(1, 5), st.floats(0.01, 10))
def test_mixing_never_leaves_the_range_of_own_value_and_versions(seed: int, size: int, count: int, clip: float) -> None:
    rng = np.random.default_rng(seed)
    versions = some_versions(rng, size, 1, count)
    x = rng.normal(size=size).astype(np.float32)
    low, high = x.copy(), x.copy()
    for version in versions:
        low[version.indices] = np.minimum(low[version.indices], version.values[:, 0])
        high[version.indices] = np.maximum(high[version.indices], version.values[:, 0])
    mix_versions(x, versions, block=1, clip=clip)
    assert (low - 1e-6 <= x).all()
    assert (x <= high + 1e-6).all()


@given(SEEDS, BLOCK_SIZES, st.integers(1, 30))
def test_a_version_equal_to_the_own_values_changes_nothing(seed: int, block: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=size).astype(np.float32)
    indices = np.arange(-(-size // block))
    same = Version(indices, gather_blocks(x, indices, block), 5.0)
    before = x.tolist()
    mix_versions(x, [same, same], block=block, clip=2.0)
    assert x.tolist() == before


def test_one_version_of_typical_age_at_one_half_is_the_plain_mean() -> None:
    x = np.array([1.0, 3.0], dtype=np.float32)
    q = version_weight(0.5, age=2, tau=2, power=1)
    mix_versions(x, [Version(np.array([0]), np.array([[3.0, 4.0]], dtype=np.float32), q)], block=2, clip=2.0)
    assert x.tolist() == [2.0, 3.5]


def test_an_older_version_moves_less() -> None:
    moved: list[float] = []
    for age in (1, 2, 4, 8):
        x = np.ones(1, dtype=np.float32)
        mix_versions(x, [whole([2.0], version_weight(0.5, age, tau=1, power=1))], block=1, clip=2.0)
        moved.append(float(x[0]) - 1)
    assert moved == pytest.approx([1 / 2, 1 / 3, 1 / 5, 1 / 9])


@given(SEEDS, st.integers(1, 30), st.floats(0.01, 3), st.floats(0, 100))
def test_a_frame_moves_at_most_clip_times_the_own_norm(seed: int, size: int, clip: float, far: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=size).astype(np.float32)
    before = x.copy()
    result = mix_versions(x, [whole((rng.normal(size=size) * far).tolist(), 1e6)], block=1, clip=clip)
    bound = clip * max(float(np.linalg.norm(before)), CLIP_FLOOR * math.sqrt(size))
    assert np.linalg.norm(x - before) <= bound * (1 + 1e-5)
    assert result.clipped in (0, 1)


def test_blocks_that_are_all_zero_can_move() -> None:
    x = np.zeros(4, dtype=np.float32)
    result = mix_versions(x, [whole([1.0, 0, 0, 0])], block=1, clip=2.0)
    assert x[0] == pytest.approx(2.0 * CLIP_FLOOR * 2 / 2)
    assert result.clipped == 1
    assert clip_share(1.0, 0.0, 4, math.inf) == 1


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_frame_that_is_not_finite_is_left_out_and_counted(poison: float) -> None:
    x = np.array([1.0, 1.0, 1.0], dtype=np.float32)
    good = Version(np.array([1]), np.array([[3.0]], dtype=np.float32), 1.0)
    result = mix_versions(x, [whole([2.0, 2.0, poison]), good], block=1, clip=9.0)
    assert x.tolist() == [1.0, 2.0, 1.0]
    assert (result.touched.tolist(), result.mixed, result.refused) == ([1], 1, 1)


def test_without_versions_nothing_moves() -> None:
    x = np.ones(3, dtype=np.float32)
    assert mix_versions(x, [], block=2, clip=2.0).touched.size == 0
    assert x.tolist() == [1, 1, 1]


def test_the_ragged_last_block_takes_its_part_and_no_padding() -> None:
    x = np.array([1, 1, 1, 1, 1], dtype=np.float32)
    mix_versions(x, [Version(np.array([1]), np.array([[3, 0, 0, 0]], dtype=np.float32), 1.0)], block=4, clip=9.0)
    assert x.tolist() == [1, 1, 1, 1, 2]


def test_integers_become_the_larger_of_both() -> None:
    own: NDArray[np.int64] = np.array([5, 1, 7, 2, 9], dtype=np.int64)
    raise_integers(own, np.array([10, 12]), np.array([[3, 4], [11, 99]]), first=10)
    assert own.tolist() == [5, 4, 7, 2, 11]
