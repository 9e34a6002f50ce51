"""The flat vector in blocks: which blocks exist, how much each changed, which ones travel next.

A model's floating parameters and buffers, one after the other, are one vector of ``P`` elements; ``B`` consecutive
elements are a block, ``nB = ceil(P / B)``. The last block is zero padded in frames and in scores, never in the model.
Integer buffers form a vector of their own; their blocks are numbered from ``nB`` on.

A frame of ``T`` blocks consists of, in this order of right:

* the refresh stripe, the next blocks round robin, so that two neighbours compare everything within bounded time;
* dirty blocks, which a ready link should have had and did not get;
* the blocks of largest change. They fill what is left, so repeats never cost more bytes than promised.

Everything here is numpy and exact: device kernels are tested against it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.errors import UsageError

ELEMENTWISE_BELOW = 1_000_000
"""Models under this many elements select single elements: they learn better at equal bytes, and it is cheap enough."""
LARGE_BLOCK = 64
MAX_BLOCK = 256

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the layout: its name, shape and dtype (``"float32"``, ``"bfloat16"``, ``"int64"``, ...)."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """How many elements it holds; a scalar holds one."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Names, shapes and dtypes of what is exchanged, and the block size. Peers must agree on all of it.

    Args:
        entries: floating parameters, then floating buffers, in the order of the flat vector. Tied weights stand once,
            frozen parameters not at all.
        integers: integer buffers, in the order of their own vector.
        block: elements a block, a power of two from 1 to 256.
        buffer_size: how many of the last floating elements are buffers.

    Raises:
        UsageError: nothing to exchange, a name twice, or a size out of range.
    """

    entries: tuple[Entry, ...]
    integers: tuple[Entry, ...]
    block: int
    buffer_size: int = 0

    def __post_init__(self) -> None:
        """Check every bound."""
        if not 1 <= self.block <= MAX_BLOCK or self.block & (self.block - 1):
            raise UsageError(f"block is {self.block}: needs a power of two from 1 to {MAX_BLOCK}")
        if self.size == 0:
            raise UsageError("the layout has no floating elements: nothing to exchange (are all parameters frozen?)")
        if not 0 <= self.buffer_size <= self.size:
            raise UsageError(f"buffer_size is {self.buffer_size}: needs 0 to {self.size}, the floating elements")
        names = [entry.name for entry in (*self.entries, *self.integers)]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"the layout names {twice!r} twice: every tensor needs a name of its own")

    @cached_property
    def size(self) -> int:
        """``P``: floating elements."""
        return sum(entry.size for entry in self.entries)

    @property
    def blocks(self) -> int:
        """``nB``: blocks of floating elements, the last one perhaps ragged."""
        return -(-self.size // self.block)

    @cached_property
    def parameter_blocks(self) -> int:
        """Blocks of parameters alone, the first ones; a block that parameters and buffers share counts as buffers."""
        return (self.size - self.buffer_size) // self.block if self.buffer_size else self.blocks

    @property
    def buffer_blocks(self) -> int:
        """Blocks with elements of floating buffers: ``parameter_blocks .. blocks - 1``."""
        return self.blocks - self.parameter_blocks

    @cached_property
    def integer_size(self) -> int:
        """Integer elements."""
        return sum(entry.size for entry in self.integers)

    @property
    def integer_blocks(self) -> int:
        """Blocks of integer elements; they are numbered ``blocks .. blocks + integer_blocks - 1``."""
        return -(-self.integer_size // self.block)

    @cached_property
    def digest(self) -> bytes:
        """8 bytes, equal on two peers exactly if their layouts are: BLAKE2b-64 of a canonical text."""
        rows = [[[e.name, list(e.shape), e.dtype] for e in part] for part in (self.entries, self.integers)]
        text = json.dumps([self.block, *rows], ensure_ascii=True, separators=(",", ":"))
        return blake2b(text.encode(), digest_size=8, person=b"dagrad-layout").digest()

    def describe(self) -> str:
        """Return one short line for logs and error messages."""
        whole = f", {self.integer_size} integers" if self.integers else ""
        tensors = len(self.entries) + len(self.integers)
        return (
            f"{self.size} elements in {self.blocks} blocks of {self.block}{whole}, {tensors} tensors, "
            f"digest {self.digest.hex()}"
        )


def choose_block(size: int) -> int:
    """Return the default elements a block for a model of ``size`` elements."""
    return 1 if size < ELEMENTWISE_BELOW else LARGE_BLOCK


def frame_budget(density: float, blocks: int, refresh: float) -> tuple[int, int]:
    """Return how many blocks a frame may carry, and how many of them are the refresh stripe.

    Args:
        density: share of the model in one frame, (0, 1].
        blocks: ``nB``.
        refresh: share of the frame that goes round robin, [0, 1]; 0 switches the stripe off.

    Returns:
        ``(T, s)`` with ``T = max(1, round(density * nB))``, the stripe included, and ``s = max(1, int(T * refresh))``;
        a frame of one block has no stripe, it would leave no room for what changed.
    """
    total = max(1, round(density * blocks))
    stripe = max(1, int(total * refresh)) if refresh > 0 and total > 1 else 0
    return total, stripe


@dataclass(frozen=True, slots=True)
class Stripe:
    """``size`` consecutive blocks of ``total``, cyclic, from ``start``; ``0 <= start < total``, ``size <= total``."""

    start: int
    size: int
    total: int

    def __contains__(self, block: int) -> bool:
        """Whether ``block`` lies in the stripe."""
        return (block - self.start) % self.total < self.size

    @property
    def end(self) -> int:
        """The block after the last one, where the next stripe begins."""
        return (self.start + self.size) % self.total

    def indices(self) -> NDArray[np.int64]:
        """Return the block numbers, int64[size], rising."""
        first = np.arange(self.start, min(self.start + self.size, self.total), dtype=np.int64)
        wrapped = np.arange(self.size - first.size, dtype=np.int64)
        return np.concatenate([wrapped, first])


def gather_blocks(x: NDArray[_Number], indices: NDArray[np.int64], block: int) -> NDArray[_Number]:
    """Return ``[n, B]``: the blocks ``indices`` of the flat ``x``, what lies beyond its end as zeros."""
    positions = _positions(indices, block)
    inside = positions < x.size
    rows = np.zeros(positions.shape, dtype=x.dtype)
    rows[inside] = x[positions[inside]]
    return rows


def scatter_blocks(x: NDArray[_Number], indices: NDArray[np.int64], rows: NDArray[_Number]) -> None:
    """Write ``rows[n, B]`` into the blocks ``indices`` of the flat ``x``; padding beyond its end is ignored."""
    positions = _positions(indices, rows.shape[1])
    inside = positions < x.size
    x[positions[inside]] = rows[inside]


def _positions(indices: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    """Return the places of the blocks' elements in the flat vector, int64[n, B]."""
    return indices.reshape(-1, 1) * np.int64(block) + np.arange(block, dtype=np.int64)


