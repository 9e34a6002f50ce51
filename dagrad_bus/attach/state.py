"""The state rule: frames carry absolute values of the blocks that changed most since they were last shared.

The anchor ``a`` holds the values as last shared; the residual is never stored, it *is* ``x - a``. Planning a frame
sets ``a = x`` on its blocks. Mixing moves ``x`` and not ``a``, so what one neighbour taught becomes residual and is
passed on when it is large enough: relay without a routing protocol. A lost, late or repeated frame cannot do harm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from dagrad_bus.affinity import compare
from dagrad_bus.attach.blend import Blender
from dagrad_bus.attach.change import OwnChange
from dagrad_bus.attach.chooser import Chooser
from dagrad_bus.attach.exchange import Exchange, Rows, Wire
from dagrad_bus.attach.kernels import gather, gather_finite, scatter
from dagrad_bus.attach.plan import Indices, Plan, Turn
from dagrad_bus.attach.replica import Replica
from dagrad_bus.blocks import gather_blocks
from dagrad_bus.codec import Value, from_wire
from dagrad_bus.mixing import Version, raise_integers
from dagrad_bus.wire import Kind

COMPARED = 4096
"""Elements of a frame that are compared with our own, about."""


class StateRule:
    """Mixes arrivals and publishes the largest changes.

    Args:
        replica: read and moved.
        exchange: plans and ships.
    """

    needs_gradient = False

    def __init__(self, replica: Replica, exchange: Exchange) -> None:
        layout, settings = replica.layout, exchange.settings
        self._replica = replica
        self._exchange = exchange
        self._block = layout.block
        self._anchor = replica.flat.clone()
        self._parameters = layout.parameter_blocks
        self._chooser = Chooser(self._parameters, layout.block, settings.seed, replica.device)
        self._blender = Blender(layout.blocks, layout.block, settings.clip, replica.device)
        self._change = OwnChange(layout, replica.flat) if exchange.scores_peers else None

    def before_step(self, scale: float) -> None:
        """Do nothing: this rule never looks at a gradient."""

    def after_step(self, step: int) -> None:
        """Mix what arrived, then publish what changed most."""
        self._replica.refresh()
        self._mix(step)
        if step % self._exchange.settings.interval:
            return
        plan = self._exchange.plan(repeats=True, integers=True)
        if plan is None:
            return
        if plan.turn is Turn.INTEGERS:
            self._publish_integers(plan, step)
        elif plan.turn is Turn.BUFFERS:
            indices, _ = gather_finite(self._replica.flat, self._block, plan.buffers)
            self._send(plan, indices, step, exactly=True)
        else:
            self._publish(plan, step)

    def absorb(self, step: int) -> None:
        """Mix what arrived."""
        self._replica.refresh()
        self._mix(step)

    def moved(self, indices: Indices, *, copied: bool) -> None:
        """Set the anchor with copied blocks; a mixed difference stays in ``x - a`` and is passed on."""
        x = self._replica.flat
        if copied:
            scatter(self._anchor, self._block, indices, gather(x, self._block, indices))
        if self._change is not None:
            self._change.restart(x) if copied else self._change.after_mixing(x)

    def tensors(self) -> dict[str, Tensor]:
        """Return the anchor."""
        return {"anchor": self._anchor}

    def restart(self) -> None:
        """Set the anchor to the present values."""
        self._replica.refresh()
        self._anchor.copy_(self._replica.flat)
        if self._change is not None:
            self._change.restart(self._replica.flat)

    def _mix(self, step: int) -> None:
        versions = self._exchange.receive()
        if self._change is not None:
            self._change.before_mixing(self._replica.flat)
            self._compare(versions)
            self._exchange.share_sketch(step, self._change.sketch)
        if versions:
            done = self._blender.blend(self._replica.flat, versions)
            self._replica.written([version.indices for version in versions])
            metrics = self._exchange.metrics
            metrics.count("frames_mixed", done.mixed)
            metrics.count("frames_clipped", done.clipped)
            metrics.count("frames_dropped.poisoned", done.refused)
        if self._change is not None:
            self._change.after_mixing(self._replica.flat)
        selections = self._exchange.take_integers()
        if selections:
            own = self._replica.integers()
            for selection in selections:
                values = np.asarray(selection.values, np.int64)
                raise_integers(own, selection.indices, values, first=self._replica.layout.blocks)
            self._replica.set_integers(own)
            self._exchange.metrics.count("frames_mixed", len(selections))

    def _compare(self, versions: Sequence[Version]) -> None:
        """Say how alike the senders of ``versions`` and we moved, by a part of each frame that costs little."""
        for version in versions:
            if version.indices[0] >= self._parameters:  # statistics do not say where a worker is going
                continue
            stride = max(1, len(version.indices) * self._block // COMPARED)
            some = version.indices[::stride]
            own, anchor = (gather(vector, self._block, some) for vector in (self._replica.flat, self._anchor))
            self._exchange.affinity.framed(version.sender, *compare(version.values[::stride], own, anchor))

    def _publish(self, plan: Plan, step: int) -> None:
        x, anchor, block = self._replica.flat, self._anchor, self._block
        forced, values = gather_finite(x, block, plan.forced())
        # Forced blocks are as good as shared: their difference is zero, so the choice below passes them over.
        scatter(anchor, block, forced, values)
        end = self._parameters * block
        top = self._chooser.top(x[:end], anchor[:end], plan.budget - len(forced))
        indices = np.concatenate([forced, top])
        indices.sort(kind="stable")  # two rising runs: merged in one pass
        self._exchange.metrics.gauge("residual_norm", self._chooser.norm)
        self._exchange.metrics.count("blocks_poisoned", self._chooser.poisoned)
        self._send(plan, indices, step)

    def _send(self, plan: Plan, indices: Indices, step: int, *, exactly: bool = False) -> None:
        if not len(indices):
            return
        values = gather(self._replica.flat, self._block, indices)
        wire = self._exchange.to_wire(values, exactly=exactly)
        scatter(self._anchor, self._block, indices, as_shared(values, wire))
        self._exchange.ship(plan, indices, wire, Kind.STATE, step)

    def _publish_integers(self, plan: Plan, step: int) -> None:
        layout = self._replica.layout
        rows = np.arange(layout.integer_blocks, dtype=np.int64)
        values = gather_blocks(self._replica.integers(), rows, layout.block)
        self._exchange.ship(plan, rows + layout.blocks, (Value.I64, values, None), Kind.STATE, step)


def as_shared(values: Rows, wire: Wire) -> Rows:
    """Return what counts as shared of values that went out as ``wire``: themselves, or with int8 what receivers decode."""
    value, coded, scales = wire
    if value is not Value.INT8:
        return values
    return np.asarray(from_wire(coded, scales, value), np.float32)
