"""Scores, selection and gather over the flat replica.

All functions take flat float32 tensors without gradient history. The CPU forms walk the replica once, in chunks that
stay in the L2 cache, through numpy views of the tensors' memory; on an accelerator the same law is a few whole-tensor
operations and only the selected part crosses to the host. Nothing here draws a random number: the same values give
the same selection, bit for bit.

Cost on one core, 25.6 M elements, as multiples of one ``torch.sub(x, a, out=o)``: ``benchmarks/bench_exchange.py``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 1 << 17
"""Elements of the difference computed at a time: 512 KiB, half of a common L2 cache."""
SAMPLED = 1 << 16
"""Positions from which the threshold for single elements is estimated, at most; one in STRIDE of fewer."""
STRIDE = 16
"""One block score in so many is sampled, and one single element at most."""
MARGIN = 4.0
"""Standard deviations of the estimate by which the threshold is lowered, so that one pass almost always suffices."""

Indices = NDArray[np.int64]
Rows = NDArray[np.float32]


def _difference(x: Tensor, a: Tensor | None, start: int, stop: int, out: Rows) -> Rows:
    """Return ``x - a`` of one chunk in ``out`` (or ``x`` itself where there is no anchor)."""
    own: Rows = x.numpy()[start:stop]
    if a is None:
        return own
    diff = out[: stop - start]
    np.subtract(own, a.numpy()[start:stop], out=diff)
    return diff


def block_scores(x: Tensor, a: Tensor | None, block: int, out: Tensor, scratch: Rows | None = None) -> int:
    """Write ``|| x_b - a_b ||^2`` of every block to ``out``; excluded blocks get -1.

    Args:
        x: float32[nB * block], the replica, zero padded.
        a: float32[nB * block], the anchor; None stands for zeros.
        block: elements a block.
        out: float32[nB].
        scratch: float32[>= CHUNK], reused between calls.

    Returns:
        How many blocks hold a value that is not finite: those are never selected.
    """
    if x.device.type != "cpu":
        diff = x if a is None else x - a
        torch.linalg.vector_norm(diff.view(-1, block), dim=1, out=out)
        out.square_()
        return _exclude_on_device(out)
    step = max(CHUNK // block, 1) * block
    room = scratch if scratch is not None else np.empty(step, np.float32)
    scores: Rows = out.numpy()
    # A difference that overflows is excluded below like any other value that is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, x.numel(), step):
            stop = min(start + step, x.numel())
            rows = _difference(x, a, start, stop, room).reshape(-1, block)
            np.einsum("ij,ij->i", rows, rows, out=scores[start // block : stop // block])
        if np.isfinite(scores.sum()):
            return 0
    bad = ~np.isfinite(scores)
    scores[bad] = -1
    return int(np.count_nonzero(bad))


def _exclude_on_device(scores: Tensor) -> int:
    bad = ~torch.isfinite(scores)
    scores.masked_fill_(bad, -1)
    return int(bad.sum())


def top_blocks(scores: Tensor, count: int) -> Indices:
    """Return the ``count`` block numbers of largest score over 0, rising; fewer where fewer are over 0.

    Args:
        scores: float32[nB], without NaN.
        count: from 0.
    """
    count = min(count, scores.numel())
    if count <= 0:
        return np.empty(0, np.int64)
    if scores.device.type != "cpu":
        best = torch.topk(scores, count, sorted=False)
        chosen = best.indices[best.values > 0]
        return torch.sort(chosen).values.cpu().numpy()
    values: Rows = scores.numpy()
    # The threshold of every 16th score leaves few candidates, unless they are unlike the others.
    part = values[::STRIDE]
    rank = int(count / STRIDE + MARGIN * ((count / STRIDE) ** 0.5 + 1))
    if len(values) > SAMPLED and rank < len(part):
        candidates = np.flatnonzero(values >= np.partition(part, len(part) - rank)[len(part) - rank])
        if len(candidates) >= count:
            return candidates[_largest(values[candidates], count)]
    return _largest(values, count)


def _largest(values: Rows, count: int) -> Indices:
    """Return where the ``count`` largest of ``values`` over 0 are, rising; of equal ones the first."""
    if count >= len(values):
        return np.flatnonzero(values > 0)
    least = np.partition(values, len(values) - count)[len(values) - count]
    if not least > 0:
        return np.flatnonzero(values > 0)
    chosen = np.flatnonzero(values >= least)
    surplus = len(chosen) - count
    if surplus:  # several equal the least one: the last of them go
        equal = np.flatnonzero(values[chosen] == least)
        chosen = np.delete(chosen, equal[len(equal) - surplus :])
    return chosen


def sampled_positions(size: int, seed: int) -> Indices:
    """Return the positions a threshold is estimated from, rising: all of a small vector, else some of ``size``.

    Sampled positions lie far apart, so each costs more than an element of the pass over all. With one in STRIDE of 301 066
    instead of 65 536 an exchange takes 2.6 instead of 3.3 ms; the selection is the same.
    """
    if size <= 2 * SAMPLED:
        return np.arange(size)
    drawn = np.random.default_rng([seed, size]).integers(0, size, min(SAMPLED, size // STRIDE))
    drawn.sort()
    return drawn


class ElementChooser:
    """Selects single elements (block 1) by a threshold estimated from sampled positions: no sort, one pass."""

    def __init__(self, size: int, seed: int, device: torch.device) -> None:
        self._size = size
        self._positions = sampled_positions(size, seed)
        self._everywhere = len(self._positions) == size
        self._on_device = torch.from_numpy(self._positions).to(device) if device.type != "cpu" else None
        self._diff = np.empty(min(CHUNK, size), np.float32)
        self._mask = np.empty(min(CHUNK, size), np.bool_)
        self.poisoned = 0
        """Sampled positions whose difference was not finite in the last call."""
        self.norm = 0.0
        """``|| x - a ||`` as estimated from the sample in the last call."""

    def top(self, x: Tensor, a: Tensor | None, count: int) -> Indices:
        """Return the positions of the ``count`` largest ``|x - a|`` over 0, rising.

        Exact unless the sample underestimates three times in a row, when fewer are returned; values that are not
        finite are never selected.

        Args:
            x: float32[P].
            a: float32[P], or None for zeros.
            count: from 1.
        """
        count = min(count, self._size)
        if count <= 0:
            return np.empty(0, np.int64)
        sample = self._sample(x, a)
        positions = np.empty(0, np.int64)
        for widen in (1.0, 2.0, 8.0):
            threshold = self._threshold(sample, count, widen)
            positions, values = self._above(x, a, threshold)
            if len(positions) >= count or threshold == 0:
                return positions[_largest(values, count)]
        return positions

    def _sample(self, x: Tensor, a: Tensor | None) -> Rows:
        if self._on_device is not None:
            taken = x[self._on_device] if a is None else x[self._on_device] - a[self._on_device]
            sample: Rows = taken.abs().cpu().numpy()
        elif self._everywhere:
            own: Rows = x.numpy()
            with np.errstate(invalid="ignore", over="ignore"):
                sample = np.abs(own if a is None else own - a.numpy())
        else:
            own = x.numpy()[self._positions]
            with np.errstate(invalid="ignore", over="ignore"):
                sample = np.abs(own if a is None else own - a.numpy()[self._positions])
        finite = np.isfinite(sample)
        self.poisoned = int(len(sample) - np.count_nonzero(finite))
        sample = sample[finite] if self.poisoned else sample
        with np.errstate(over="ignore"):  # a run that diverges says so by what it loses, not by a warning of ours
            self.norm = float(np.sqrt(np.dot(sample, sample) * (self._size / max(len(sample), 1))))
        return sample

    def _threshold(self, sample: Rows, count: int, widen: float) -> float:
        """Return a value that at least ``count`` elements very likely reach; 0 where nearly nothing changed."""
        if len(sample) == 0:
            return 0.0
        expected = count * len(sample) / self._size
        rank = count if self._everywhere else int((expected + MARGIN * (expected**0.5 + 1)) * widen)
        if rank >= len(sample):
            return 0.0
        return float(np.partition(sample, len(sample) - rank)[len(sample) - rank])

    def _above(self, x: Tensor, a: Tensor | None, threshold: float) -> tuple[Indices, Rows]:
        """Return positions and sizes of all finite ``|x - a| >= threshold``, over 0 where the threshold is 0."""
        if self._on_device is not None:
            return _above_on_device(x, a, threshold)
        # >= keeps elements equal to the threshold; > 0 keeps unchanged ones out.
        least = np.float32(threshold) if threshold > 0 else np.nextafter(np.float32(0), np.float32(1))
        found: list[Indices] = []
        sizes: list[Rows] = []
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, self._size, CHUNK):
                stop = min(start + CHUNK, self._size)
                diff = np.abs(_difference(x, a, start, stop, self._diff), out=self._diff[: stop - start])
                hits = np.flatnonzero(np.greater_equal(diff, least, out=self._mask[: stop - start]))
                sizes.append(diff[hits])
                hits += start
                found.append(hits)
        positions, values = np.concatenate(found), np.concatenate(sizes)
        finite = np.isfinite(values)
        if not finite.all():  # infinite ones pass the comparison, NaN never does
            positions, values = positions[finite], values[finite]
        return positions, values


def _above_on_device(x: Tensor, a: Tensor | None, threshold: float) -> tuple[Indices, Rows]:
    diff = (x if a is None else x - a).abs()
    passed = (diff >= threshold) & torch.isfinite(diff) if threshold > 0 else (diff > 0) & torch.isfinite(diff)
    where = passed.nonzero().view(-1)
    return where.cpu().numpy(), diff[where].cpu().numpy()


def as_rows(x: Tensor, block: int) -> NDArray[np.void]:
    """Return the flat CPU vector ``x`` as one opaque item a block, void[nB]: moved whole, at twice the speed."""
    items: NDArray[np.void] = x.numpy().view(np.dtype((np.void, 4 * block)))
    return items


def gather(x: Tensor, block: int, indices: Indices) -> Rows:
    """Return the blocks ``indices`` of ``x`` as a fresh float32[n, block] on the host."""
    if x.device.type != "cpu":
        where = torch.from_numpy(indices).to(x.device, non_blocking=True)
        return x.view(-1, block).index_select(0, where).cpu().numpy()
    taken = as_rows(x, block)[indices]
    return taken.view(np.float32).reshape(-1, block)


def gather_finite(x: Tensor, block: int, indices: Indices) -> tuple[Indices, Rows]:
    """Return those of the blocks ``indices`` of ``x`` that hold numbers, and their values: a diverged replica must not spread."""
    rows = gather(x, block, indices)
    finite = np.isfinite(rows).all(axis=1)
    return (indices, rows) if finite.all() else (indices[finite], rows[finite])


def scatter(x: Tensor, block: int, indices: Indices, values: Rows | float) -> None:
    """Set the blocks ``indices`` of ``x`` to ``values`` (float32[n, block], or one number)."""
    if x.device.type != "cpu":
        where = torch.from_numpy(indices).to(x.device, non_blocking=True)
        if isinstance(values, float):
            x.view(-1, block).index_fill_(0, where, values)
        else:
            x.view(-1, block).index_copy_(0, where, torch.from_numpy(values).to(x.device, non_blocking=True))
        return
    rows = as_rows(x, block)
    if isinstance(values, float):
        rows.view(np.float32).reshape(-1, block)[indices] = values
    else:
        rows[indices] = np.ascontiguousarray(values).view(rows.dtype).reshape(-1)
