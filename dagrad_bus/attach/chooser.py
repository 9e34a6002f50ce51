"""Which blocks changed most: one object over both granularities, with its scratch memory."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dagrad_bus.attach.kernels import CHUNK, ElementChooser, block_scores, top_blocks

Indices = NDArray[np.int64]


class Chooser:
    """Chooses the blocks of largest change; block 1 means single elements.

    Args:
        blocks: ``nB``.
        block: elements a block.
        seed: of the sampled positions (block 1 only).
        device: where the replica lives.
    """

    def __init__(self, blocks: int, block: int, seed: int, device: torch.device) -> None:
        self._block = block
        self._elements = ElementChooser(blocks, seed, device) if block == 1 else None
        self._scores = torch.empty(blocks if block > 1 else 0, dtype=torch.float32, device=device)
        self._scratch = np.empty(CHUNK if block > 1 else 0, np.float32)
        self.poisoned = 0
        """Blocks with values that are not finite in the last call (of the sampled ones, for single elements)."""
        self.norm = math.nan
        """``|| x - a ||`` in the last call, the part chosen included (estimated for single elements)."""

    def top(self, x: Tensor, a: Tensor | None, count: int) -> Indices:
        """Return at most ``count`` blocks of largest change over 0, rising."""
        if self._elements is not None:
            chosen = self._elements.top(x, a, count)
            self.poisoned, self.norm = self._elements.poisoned, self._elements.norm
            return chosen
        self.poisoned = block_scores(x, a, self._block, self._scores, self._scratch)
        total = float(self._scores.sum()) + self.poisoned  # excluded ones stand as -1
        self.norm = math.sqrt(max(total, 0.0))
        return top_blocks(self._scores, count)
