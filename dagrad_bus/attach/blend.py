"""Mixing of waiting frames into the flat replica: the law of :func:`dagrad_bus.mixing.mix_versions`, at speed.

Every difference is taken against the replica as it was, and the replica moves once. Instead of sorting the union of
the frames' blocks, the weights of all versions of a block are added up in a dense scratch vector that is zero between
calls: each frame then moves its blocks by ``q d / (1 + sum of weights)``, and the moves add up to the law whatever
the order of the frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dagrad_bus.attach.kernels import Rows, as_rows
from dagrad_bus.mixing import Version, clip_share

SPAN = 1 << 19
"""Single elements whose weights are summed at a time: 2 MiB of weights, 2 MiB of the replica."""


@dataclass(frozen=True, slots=True)
class Blended:
    """What a mixing did, in frames."""

    mixed: int
    clipped: int
    refused: int
    """Frames with a value, or meeting an own value, that is not finite: left out."""


class Blender:
    """Mixes frames into one replica; owns the scratch vector of weights.

    Args:
        blocks: ``nB``.
        block: elements a block.
        clip: bound of a frame's difference in units of the own norm, see ``mixing.clip_share``.
        device: where the replica lives.
    """

    def __init__(self, blocks: int, block: int, clip: float, device: torch.device) -> None:
        self._block = block
        self._clip = clip
        # Single elements of a large model lie far apart: a span at a time stays in the cache for all frames.
        self._span = min(blocks, SPAN) if block == 1 and device.type == "cpu" else blocks
        self._weights = torch.zeros(self._span, dtype=torch.float32, device=device)
        self._moved: NDArray[np.void] = np.empty(0, np.dtype((np.void, 4 * block)))

    def blend(self, x: Tensor, versions: Sequence[Version]) -> Blended:
        """Move ``x`` once toward all ``versions``.

        Args:
            x: float32[nB * block], written in place.
            versions: ``indices`` distinct and in ``[0, nB)``, ``values`` float32[n, block], ``weight`` from 0.
        """
        if x.device.type != "cpu":
            return self._blend_on_device(x, versions)
        rows = as_rows(x, self._block)
        kept: list[tuple[Version, Rows]] = []
        clipped = 0
        for version in versions:
            delta, share = self._difference(rows, version)
            if share:
                clipped += share < 1
                kept.append((version, delta))
        if len(kept) == 1:
            version, delta = kept[0]
            delta *= np.float32(version.weight / (1 + version.weight))
            self._add(rows, version.indices, delta)
        elif kept:
            for start in range(0, len(rows), self._span):
                self._move(rows, start, kept)
        return Blended(len(kept), clipped, len(versions) - len(kept))

    def _difference(self, rows: NDArray[np.void], version: Version) -> tuple[Rows, float]:
        """Return ``c (v - x)`` and ``c``; 0 where it is not finite."""
        own = rows[version.indices].view(np.float32).reshape(-1, self._block)
        with np.errstate(over="ignore", invalid="ignore"):
            own_norm = _norm(own)
            delta: Rows = np.subtract(version.values, own, out=own)
            norm = _norm(delta)
        if not math.isfinite(norm):
            return delta, 0.0
        share = clip_share(norm, own_norm, delta.size, self._clip)
        if share < 1:
            delta *= np.float32(share)
        return delta, share

    def _move(self, rows: NDArray[np.void], start: int, kept: Sequence[tuple[Version, Rows]]) -> None:
        """Move the blocks from ``start`` on, one span of them."""
        weights: Rows = self._weights.numpy()
        parts: list[tuple[NDArray[np.int64], Rows, float]] = []
        for version, delta in kept:
            low, high = np.searchsorted(version.indices, (start, start + self._span))
            if low < high:
                parts.append((version.indices[low:high] - start, delta[low:high], version.weight))
        span = rows[start : start + self._span]
        for indices, _, weight in parts:
            weights[indices] += np.float32(weight)
        for indices, delta, weight in parts:
            delta *= (np.float32(weight) / (1 + weights[indices]))[:, None]
            self._add(span, indices, delta)
        for indices, _, _ in parts:
            weights[indices] = 0

    def _add(self, rows: NDArray[np.void], indices: NDArray[np.int64], delta: Rows) -> None:
        """Add ``delta`` to distinct blocks."""
        if len(self._moved) < len(indices):
            self._moved = np.empty(len(indices), rows.dtype)  # kept: fresh memory costs as much as the sum
        moved = np.take(rows, indices, out=self._moved[: len(indices)], mode="clip")
        sums = moved.view(np.float32).reshape(delta.shape)
        sums += delta
        rows[indices] = moved

    def _blend_on_device(self, x: Tensor, versions: Sequence[Version]) -> Blended:
        rows = x.view(-1, self._block)
        parts: list[tuple[Tensor, Tensor]] = []
        norms: list[Tensor] = []
        for version in versions:
            where = torch.from_numpy(version.indices).to(x.device, non_blocking=True)
            own = rows.index_select(0, where)
            delta = torch.from_numpy(version.values).to(x.device, non_blocking=True) - own
            parts.append((where, delta))
            norms += [torch.linalg.vector_norm(delta), torch.linalg.vector_norm(own)]
        measured = cast("list[float]", torch.stack(norms).tolist())  # the only wait for the device
        shares = [
            clip_share(norm, own, delta.numel(), self._clip) if math.isfinite(norm) else 0.0
            for norm, own, (_, delta) in zip(measured[::2], measured[1::2], parts, strict=True)
        ]
        kept = [(v, s, p) for v, s, p in zip(versions, shares, parts, strict=True) if s]
        for version, _, (where, _) in kept:
            self._weights.index_add_(0, where, torch.full_like(where, version.weight, dtype=torch.float32))
        for version, share, (where, delta) in kept:
            scale = version.weight * share / (1 + self._weights.index_select(0, where))
            rows.index_add_(0, where, delta * scale[:, None])
        for _, _, (where, _) in kept:
            self._weights.index_fill_(0, where, 0.0)
        return Blended(len(kept), sum(0 < share < 1 for share in shares), len(versions) - len(kept))


def _norm(values: Rows) -> float:
    flat = values.reshape(-1)
    return math.sqrt(float(np.dot(flat, flat)))
