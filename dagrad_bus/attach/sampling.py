"""The consensus sample: the same few coordinates of every replica, at steps common to all.

From them the spread of the replicas at equal steps is computed without anybody sending a model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.attach.kernels import gather
from dagrad_bus.attach.replica import Replica
from dagrad_bus.blocks import Layout

COORDINATES = 1024
"""Coordinates in a sample, at most."""
PER_OCTAVE = 64
"""Samples taken while the step count doubles; fewer at the start, where the stride has a floor."""
LEAST_STRIDE = 5


def stride(step: int) -> int:
    """Return the distance of sampled steps around ``step`` (from 1): a pure function, so all workers agree."""
    return max(LEAST_STRIDE, (1 << (step.bit_length() - 1)) // PER_OCTAVE)


class Sampler:
    """Reads the sample of one replica.

    Args:
        layout: its digest fixes the coordinates, so that equal layouts sample the same ones.
    """

    def __init__(self, layout: Layout) -> None:
        rng = np.random.default_rng(int.from_bytes(layout.digest, "little"))
        count = min(layout.size, COORDINATES)
        self.positions: NDArray[np.int64] = np.sort(rng.choice(layout.size, count, replace=False).astype(np.int64))

    def at(self, step: int, replica: Replica) -> NDArray[np.float32] | None:
        """Return float32[m] on a sampled step, else None."""
        if step % stride(step):
            return None
        return gather(replica.flat, 1, self.positions).reshape(-1)
