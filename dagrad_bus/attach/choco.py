"""The rule ``choco``: gossip of compressed differences with a memory on both sides (CHOCO-SGD).

Every worker i keeps a public copy ``h_i`` of itself, and for each neighbour j the copy ``h_j`` that j keeps of itself:
degree + 1 vectors float32[P] beside the model. At a step boundary, after the local step, in this order:

    1.  h_j = v         on the blocks of each frame of j that arrived
    2.  S = the ``density`` share of blocks where |x_i - h_i| is largest;  h_i = x_i on S, sent to all neighbours
    3.  x_i = x_i + gamma * sum_j w (h_j - h_i),   w = 1 / (n + 1) for the n links that are up

A frame carries the new absolute values on S instead of their change. In exact arithmetic that is ``h += Q(x - h)``; on a
network it is idempotent, and a frame that was lost is repeated by the book: dirty blocks and the refresh stripe are part
of S. ``h_i`` takes what the receivers decode, so both copies are equal, and the rounding stays in x - h.

All replicas must start equal (one seed), as then all copies do; CHOCO-SGD begins with zeros everywhere for the same end.
A copy is *unknown* (not a number) on blocks of which nothing can be known: of a peer that was started anew or whose
first link came late, and of everybody after this worker has copied its state. There it does not pull.

Source: Koloskova, Stich, Jaggi, Decentralized Stochastic Optimization and Gossip Algorithms with Compressed Communication
(1902.00340), algorithm 2.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dagrad_bus.attach.chooser import Chooser
from dagrad_bus.attach.exchange import Exchange, Rows
from dagrad_bus.attach.kernels import gather, gather_finite, scatter
from dagrad_bus.attach.plan import Indices, Plan, Turn
from dagrad_bus.attach.replica import Replica
from dagrad_bus.codec import from_wire
from dagrad_bus.ids import NodeId
from dagrad_bus.wire import Kind

ANEW = {"dead", "left", "rejoined"}
"""What happens to members whose public copy begins anew."""
EARLY = 64
"""Local steps within which a link that comes up is one of those the run began with."""
SPARE = 4
"""Copies kept of peers without a link, beyond as many as there are links."""
PREFIX = "copy."
"""Of the copies' names in a checkpoint; the peer's id in hexadecimal follows."""


STEP = 0.65
"""gamma at full density; docs/algorithm.md has what was measured beside it."""


def consensus_step(density: float) -> float:
    """Return gamma, the share of the way to the neighbours' copies that a worker goes at each step."""
    return STEP * math.sqrt(density)


