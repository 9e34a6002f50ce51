"""Asynchronous SGD with a parameter server: downpour, with local steps and without waiting.

The server is the member whose name sorts first; it trains like the others. A worker keeps its **base**, the values that
it last had from the server. After a local step, if nothing of it is on its way, it pushes ``D = x - base``. The server
adds each push to its own replica at its next step boundary, exactly once, and answers with the values it has then:

    server:  x = x + D
    worker:  x = x_server + (x - x_at_push),  base = x_server

So what a worker learned while push and answer were under way is kept, and goes with its next push. Server and worker
never wait: one frame a link leaves at each step boundary, so a vector of k frames takes k steps. Law: the server's
parameters are those it began with, plus its own steps, plus every D that it took. Buffers of floating values (statistics
of BatchNorm) take D / N instead, as N workers that all follow the same mean would overshoot it; integer buffers stay each
worker's own.

A push is the same until it is answered: where a frame is refused, or the link comes up anew, the same D goes again under
the same step, and the server that has it already only answers again. A server that is started again copies the state of
a worker like any other that comes back; what it took and never gave away is lost with it. Without the server everybody
trains on alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dagrad_bus.attach.dense import DenseIntake, DensePost, Rows
from dagrad_bus.attach.exchange import Exchange
from dagrad_bus.attach.kernels import gather, scatter
from dagrad_bus.attach.plan import Indices
from dagrad_bus.attach.replica import Replica
from dagrad_bus.attach.role import Role
from dagrad_bus.events import Arrival, View
from dagrad_bus.ids import NodeId
from dagrad_bus.wire import Kind

GONE = {"dead", "left"}
"""What happens to members that take no answer any more."""
ANEW = {*GONE, "rejoined"}
"""What happens to members that may be another process afterwards."""


class _Seat:
    """What server and workers have in common.

    Args:
        replica: read and moved.
        exchange: posts.
        role: who serves.
    """

    needs_gradient = False

    def __init__(self, replica: Replica, exchange: Exchange, role: Role) -> None:
        self._replica = replica
        self._exchange = exchange
        self._role = role
        self._intake = DenseIntake(replica.layout.blocks, replica.layout.block)

    def before_step(self, scale: float) -> None:
        """Do nothing: this rule never looks at a gradient."""

    def _rows(self, vector: Tensor) -> Rows:
        """Return a vector that nobody else holds as float32[nB, B] on the host."""
        rows: Rows = vector.view(-1, self._replica.layout.block).cpu().numpy()
        return rows

    def _flat(self, rows: Rows) -> Tensor:
        """Return a copy of received rows as the replica's vectors are."""
        return torch.tensor(rows, device=self._replica.device).view(-1)

    def _written(self) -> None:
        """Bring the model up to date after the whole vector has moved."""
        self._replica.written([np.arange(self._replica.layout.blocks, dtype=np.int64)])


class PushRule(_Seat):
    """A worker: pushes what it learned, and takes over what the server has.

    Args:
        replica: read and moved.
        exchange: posts.
        role: who serves.
    """

    def __init__(self, replica: Replica, exchange: Exchange, role: Role) -> None:
        super().__init__(replica, exchange, role)
        self._base = replica.flat.clone()
        self._push: DensePost | None = None
        self._at_push: Tensor | None = None
        """The own values when the push that is on its way was made."""
        self._answer: Rows | None = None
        self._answer_step = self._answered = -1
        """The server's step at which the last answer taken over was made."""

    def after_step(self, step: int) -> None:
        """Take over an answer if one is here, then push if nothing is on its way."""
        self._replica.refresh()
        self._take()
        if self._push is not None and self._answer is not None and self._push.is_accepted:
            self._take_over(self._answer)
        if self._push is None and step % self._exchange.settings.interval == 0:
            self._begin(step)
        if self._push is not None:
            self._push.pump()

    def absorb(self, step: int) -> None:
        """Keep what arrives in order; the state that is being copied counts more."""
        del step
        self._take()

    def moved(self, indices: Indices, *, copied: bool) -> None:
        """Begin at what was copied: it is a peer's, and nothing that this worker owes the server."""
        del copied  # transfers never mix under this rule
        block = self._replica.layout.block
        scatter(self._base, block, indices, gather(self._replica.flat, block, indices))
        self._forget()

    def tensors(self) -> dict[str, Tensor]:
        """Return the base."""
        return {"base": self._base}

    def restart(self) -> None:
        """Owe the server nothing."""
        self._replica.refresh()
        self._base.copy_(self._replica.flat)
        self._forget()

    def _forget(self) -> None:
        self._push = self._at_push = self._answer = None

    def _take(self) -> None:
        taken = self._exchange.take()
        if self._push is not None:
            self._push.heard(taken)
        if any(event.peer == self._role.server and event.kind in ANEW for event in taken.events):
            self._answered = -1  # another process, which counts on its own
        for arrival in taken.arrivals:
            if arrival.peer != self._role.server or arrival.kind is not Kind.STATE:
                self._exchange.metrics.count("frames_dropped.stranger")
            elif arrival.step == self._answered:  # the last answer again: the server was not told that it is here
                self._exchange.metrics.count("frames_dropped.repeated")
            else:
                self._exchange.metrics.count("frames_mixed")
                rows = self._intake.put(arrival)
                if rows is not None:
                    self._answer, self._answer_step = rows, arrival.step

    def _take_over(self, answer: Rows) -> None:
        x, since = self._replica.flat, self._at_push
        if since is None:
            raise AssertionError("a push has values at which it was made")
        self._base = self._flat(answer)
        torch.sub(x, since, out=x)
        torch.add(self._base, x, out=x)
        self._written()
        self._answered = self._answer_step
        self._exchange.metrics.count("pulls")
        self._forget()

    def _begin(self, step: int) -> None:
        """Make the next push; what is not finite goes back to the base, or it would be refused again and again."""
        x = self._replica.flat
        change = x - self._base
        if not bool(torch.isfinite(change.sum())):
            bad = ~torch.isfinite(change)
            self._exchange.metrics.count("blocks_poisoned", int(bad.sum()))
            x[bad] = self._base[bad]
            change[bad] = 0.0
            self._written()
        self._at_push, self._answer = x.clone(), None
        self._push = DensePost(self._exchange, self._rows(change), Kind.GRADIENT, step, [self._role.server])


