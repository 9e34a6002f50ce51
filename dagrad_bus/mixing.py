"""Age weights and the mixing of versions: pure functions of arrays.

They compute in float64; device kernels are tested against them.

For all frames waiting at a step boundary, gather the versions ``v_k`` of each touched block and move once::

    d_k = c_k (v_k - x_b)                     # c_k <= 1 bounds the norm over the whole frame k
    q_k = w0 / (1 - w0) * discount(age_k)     # weight of a version against the own value's weight 1
    x_b = x_b + sum_k q_k d_k / (1 + sum_k q_k)

The result is an average of the own value and the versions, so it does not depend on the order of arrival, never
leaves their range, and one version of typical age with ``w0 = 1/2`` is the plain mean. Mixing frames one after the
other instead would, with large weights, copy whoever spoke last.

Age is counted in local steps of the receiver since the sender read the values; no two clocks are ever compared::

    age            = (transit + now - arrived_at) * own steps a second
    discount(age)  = 1 for age <= tau, else (tau / age) ** power
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.blocks import gather_blocks, scatter_blocks
from dagrad_bus.ids import NodeId

if TYPE_CHECKING:
    from dagrad_bus.events import Arrival

CLIP_FLOOR = 0.01
"""Root mean square that own values count for at least in the norm bound: blocks that are all zero must be able to move."""
EMA_SHARE = 1 / 16
"""Share of a new observation in the moving averages of age and step time; the first ones count more."""
UNKNOWN = NodeId(b"")
"""Sender of a version that came in no frame."""
MEDIAN_WINDOW = 15
"""Observations whose median enters the moving average: pauses and slow first steps stay without effect."""


def discount(age: float, tau: float, power: float) -> float:
    """Return the share of its weight that a version of ``age`` steps keeps: 1 up to ``tau``, then a power law.

    Args:
        age: steps, from 0; infinity is allowed.
        tau: steps, over 0.
        power: from 0; 0 switches age weights off.
    """
    if power == 0 or age <= tau:
        return 1.0
    return float((tau / age) ** power)


def version_weight(w0: float, age: float, tau: float, power: float) -> float:
    """Return ``q``, the weight of a version against the own value's weight 1; ``w0`` in (0, 1)."""
    return w0 / (1 - w0) * discount(age, tau, power)


def arrival_age(arrival: Arrival, now: float, own_rate: float) -> float:
    """Return the age of a frame in local steps, never negative.

    Args:
        arrival: the frame; its transit time and moment of arrival are used.
        now: monotonic seconds of the receiver.
        own_rate: the receiver's steps a second; 0 as long as it is unknown.
    """
    return max(0.0, arrival.transit + now - arrival.arrived_at) * own_rate


