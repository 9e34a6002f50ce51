"""The rule ``gossip-dense``: whole replicas averaged in pairs, asynchronously, without a lock (AD-PSGD).

After a local step a worker that waits for nobody sends its whole replica, float32, to one ready neighbour at random.
The neighbour averages at its next step boundary and answers with half of the difference, which the asker adds:

    asker:      s = x                      sent as values
    answerer:   d = (s - v) / 2,  x += d   at its next boundary; -d is sent as an increment
    asker:      x += -d                    exactly once, at the boundary where it arrives

So the sum of all replicas is what it was, up to rounding, whatever local steps either side did in between. AD-PSGD makes
an averaging atomic by a lock and avoids deadlock by a bipartite graph. Here nobody waits: an asker has *lent half of
itself*, and as long as that half is away it answers others with the other half, ``v = 2 x - s`` (``v = x`` where nothing
is lent). Half replicas are swapped, none is ever given away twice, so that every value stays an average with weights
from 0, as under the lock. Where two workers ask each other at the same time, each takes the other's question as the
answer, or both would swap halves for ever.

Questions and answers are repeated unchanged until they are accepted, and taken once. What is lost: an exchange with a
worker that dies, or whose link stays away for more than a few seconds.

Source: Lian et al., Asynchronous Decentralized Parallel Stochastic Gradient Descent (1710.06952).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dagrad_bus.attach.dense import DenseIntake, DensePost, Rows
from dagrad_bus.attach.exchange import Exchange
from dagrad_bus.attach.plan import Indices
from dagrad_bus.attach.replica import Replica
from dagrad_bus.checksum import crc32c
from dagrad_bus.events import Arrival, View
from dagrad_bus.ids import NodeId
from dagrad_bus.wire import Kind

ANEW = {"dead", "left", "rejoined"}
"""What happens to members that owe nothing any more."""
UNLINKED = 5.0
"""Seconds without a link after which an exchange is given up."""
UNANSWERED = 60.0
"""Seconds after which a question is given up though the link is there: its receiver has forgotten it."""


@dataclass(slots=True, eq=False)
class _Way:
    """A vector on its way to one peer."""

    peer: NodeId
    post: DensePost
    linked_at: float
    """When the peer's link was last seen."""


@dataclass(slots=True, eq=False)
class _Question:
    """The half of this worker that is lent."""

    peer: NodeId
    values: Tensor
    """float32[nB * B], as sent; not written to."""
    way: _Way
    asked_at: float
    is_void: bool = False
    """Whether the replica was replaced since: the answer is for one that is gone."""


