"""Who trains on what: partitions of a labelled data set, and each worker's stream of batches.

Everything here is a pure function of labels, counts and a seed, so every worker computes the same partition and nobody
has to be told. Three kinds of shards, from easy to hard for decentralized training:

=============  ========================================================================================
``iid``        a random split, sizes differ by at most one
``dirichlet``  each class spread by Dirichlet(alpha) shares; small alpha: few classes a worker, unequal sizes
``sorted``     each worker a contiguous range of the sorted labels: one or two classes a worker
=============  ========================================================================================

Source: Hsu, Qi, Brown, Measuring the Effects of Non-Identical Data Distribution, arXiv:1909.06335, section 3.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.errors import UsageError

Kind = Literal["iid", "dirichlet", "sorted"]
Indices = NDArray[np.int64]


def split(labels: NDArray[np.integer], count: int, seed: int) -> tuple[Indices, Indices]:
    """Split a data set in two, stratified: each class gives its part of ``count`` samples to the second, within one.

    Args:
        labels: integer[n], the class of each sample.
        count: size of the second part, from 1 to n - 1.
        seed: chooses the samples.

    Returns:
        Rising sample numbers of the first and of the second part.

    Raises:
        UsageError: a count out of range.
    """
    if not 1 <= count < len(labels):
        raise UsageError(f"{count} of {len(labels)} samples: needs 1 to {len(labels) - 1}")
    order = np.random.default_rng([seed, 1]).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # sorted by class, shuffled inside each
    places = np.arange(len(labels) + 1) * count // len(labels)
    chosen = np.diff(places) > 0  # evenly along the classes
    return np.sort(order[~chosen]), np.sort(order[chosen])


def partition(
    labels: NDArray[np.integer], count: int, kind: Kind, *, alpha: float = 0.1, seed: int = 0
) -> list[Indices]:
    """Split a data set into one shard a worker; none is empty, together they are the whole.

    Args:
        labels: integer[n], the class of each sample.
        count: workers, from 1 to n.
        kind: see the module.
        alpha: concentration of ``dirichlet``, over 0.
        seed: same seed, same partition.

    Returns:
        ``count`` arrays of rising sample numbers.

    Raises:
        UsageError: a count without a partition, an unknown kind or an alpha out of range.
    """
    if not 1 <= count <= len(labels):
        raise UsageError(f"{count} shards of {len(labels)} samples: needs 1 to {len(labels)}")
    if alpha <= 0:
        raise UsageError(f"alpha is {alpha}: needs a concentration over 0")
    rng = np.random.default_rng([seed, 2])
    order = rng.permutation(len(labels))
    match kind:
        case "iid":
            shards = np.array_split(order, count)
        case "sorted":
            shards = np.array_split(order[np.argsort(labels[order], kind="stable")], count)
        case "dirichlet":
            shards = _without_empty(_dirichlet(labels, order, count, alpha, rng))
        case _:
            raise UsageError(f"shards is {kind!r}: needs iid, dirichlet or sorted")
    return [np.sort(shard) for shard in shards]


def _dirichlet(
    labels: NDArray[np.integer], order: Indices, count: int, alpha: float, rng: np.random.Generator
) -> list[Indices]:
    parts: list[list[Indices]] = [[] for _ in range(count)]
    for label in np.unique(labels):
        members = order[labels[order] == label]
        cuts = np.cumsum(rng.dirichlet(np.full(count, alpha)))[:-1]
        for part, piece in zip(parts, np.split(members, np.rint(cuts * len(members)).astype(int)), strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]


def by_groups(groups: NDArray[np.integer], count: int, *, seed: int = 0) -> list[Indices]:
    """Give each worker natural groups: whole ones where there are enough, else a part of one.

    Args:
        groups: integer[n], the group of each sample: who wrote it, where it was collected.
        count: workers. Of G groups, worker w takes groups w, w + count, ... or, with more workers than groups, a random
            part of group w % G.
        seed: of the random parts.

    Returns:
        ``count`` arrays of rising sample numbers; none is empty, together they are the whole.

    Raises:
        UsageError: no worker, or a group smaller than the number of workers that share it.
    """
    if count < 1:
        raise UsageError(f"{count} shards: needs 1 at least")
    rng = np.random.default_rng([seed, 4])
    names = np.unique(groups)
    parts: list[list[Indices]] = [[] for _ in range(count)]
    for number, name in enumerate(names):
        members = rng.permutation(np.flatnonzero(groups == name))
        takers = range(number, count, len(names)) if count > len(names) else [number % count]
        if len(members) < len(takers):
            raise UsageError(f"{len(takers)} workers share the {len(members)} samples of group {name}: too few")
        for taker, piece in zip(takers, np.array_split(members, len(takers)), strict=True):
            parts[taker].append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def _without_empty(shards: list[Indices]) -> list[Indices]:
    """Give each empty shard one sample of the largest."""
    for number, shard in enumerate(shards):
        if not len(shard):
            largest = max(range(len(shards)), key=lambda other: len(shards[other]))
            shards[number], shards[largest] = shards[largest][-1:], shards[largest][:-1]
    return shards


class Batches:
    """An endless stream of batches over one shard: shuffled passes, one after the other, without a gap.

    Every batch has exactly ``size`` samples; one that reaches over the end of a pass takes the rest from the next, so
    a shard smaller than a batch works too. The stream is a function of ``(seed, name)`` alone.
    """

    def __init__(self, shard: Indices, size: int, seed: int, name: str) -> None:
        """Take ``shard``: int64[n] with n over 0, and ``size`` samples a batch, from 1."""
        if size < 1 or not len(shard):
            raise UsageError(f"batches of {size} from {len(shard)} samples: needs at least 1 of each")
        digest = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
        self._rng = np.random.default_rng([seed, 3, digest])
        self._shard, self._size = shard, size
        self._rest = shard[:0]

    def next(self) -> Indices:
        """Return the sample numbers of the next batch: int64[size]."""
        while len(self._rest) < self._size:
            self._rest = np.concatenate([self._rest, self._rng.permutation(self._shard)])
        batch, self._rest = self._rest[: self._size], self._rest[self._size :]
        return batch