class ServeRule(_Seat):
    """The server: adds every push to its own replica and answers with it.

    Args:
        replica: read and moved.
        exchange: posts.
        role: how many there are.
    """

    def __init__(self, replica: Replica, exchange: Exchange, role: Role) -> None:
        super().__init__(replica, exchange, role)
        self._share = 1 / max(1, len(role.members))
        self._taken: dict[NodeId, int] = {}
        """Step of the newest push taken of each worker."""
        self._pushes: list[tuple[NodeId, Rows]] = []
        self._owed: set[NodeId] = set()
        """Workers whose push waits for an answer."""
        self._answers: list[DensePost] = []

    def after_step(self, step: int) -> None:
        """Add what was pushed, and answer those whose link is ready with one copy of the replica."""
        self._replica.refresh()
        self._take()
        self._add()
        self._answers = [answer for answer in self._answers if not answer.is_accepted]
        for answer in self._answers:
            answer.pump()
        ready = sorted(self._owed & self._exchange.ready)
        if ready and bool(torch.isfinite(self._replica.flat.sum())):
            answer = DensePost(self._exchange, self._rows(self._replica.flat.clone()), Kind.STATE, step, ready)
            answer.pump()
            self._answers.append(answer)
            self._owed.difference_update(ready)

    def absorb(self, step: int) -> None:
        """Keep what arrives until the copied state is here."""
        del step
        self._take()

    def moved(self, indices: Indices, *, copied: bool) -> None:
        """Do nothing: the server has no past."""

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: all there is stands in the model."""
        return {}

    def restart(self) -> None:
        """Do nothing: workers repeat what is not answered."""

    def _take(self) -> None:
        taken = self._exchange.take()
        for answer in self._answers:
            answer.heard(taken)
        self._part_with(taken)
        for arrival in taken.arrivals:
            if arrival.kind is Kind.GRADIENT:
                self._gather(arrival)
            else:
                self._exchange.metrics.count("frames_dropped.stranger")

    def _part_with(self, taken: View) -> None:
        """Forget workers that are gone: one that comes back pushes anew."""
        for event in taken.events:
            if event.kind in GONE:
                self._intake.forget(event.peer)
                self._owed.discard(event.peer)
                for answer in self._answers:
                    answer.drop(event.peer)

    def _gather(self, arrival: Arrival) -> None:
        peer = arrival.peer
        if self._taken.get(peer) == arrival.step:  # repeated as nobody told its sender that it is here
            self._owed.add(peer)
            self._exchange.metrics.count("frames_dropped.repeated")
            return
        rows = self._intake.put(arrival)
        self._exchange.metrics.count("frames_mixed")
        if rows is not None:
            for answer in self._answers:
                answer.drop(peer)  # who pushes anew has the last answer, or asks for none
            self._taken[peer] = arrival.step
            self._pushes.append((peer, rows))

    def _add(self) -> None:
        if not self._pushes:
            return
        x, split = self._replica.flat, self._replica.trainable
        for peer, rows in self._pushes:
            change = self._flat(rows)
            x[:split] += change[:split]
            x[split:].add_(change[split:], alpha=self._share)
            self._owed.add(peer)
        self._exchange.metrics.count("pushes", len(self._pushes))
        self._pushes.clear()
        self._written()