class _MedianAverage:
    """Moving average of the median of the last observations; the plain mean of those medians at first."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=MEDIAN_WINDOW)
        self._count = 0
        self.value = math.nan

    def observe(self, value: float) -> None:
        """Take one observation."""
        self._recent.append(value)
        self._count += 1
        ordered = sorted(self._recent)
        median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        share = max(EMA_SHARE, 1 / self._count)
        self.value = median if self._count == 1 else self.value + share * (median - self.value)


class AgeTracker:
    """``tau``, the age up to which a version counts fully: what is typical here, or a fixed number.

    Args:
        fixed: steps; 0 follows the median age of the last frames by a moving average, with floor 1.
    """

    def __init__(self, fixed: float = 0.0) -> None:
        self._fixed = fixed
        self._typical = _MedianAverage()

    def observe(self, ages: Iterable[float]) -> None:
        """Take the ages of frames that arrived, in steps; those that are not finite tell nothing."""
        for age in ages:
            if math.isfinite(age):
                self._typical.observe(age)

    @property
    def tau(self) -> float:
        """Steps; 1 before the first frame."""
        if self._fixed > 0:
            return self._fixed
        return max(1.0, self._typical.value) if not math.isnan(self._typical.value) else 1.0


class StepClock:
    """The own rate of steps: a moving average of median step times, from moments handed in."""

    def __init__(self) -> None:
        self._last = math.nan
        self._duration = _MedianAverage()

    def tick(self, now: float) -> None:
        """Note that a step ended at ``now``, monotonic seconds."""
        if not math.isnan(self._last):
            self._duration.observe(max(now - self._last, 1e-6))  # coarse clocks may stand still for a step
        self._last = now

    @property
    def rate(self) -> float:
        """Steps a second; 0 before the second step."""
        return 0.0 if math.isnan(self._duration.value) else 1.0 / self._duration.value


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """What one frame says: values of some blocks, and their weight.

    ``indices``: int64[n], distinct. ``values``: float32[n, B]. ``weight``: q, finite, from 0. ``sender``: whose frame.
    """

    indices: NDArray[np.int64]
    values: NDArray[np.float32]
    weight: float
    sender: NodeId = UNKNOWN


@dataclass(frozen=True, slots=True, eq=False)
class Mixed:
    """What a mixing did. ``touched``: int64, rising, the blocks moved; the rest are counts of frames."""

    touched: NDArray[np.int64]
    mixed: int
    clipped: int
    refused: int
    """Frames with a value, or meeting an own value, that is not finite: left out."""


def clip_share(delta: float, own: float, elements: int, clip: float) -> float:
    """Return ``c`` in (0, 1], by which a frame's difference is shortened.

    Args:
        delta: norm of ``v - x`` over all blocks of the frame.
        own: norm of ``x`` over the same blocks.
        elements: how many elements they have, padding included.
        clip: the bound, in units of the own norm; infinity switches it off.

    Returns:
        ``min(1, clip * max(own, CLIP_FLOOR * sqrt(elements)) / delta)``.
    """
    bound = clip * max(own, CLIP_FLOOR * math.sqrt(elements))
    return 1.0 if delta <= bound else bound / delta


def mix_versions(x: NDArray[np.float32], versions: Sequence[Version], *, block: int, clip: float) -> Mixed:
    """Move ``x`` once toward all versions (module docstring); the order of ``versions`` does not matter.

    Args:
        x: float32[P], the own parameters, written in place. Its last block may be ragged: frames are zero padded.
        versions: the frames waiting; all of them see ``x`` as it was before.
        block: elements a block.
        clip: a frame's difference is at most ``clip`` times the norm of the own values on its blocks, see
            :func:`clip_share`.
    """
    touched = np.unique(np.concatenate([np.empty(0, np.int64), *(version.indices for version in versions)]))
    own = gather_blocks(x, touched, block).astype(np.float64)
    pull = np.zeros_like(own)
    weight = np.ones(touched.size)
    moved = np.zeros(touched.size, dtype=np.bool_)
    clipped = refused = 0
    for version in versions:
        place = np.searchsorted(touched, version.indices)
        delta = version.values.astype(np.float64) - own[place]
        norm = float(np.linalg.norm(delta))
        if not math.isfinite(norm):
            refused += 1
            continue
        share = clip_share(norm, float(np.linalg.norm(own[place])), delta.size, clip)
        clipped += share < 1
        pull[place] += version.weight * share * delta
        weight[place] += version.weight
        moved[place] = True
    rows = (own + pull / weight[:, None])[moved].astype(np.float32)
    scatter_blocks(x, touched[moved], rows)
    return Mixed(touched[moved], len(versions) - refused, clipped, refused)


def raise_integers(
    own: NDArray[np.int64], indices: NDArray[np.int64], values: NDArray[np.int64], *, first: int
) -> None:
    """Mix integer buffers: every element becomes the larger of both values, in place.

    Args:
        own: int64[M], all integer buffers flat.
        indices: int64[n], block numbers on the wire, which begin at ``first``.
        values: int64[n, B].
        first: ``nB``, the number of floating blocks.
    """
    rows = gather_blocks(own, indices - first, values.shape[1])
    scatter_blocks(own, indices - first, np.maximum(rows, values))