class PairRule:
    """Averages with one neighbour at a time.

    ``density``, ``fanout``, ``w0``, ``wire`` and ages play no part. Integer buffers stay each worker's own.

    Args:
        replica: read and moved.
        exchange: posts.
        who: the worker's name: workers draw their neighbours independently of each other.
    """

    needs_gradient = False

    def __init__(self, replica: Replica, exchange: Exchange, who: str = "") -> None:
        layout = replica.layout
        self._replica = replica
        self._exchange = exchange
        exchange.coalesces = False  # a question that a newer one took the place of would never be answered
        self._rng = np.random.default_rng([exchange.settings.seed, crc32c(who.encode())])
        self._everything = np.arange(layout.blocks, dtype=np.int64)
        self._intakes = {kind: DenseIntake(layout.blocks, layout.block) for kind in (Kind.STATE, Kind.GRADIENT)}
        self._taken: dict[tuple[NodeId, Kind], int] = {}
        """Number of the newest vector taken of each peer and kind."""
        self._heard: list[tuple[NodeId, Kind, Rows]] = []
        """Questions and answers that wait for a boundary, oldest first."""
        self._ways: list[_Way] = []
        self._question: _Question | None = None
        self._number = 0

    def before_step(self, scale: float) -> None:
        """Do nothing: this rule never looks at a gradient."""

    def after_step(self, step: int) -> None:
        """Add answers, answer questions, then ask a neighbour if nobody is being asked."""
        self._replica.refresh()
        self._number = max(step, self._number + 1)  # a restored worker counts anew; its vectors must not look repeated
        self._take()
        if not self._exchange.settled:
            return
        if self._heard:
            # Answers first: who has its half back averages; swapping halves in lockstep, three workers never met.
            for heard in sorted(self._heard, key=lambda heard: heard[1] is Kind.STATE):
                self._mix(*heard)
            self._heard.clear()
            self._replica.written([self._everything])
        if self._question is None and step % self._exchange.settings.interval == 0:
            self._ask()
        for way in self._ways:
            way.post.pump()

    def absorb(self, step: int) -> None:
        """Keep what arrives: it is answered when the copied state is here."""
        del step
        self._take()

    def moved(self, indices: Indices, *, copied: bool) -> None:
        """Let go of an answer to values that are replaced; a mixed difference is like a local step."""
        del indices
        if copied:
            self.restart()

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: all there is stands in the model."""
        return {}

    def restart(self) -> None:
        """Take no answer to a question of the replica that was."""
        if self._question is not None:
            self._question.is_void = True

    # What comes in -----------------------------------------------------------------------------------------------

    def _take(self) -> None:
        taken = self._exchange.take()
        self._part_with(taken)
        for way in self._ways:
            way.post.heard(taken)
        self._ways = [way for way in self._ways if not way.post.is_accepted]
        for arrival in taken.arrivals:
            self._gather(arrival)

    def _part_with(self, taken: View) -> None:
        """Give up what is on its way to peers that are gone."""
        for event in taken.events:
            if event.kind in ANEW:
                self._forget(event.peer)
        now, linked = self._exchange.now(), {link.peer for link in taken.links}
        for way in self._ways:
            if way.peer in linked:
                way.linked_at = now
        for way in [way for way in self._ways if now - way.linked_at > UNLINKED]:
            self._give_up(way)
        question = self._question
        if question is not None and now - question.asked_at > UNANSWERED:
            self._exchange.metrics.count("averagings_lost")
            self._ways = [way for way in self._ways if way is not question.way]
            self._question = None

    def _forget(self, peer: NodeId) -> None:
        for kind, intake in self._intakes.items():
            intake.forget(peer)
            self._taken.pop((peer, kind), None)
        self._heard = [heard for heard in self._heard if heard[0] != peer]
        for way in [way for way in self._ways if way.peer == peer]:
            self._give_up(way)
        if self._question is not None and self._question.peer == peer:
            self._exchange.metrics.count("averagings_lost")
            self._question = None

    def _give_up(self, way: _Way) -> None:
        self._ways.remove(way)
        self._exchange.metrics.count("averagings_lost")
        if self._question is not None and self._question.way is way:
            self._question = None

    def _gather(self, arrival: Arrival) -> None:
        which = arrival.peer, arrival.kind
        if self._taken.get(which) == arrival.step:  # again, as nobody told its sender that it is here
            self._exchange.metrics.count("frames_dropped.repeated")
            return
        rows = self._intakes[arrival.kind].put(arrival)
        self._exchange.metrics.count("frames_mixed")
        if rows is not None:
            self._taken[which] = arrival.step
            self._heard.append((*which, rows))

    # What is done about it ---------------------------------------------------------------------------------------

    def _mix(self, peer: NodeId, kind: Kind, rows: Rows) -> None:
        theirs = torch.tensor(rows, device=self._replica.device).view(-1)
        question = self._question if self._question is not None and self._question.peer == peer else None
        if question is None:
            if kind is Kind.STATE:
                self._answer(peer, theirs)
            else:
                self._exchange.metrics.count("frames_dropped.stranger")
            return
        self._question = None
        if kind is Kind.GRADIENT:  # who answers has the question
            self._ways = [way for way in self._ways if way is not question.way]
        else:
            theirs.sub_(question.values).mul_(0.5)
        if not question.is_void:
            self._replica.flat.add_(theirs)
            self._exchange.metrics.count("averagings")

    def _answer(self, peer: NodeId, sent: Tensor) -> None:
        """Move half-way toward ``sent``, which becomes the difference, and send the opposite."""
        x, question = self._replica.flat, self._question
        if question is None or question.is_void:
            sent.sub_(x)
        else:
            sent.sub_(x, alpha=2).add_(question.values)
        sent.mul_(0.5)
        if not bool(torch.isfinite(sent.sum())):
            self._exchange.metrics.count("blocks_poisoned", int((~torch.isfinite(sent)).sum()))
            torch.nan_to_num_(sent, nan=0.0, posinf=0.0, neginf=0.0)
        x.add_(sent)
        self._send(peer, sent.neg_(), Kind.GRADIENT)

    def _ask(self) -> None:
        x = self._replica.flat
        ready = sorted(self._exchange.ready.difference(way.peer for way in self._ways))
        if ready and bool(torch.isfinite(x.sum())):
            peer, values = ready[int(self._rng.integers(len(ready)))], x.clone()
            way = self._send(peer, values, Kind.STATE)
            self._question = _Question(peer, values, way, self._exchange.now())

    def _send(self, peer: NodeId, values: Tensor, kind: Kind) -> _Way:
        rows: Rows = values.view(-1, self._replica.layout.block).cpu().numpy()
        post = DensePost(self._exchange, rows, kind, self._number, [peer])
        way = _Way(peer, post, self._exchange.now())
        self._ways.append(way)
        return way
