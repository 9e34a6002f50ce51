"""The gradient rule, the paper's text, kept as a baseline.

Error feedback: ``r`` collects the local gradient. At every step the largest part of ``r`` is applied as this step's
gradient *and* sent; that part of ``r`` becomes zero. What peers sent, each frame scaled by its age discount, is applied
with it, whole and once: ``applied + r == sum of local gradients + sum of received mass``, exactly up to rounding.

Received mass is not sent on. Taken to the letter ("adds it to its own buffer") it would be, and with D peers every
transmission would turn one unit of mass into D + 1: measured, that diverges at every learning rate tried. Also without
it nothing pulls replicas together, so this rule learns little from peers; docs/algorithm.md has the measurements.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dagrad_bus.attach.chooser import Chooser
from dagrad_bus.attach.exchange import Exchange, Rows
from dagrad_bus.attach.kernels import gather, scatter
from dagrad_bus.attach.plan import Indices
from dagrad_bus.attach.replica import Replica
from dagrad_bus.mixing import Version
from dagrad_bus.wire import Kind


class GradientRule:
    """Applies received mass with the largest part of an error-feedback buffer, and sends that part.

    Args:
        replica: gives the layout and the gradients.
        exchange: plans and ships.
    """

    needs_gradient = True

    def __init__(self, replica: Replica, exchange: Exchange) -> None:
        layout = replica.layout
        self._replica = replica
        self._exchange = exchange
        self._block = layout.block
        self._residual = torch.zeros_like(replica.flat)
        self._gradient = torch.zeros_like(replica.flat)
        self._chooser = Chooser(layout.blocks, layout.block, exchange.settings.seed, replica.device)
        self._frame: tuple[Indices, Rows] | None = None

    def before_step(self, scale: float) -> None:
        """Merge: the optimizer then steps with the largest part of the buffer instead of its own gradient."""
        received = self._exchange.receive()
        self._exchange.metrics.count("frames_mixed", len(received))
        gradient, residual = self._gradient.zero_(), self._residual
        self._replica.gradients(gradient, 1 / scale)
        if not bool(torch.isfinite(gradient.sum())):
            self._exchange.metrics.count("blocks_poisoned", int((~torch.isfinite(gradient)).sum()))
            torch.nan_to_num_(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        residual += gradient
        indices = self._chooser.top(residual, None, self._exchange.budget)
        self._exchange.metrics.gauge("residual_norm", self._chooser.norm)
        values = gather(residual, self._block, indices)
        scatter(residual, self._block, indices, 0.0)
        scatter(gradient.zero_(), self._block, indices, values)
        for version in received:
            self._add(gradient, version)
        self._replica.set_gradients(gradient, scale)
        self._frame = (indices, values)

    def after_step(self, step: int) -> None:
        """Publish what this step applied; where no link is ready it reaches nobody."""
        frame, self._frame = self._frame, None
        if frame is None or not len(frame[0]) or step % self._exchange.settings.interval:
            return
        plan = self._exchange.plan(repeats=False)
        if plan is not None:
            indices, values = frame
            self._exchange.ship(plan, indices, self._exchange.to_wire(values), Kind.GRADIENT, step)

    def absorb(self, step: int) -> None:
        """Drop what arrived: it is mass for a replica that is being replaced."""
        del step
        self._exchange.metrics.count("frames_dropped.syncing", len(self._exchange.receive()))

    def moved(self, indices: Indices, *, copied: bool) -> None:
        """Forget what waits where the replica is a peer's now: the gradients were taken elsewhere."""
        del indices
        if copied:
            self.restart()

    def tensors(self) -> dict[str, Tensor]:
        """Return the error-feedback buffer."""
        return {"residual": self._residual}

    def restart(self) -> None:
        """Forget what waits."""
        self._residual.zero_()
        self._frame = None

    def _add(self, gradient: Tensor, version: Version) -> None:
        mass = gather(gradient, self._block, version.indices)
        mass += version.values * np.float32(version.weight)
        scatter(gradient, self._block, version.indices, mass)
        gradient[self._replica.layout.size :] = 0  # a peer's padding is not ours
