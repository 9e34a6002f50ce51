"""The rule ``gossip-qsgd``: gossip of whole replicas in one byte an element, rounded at random (QSGD).

After a local step a worker sends its values to ``fanout`` ready neighbours at random (0: one). A receiver moves to the
mean of its own values and those that wait, ``x = (x + v_1 + ... + v_n) / (1 + n)``: one-way averaging with weight 1/2.

What is quantized is the values themselves, the textbook's variant: a frame needs no memory on either side and is
idempotent, so that nothing has to be repeated. QSGD with 127 levels, for each block (bucket) of B elements::

    scale = max |v| / 127
    Q(v)  = scale * floor(v / scale + u),   u uniform in [0, 1)

It is unbiased, E Q(v) = v, and E |Q(v) - v|^2 <= B / 4 * scale^2. The scale comes from the largest value, as in the
experiments of the paper, not from the Euclidean norm of its theory: with so many levels none of them would be used by
most values. One float32 scale a block goes with the levels; the frame's codec is the entropy coder.

Source: Alistarh et al., QSGD (1610.02132); the frame is the wire's int8.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dagrad_bus.attach.blend import Blender
from dagrad_bus.attach.exchange import Exchange, Rows
from dagrad_bus.attach.kernels import gather_finite
from dagrad_bus.attach.plan import Indices, Turn, buffers_of, whose_turn
from dagrad_bus.attach.replica import Replica
from dagrad_bus.checksum import crc32c
from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId
from dagrad_bus.mixing import Version
from dagrad_bus.wire import Kind

LEVELS = 127
"""Levels on each side of zero: what int8 holds."""
LEAST_BLOCK = 64
"""Elements a bucket: the wire's int8 has no more than one scale for so many."""
BLOCK_BYTES = 16
"""Bytes a block beside its levels that a frame may need, at most: scale and block number."""


def quantize(values: Rows, rng: np.random.Generator) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each value to one of its two neighbouring levels, with the chance that keeps the mean.

    Args:
        values: float32[n, B], finite.
        rng: the source of chance.

    Returns:
        int8[n, B] levels in [-127, 127] and float32[n] scales; a value is its level times its block's scale.
    """
    scales = np.abs(values).max(axis=1, initial=0) / np.float32(LEVELS)
    levels = np.zeros_like(values)
    np.divide(values, scales[:, None], out=levels, where=scales[:, None] > 0)
    levels += rng.random(values.shape, np.float32)
    np.floor(levels, out=levels)
    return np.clip(levels, -LEVELS, LEVELS, out=levels).astype(np.int8), scales


class QuantizedRule:
    """Averages with whoever sent, and sends quantized values.

    ``density``, ``w0``, ``wire`` and ages play no part. Floating buffers travel exactly, in every eighth frame; integer
    buffers stay each worker's own. A model over one frame travels in parts, one a step.

    Args:
        replica: read and moved.
        exchange: posts.
        who: the worker's name: workers round and draw independently of each other.

    Raises:
        UsageError: blocks too small for a scale each.
    """

    needs_gradient = False

    def __init__(self, replica: Replica, exchange: Exchange, who: str = "") -> None:
        layout = replica.layout
        if layout.block < LEAST_BLOCK:
            raise UsageError(f"rule gossip-qsgd has one scale a block: set block to {LEAST_BLOCK} or more")
        self._replica = replica
        self._exchange = exchange
        self._rng = np.random.default_rng([exchange.settings.seed, crc32c(who.encode())])
        self._blender = Blender(layout.blocks, layout.block, math.inf, replica.device)
        self._size = max(1, exchange.max_frame // (layout.block + BLOCK_BYTES))
        self._next = 0
        """The first block of the next frame."""
        self._frames = 0
        """Sent so far, as turns are counted by them."""

    def before_step(self, scale: float) -> None:
        """Do nothing: this rule never looks at a gradient."""

    def after_step(self, step: int) -> None:
        """Average with what arrived, then send."""
        self.absorb(step)
        settings = self._exchange.settings
        ready = sorted(self._exchange.ready)
        if ready and self._exchange.settled and step % settings.interval == 0:
            chosen = self._rng.choice(len(ready), size=min(settings.fanout or 1, len(ready)), replace=False)
            self._publish(tuple(ready[int(i)] for i in np.sort(chosen)), step)

    def absorb(self, step: int) -> None:
        """Average with what arrived."""
        del step
        self._replica.refresh()
        arrivals = self._exchange.take().arrivals
        versions = [
            Version(arrival.selection.indices, np.asarray(arrival.selection.values, np.float32), 1.0, arrival.peer)
            for arrival in arrivals
        ]
        if versions:
            done = self._blender.blend(self._replica.flat, versions)
            self._replica.written([version.indices for version in versions])
            self._exchange.metrics.count("frames_mixed", done.mixed)
            self._exchange.metrics.count("frames_dropped.poisoned", done.refused)

    def moved(self, indices: Indices, *, copied: bool) -> None:
        """Do nothing: nothing is remembered."""

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: all there is stands in the model."""
        return {}

    def restart(self) -> None:
        """Do nothing: nothing is owed."""

    def _publish(self, peers: tuple[NodeId, ...], step: int) -> None:
        layout = self._replica.layout
        self._frames += 1
        if whose_turn(layout, self._frames, integers=False) is Turn.BUFFERS:
            most = max(1, self._exchange.max_frame // (4 * layout.block + BLOCK_BYTES))
            indices, values = self._finite(buffers_of(layout, self._frames, most))
            if len(indices):
                self._exchange.post(peers, indices, values, Kind.STATE, step)
            return
        start, stop = self._next, min(self._next + self._size, layout.parameter_blocks)
        self._next = stop % layout.parameter_blocks
        indices, values = self._finite(np.arange(start, stop, dtype=np.int64))
        if len(indices):
            levels, scales = quantize(values, self._rng)
            self._exchange.post(peers, indices, levels, Kind.STATE, step, scales)

    def _finite(self, indices: Indices) -> tuple[Indices, Rows]:
        """Return the blocks fit to be sent, and their values; count the others."""
        kept, values = gather_finite(self._replica.flat, self._replica.layout.block, indices)
        if len(kept) < len(indices):
            self._exchange.metrics.count("blocks_poisoned", len(indices) - len(kept))
        return kept, values