def block_scores(x: NDArray[np.float32], anchor: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Return the squared change of every block since it was last shared.

    Args:
        x: float32[P], the own parameters.
        anchor: float32[P], their values as last shared.
        block: elements a block.

    Returns:
        float32[nB], ``|| x_b - anchor_b ||^2``; not finite where the block, or its square, is not.
    """
    padded = np.zeros(-(-x.size // block) * block, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # a diverged block scores inf or nan and is never chosen
        np.subtract(x, anchor, out=padded[: x.size])
        np.square(padded, out=padded)
        scores: NDArray[np.float32] = padded.reshape(-1, block).sum(axis=1)
    return scores


def top_blocks(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return at most ``count`` blocks of largest score, best first, equal scores by block number.

    A score of zero is no change and a score that is not finite is no value to share: neither is ever returned.
    """
    candidates = np.flatnonzero((scores > 0) & np.isfinite(scores))
    if count <= 0:
        return candidates[:0]
    if count < candidates.size:
        threshold = np.partition(scores[candidates], candidates.size - count)[candidates.size - count]
        above = candidates[scores[candidates] > threshold]
        level = candidates[scores[candidates] == threshold]
        candidates = np.concatenate([above, level[: count - above.size]])
    return candidates[np.lexsort((candidates, -scores[candidates]))]


def choose(
    top: NDArray[np.int64], stripe: NDArray[np.int64], dirty: NDArray[np.int64], budget: int
) -> NDArray[np.int64]:
    """Return the blocks of the next frame: the stripe, then dirty blocks, then the top ones until ``budget`` is full.

    Args:
        top: distinct candidates, best first (:func:`top_blocks`, or a device's estimate of it). ``budget`` of them
            suffice even where they overlap the stripe and the dirty blocks.
        stripe: the refresh stripe.
        dirty: repeats, in the order of their right; the caller bounds their number.
        budget: how many blocks the frame may carry.

    Returns:
        int64, strictly rising, at most ``budget``.
    """
    budget = max(budget, 0)
    first = np.concatenate([stripe, dirty])
    _, places = np.unique(first, return_index=True)
    first = np.sort(first[np.sort(places)[:budget]])
    if first.size:  # a search among the few is far cheaper than sorting the many twice
        near = first[np.minimum(np.searchsorted(first, top), first.size - 1)]
        top = top[near != top]
    return np.sort(np.concatenate([first, top[: budget - first.size]])).astype(np.int64, copy=False)
