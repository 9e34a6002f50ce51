from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import shards

KINDS: tuple[shards.Kind, ...] = ("iid", "dirichlet", "sorted")
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**32)
label_lists = st.lists(st.integers(0, 9), min_size=2, max_size=200)


@given(label_lists, st.data(), seeds)
def test_a_split_keeps_every_sample_once_and_the_classes_in_proportion(
    given_labels: list[int], data: st.DataObject, seed: int
) -> None:
    labels = np.array(given_labels)
    count = data.draw(st.integers(1, len(labels) - 1))
    first, second = shards.split(labels, count, seed)
    assert len(second) == count
    assert sorted([*first, *second]) == list(range(len(labels)))
    for label in set(given_labels):
        part = (labels == label).sum() * count / len(labels)
        assert abs((labels[second] == label).sum() - part) < 1 + 1e-9


@given(label_lists, st.data(), kinds, st.floats(0.01, 10), seeds)
def test_shards_are_a_partition_without_an_empty_part_and_the_same_for_all(
    given_labels: list[int], data: st.DataObject, kind: shards.Kind, alpha: float, seed: int
) -> None:
    labels = np.array(given_labels)
    count = data.draw(st.integers(1, len(labels)))
    parts = shards.partition(labels, count, kind, alpha=alpha, seed=seed)
    assert len(parts) == count and all(len(part) for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    again = shards.partition(labels, count, kind, alpha=alpha, seed=seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


@given(label_lists, st.data(), st.sampled_from(["iid", "sorted"]), seeds)
def test_iid_and_sorted_shards_differ_by_at_most_one_sample(
    given_labels: list[int], data: st.DataObject, kind: shards.Kind, seed: int
) -> None:
    count = data.draw(st.integers(1, len(given_labels)))
    sizes = [len(part) for part in shards.partition(np.array(given_labels), count, kind, seed=seed)]
    assert max(sizes) - min(sizes) <= 1


@given(label_lists, st.data(), seeds)
def test_sorted_shards_are_contiguous_ranges_of_the_sorted_labels(
    given_labels: list[int], data: st.DataObject, seed: int
) -> None:
    labels = np.array(given_labels)
    parts = shards.partition(labels, data.draw(st.integers(1, len(labels))), "sorted", seed=seed)
    for lower, upper in pairwise(parts):
        assert labels[lower].max() <= labels[upper].min()


def test_a_small_alpha_concentrates_classes_and_a_large_one_does_not() -> None:
    labels = np.repeat(np.arange(10), 100)

    def mean_largest_class(alpha: float) -> float:
        parts = shards.partition(labels, 8, "dirichlet", alpha=alpha)
        return float(np.mean([np.bincount(labels[part], minlength=10).max() / len(part) for part in parts]))

    assert mean_largest_class(0.1) > 0.4
    assert mean_largest_class(1000.0) < 0.2


def test_another_seed_gives_another_partition() -> None:
    labels = np.repeat(np.arange(10), 20)
    one, other = (shards.partition(labels, 4, "iid", seed=seed) for seed in (0, 1))
    assert not np.array_equal(one[0], other[0])


@given(st.integers(1, 50), st.integers(1, 70), seeds)
def test_each_sample_comes_once_in_each_pass_however_the_batches_fall(size: int, batch: int, seed: int) -> None:
    shard = np.arange(size) * 3
    stream = shards.Batches(shard, batch, seed, "local.0")
    batches = [stream.next() for _ in range(-(-3 * size // batch))]
    assert {len(numbers) for numbers in batches} == {batch}
    drawn = np.concatenate(batches)[: 3 * size].reshape(3, size)
    assert np.array_equal(np.sort(drawn, axis=1), np.tile(shard, (3, 1)))


def test_batches_depend_on_seed_and_name_and_on_nothing_else() -> None:
    def first(seed: int, name: str) -> list[int]:
        return [int(number) for number in shards.Batches(np.arange(1000), 32, seed, name).next()]

    assert first(0, "local.0") == first(0, "local.0")
    assert len({tuple(first(seed, name)) for seed in (0, 1) for name in ("local.0", "local.1")}) == 4


@pytest.mark.parametrize(
    ("count", "kind", "alpha", "message"),
    [
        (0, "iid", 0.1, "0 shards of 3 samples"),
        (4, "sorted", 0.1, "4 shards of 3 samples"),
        (2, "dirichlet", 0.0, "alpha is 0.0"),
        (2, "even", 0.1, "shards is 'even'"),
    ],
)
def test_a_partition_that_cannot_be_is_refused(count: int, kind: shards.Kind, alpha: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shards.partition(np.arange(3), count, kind, alpha=alpha)


@pytest.mark.parametrize("count", [0, 3])
def test_a_split_with_an_empty_part_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match=f"{count} of 3 samples"):
        shards.split(np.arange(3), count, 0)


@pytest.mark.parametrize(("samples", "size"), [(0, 4), (4, 0)])
def test_batches_of_nothing_are_refused(samples: int, size: int) -> None:
    with pytest.raises(UsageError, match="needs at least 1 of each"):
        shards.Batches(np.arange(samples), size, 0, "local.0")


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (1, [{0, 1, 2, 3, 4}]),
        (2, [{0, 2, 4}, {1, 3}]),
        (4, [{0, 4}, {1}, {2}, {3}]),
        (7, [{0}, {1}, {2}, {3}, {4}, {0}, {1}]),
    ],
)
def test_natural_groups_stay_whole_or_are_shared(count: int, wanted: list[set[int]]) -> None:
    groups = np.repeat(np.arange(5), 6)
    parts = shards.by_groups(groups, count, seed=3)
    assert [set(groups[part].tolist()) for part in parts] == wanted
    assert sorted(np.concatenate(parts).tolist()) == list(range(30))


@pytest.mark.parametrize(("count", "wrong"), [(0, "needs 1 at least"), (9, "5 workers share the 2 samples")])
def test_groups_that_cannot_be_shared_are_refused(count: int, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        shards.by_groups(np.array([0, 0, 7, 7]), count)