class ChocoRule:
    """Sends the largest part of what is not public yet, and moves toward the neighbours' public copies.

    gamma is 0.65 times the square root of ``density``: see docs/algorithm.md for what it costs to be off.
    Frames go to all neighbours (``fanout`` plays no part, nor do ages). Integer buffers stay each worker's own.

    Args:
        replica: read and moved.
        exchange: plans and ships.
        gamma: the consensus step; None takes it from the density.
    """

    needs_gradient = False

    def __init__(self, replica: Replica, exchange: Exchange, gamma: float | None = None) -> None:
        layout = replica.layout
        exchange.settings = settings = replace(exchange.settings, fanout=0)
        self._replica = replica
        self._exchange = exchange
        self._block = layout.block
        self._gamma = consensus_step(settings.density) if gamma is None else gamma
        self._own = replica.flat.clone()
        self._first: Tensor | None = replica.flat.clone()
        """The values that all replicas began with, as long as copies may begin with them."""
        self._copies: dict[NodeId, Tensor] = {}
        self._unknown: set[NodeId] = set()
        """Peers whose copy may have unknown blocks."""
        self._parameters = layout.parameter_blocks
        self._chooser = Chooser(self._parameters, layout.block, settings.seed, replica.device)
        self._everything = np.arange(layout.blocks, dtype=np.int64)

    def before_step(self, scale: float) -> None:
        """Do nothing: this rule never looks at a gradient."""

    def after_step(self, step: int) -> None:
        """Hear, publish, and move toward the neighbours."""
        self.absorb(step)
        if step % self._exchange.settings.interval:
            return
        plan = self._exchange.plan(repeats=True)
        if plan is not None and plan.turn is Turn.BUFFERS:
            indices, _ = gather_finite(self._replica.flat, self._block, plan.buffers)
            self._send(plan, indices, step, exactly=True)
        elif plan is not None:
            self._publish(plan, step)
        self._pull()

    def absorb(self, step: int) -> None:
        """Take over what neighbours made public."""
        self._replica.refresh()
        versions = self._exchange.receive()
        self._exchange.take_integers()
        for event in self._exchange.events:
            if event.kind in ANEW and event.peer in self._copies:
                self._void(event.peer)
        self._link(step)
        for version in versions:
            if version.sender in self._copies:
                scatter(self._copies[version.sender], self._block, version.indices, version.values)
                self._exchange.metrics.count("frames_mixed")
            else:
                self._exchange.metrics.count("frames_dropped.stranger")

    def moved(self, indices: Indices, *, copied: bool) -> None:
        """Make copied blocks public as they are; what others have made public there is not known any more."""
        if not copied:
            return
        scatter(self._own, self._block, indices, gather(self._replica.flat, self._block, indices))
        for peer, copy in self._copies.items():
            scatter(copy, self._block, indices, float("nan"))
            self._unknown.add(peer)
        self._first = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the public copy of the own replica and those of the neighbours."""
        return {"anchor": self._own, **{PREFIX + peer.hex(): copy for peer, copy in self._copies.items()}}

    def restart(self) -> None:
        """Be public as it is; nobody else's copy is known."""
        self._replica.refresh()
        self._own.copy_(self._replica.flat)
        self._first = None
        for peer in self._copies:
            self._void(peer)

    def expect(self, names: list[str]) -> None:
        """Have a copy for each neighbour among the ``names`` of a checkpoint's tensors."""
        for name in names:
            if name.startswith(PREFIX):
                peer = NodeId(bytes.fromhex(name.removeprefix(PREFIX)))
                self._copies.setdefault(peer, torch.empty_like(self._own))
                self._void(peer)

    # Copies ------------------------------------------------------------------------------------------------------

    def _void(self, peer: NodeId) -> None:
        self._copies[peer].fill_(float("nan"))
        self._unknown.add(peer)

    def _link(self, step: int) -> None:
        """Have a copy for each link; drop those of peers long without one."""
        if step > EARLY:
            self._first = None
        linked = [link.peer for link in self._exchange.links]
        for peer in linked:
            if peer in self._copies:
                continue
            self._copies[peer] = torch.empty_like(self._own)
            if self._first is not None:
                self._copies[peer].copy_(self._first)
            else:
                self._void(peer)
        surplus = len(self._copies) - 2 * len(linked) - SPARE
        for peer in [peer for peer in self._copies if peer not in linked][: max(0, surplus)]:
            del self._copies[peer]
            self._unknown.discard(peer)

    # A step ------------------------------------------------------------------------------------------------------

    def _publish(self, plan: Plan, step: int) -> None:
        x, own, block = self._replica.flat, self._own, self._block
        sent = self._as_sent(x)
        forced, values = gather_finite(sent, block, plan.forced())
        scatter(own, block, forced, values)  # as good as public: the choice passes them over
        end = self._parameters * block
        top = self._chooser.top(sent[:end], own[:end], plan.budget - len(forced))
        indices = np.concatenate([forced, top])
        indices.sort(kind="stable")  # two rising runs: merged in one pass
        self._exchange.metrics.gauge("residual_norm", self._chooser.norm)
        self._exchange.metrics.count("blocks_poisoned", self._chooser.poisoned)
        self._send(plan, indices, step)

    def _send(self, plan: Plan, indices: Indices, step: int, *, exactly: bool = False) -> None:
        """Make blocks public as the receivers decode them."""
        if len(indices):
            wire = self._exchange.to_wire(gather(self._replica.flat, self._block, indices), exactly=exactly)
            value, coded, scales = wire
            scatter(self._own, self._block, indices, np.asarray(from_wire(coded, scales, value), np.float32))
            self._exchange.ship(plan, indices, wire, Kind.STATE, step)

    def _as_sent(self, x: Tensor) -> Tensor:
        """Return ``x`` as receivers would decode it: what rounding leaves is no reason to send a block again."""
        wire = self._exchange.settings.wire
        if wire == "f32":
            return x
        if wire == "int8":
            rows: Rows = x.view(-1, self._block).cpu().numpy()
            bad = ~np.isfinite(rows.sum(axis=1, keepdims=True))
            value, coded, scales = self._exchange.to_wire(np.where(bad, np.float32(0), rows))
            decoded = np.asarray(from_wire(coded, scales, value), np.float32)
            return torch.from_numpy(np.where(bad, np.float32(np.nan), decoded)).to(x.device).view(-1)
        half = wire == "f16" and float(x.abs().max()) < torch.finfo(torch.float16).max
        return x.to(torch.float16 if half else torch.bfloat16).to(torch.float32)

    def _pull(self) -> None:
        linked = [link.peer for link in self._exchange.links]
        if not linked:
            return
        total, difference = torch.zeros_like(self._own), torch.empty_like(self._own)
        for peer in linked:
            torch.sub(self._copies[peer], self._own, out=difference)
            if peer in self._unknown:
                torch.nan_to_num_(difference, nan=0.0, posinf=0.0, neginf=0.0)
            total += difference
        self._replica.flat.add_(total, alpha=self._gamma / (len(linked) + 1))
        self._replica.written([self._everything])
