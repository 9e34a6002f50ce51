"""What the local optimizer alone does to the replica, followed at a few coordinates: two small reads a step.

Between the end of one mixing and the beginning of the next only the optimizer moves the values, so the difference of
two reads is the own change; see :mod:`dagrad_bus.sketch` for what becomes of it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dagrad_bus.blocks import Layout
from dagrad_bus.sketch import SPAN, Projection


class OwnChange:
    """The sum that forgets of one replica's own changes.

    Args:
        layout: equal layouts are followed at equal coordinates.
        x: float32[nB * B], the replica now.
    """

    def __init__(self, layout: Layout, x: Tensor) -> None:
        self._projection = Projection(layout.digest, layout.size - layout.buffer_size)
        self._positions = torch.from_numpy(self._projection.positions).to(x.device)
        self._last = x[self._positions]
        self._own = torch.zeros_like(self._last)

    def before_mixing(self, x: Tensor) -> None:
        """Take the local step that has just ended."""
        self._own.mul_(1 - 1 / SPAN).add_(x[self._positions] - self._last)

    def after_mixing(self, x: Tensor) -> None:
        """Note where the next local step begins."""
        self._last = x[self._positions]

    def values(self) -> NDArray[np.float32]:
        """Return the sum, float32[m], on the host."""
        return self._own.cpu().numpy()

    def sketch(self) -> bytes:
        """Return the sketch of the sum, 8 bytes; empty where nothing changed, or a value is not finite."""
        own = self.values()
        if not np.isfinite(own).all():
            self._own.zero_()  # one bad step is not to be remembered for ever
            return b""
        return self._projection.sketch(own)

    def restart(self, x: Tensor) -> None:
        """Begin anew: the replica was set to other values."""
        self._own.zero_()
        self.after_mixing(x)
