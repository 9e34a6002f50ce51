"""Synchronous SGD with a parameter server, the baseline that moves everything and waits for everybody.

In each round every worker sends its dense gradient to the server, which is the member whose name sorts first and trains
like the others. Once it has the gradients of all members of the round, it sums them in the order of the names, divides
by their number and sends the mean back. Each worker then steps with the mean in its own optimizer, so all replicas stay
equal, bit for bit, and N workers do what one does on a batch N times as large. Buffers of floating values (statistics
of BatchNorm) travel with the gradients and become their mean; integer buffers stay each worker's own.

This is a barrier: it blocks inside ``optimizer.step()``, and all go as fast as the slowest. What breaks it:

* A member that died or left is left out, from that round on and for good. The replicas of the others stay equal.
* A worker that was left out or started again cannot come back, as nobody has its rounds (and the others' optimizer
  state) for it: it ends with :class:`~dagrad_bus.errors.BarrierBroken`.
* Without the server there is no mean: the others end with the same error. So does everybody when nothing has moved for
  ``patience`` seconds.
* A boundary without any gradient is no round: nothing is sent, nobody waits. Every member must do the same number of
  steps with gradients, and whoever has done fewer must leave. A ``GradScaler`` that skips a step on one worker skips it
  there alone, and the others wait in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dagrad_bus.attach.dense import DenseIntake, DensePost, Rows
from dagrad_bus.attach.exchange import Exchange
from dagrad_bus.attach.plan import Indices
from dagrad_bus.attach.replica import Replica
from dagrad_bus.attach.role import Role
from dagrad_bus.errors import BarrierBroken
from dagrad_bus.events import Arrival
from dagrad_bus.ids import NodeId
from dagrad_bus.wire import Kind

PATIENCE = 60.0
"""Seconds without any movement after which a round is given up."""
LOOK = 0.1
"""Seconds between two looks of a waiting worker, at most: an arrival ends the wait early."""
FAREWELL = 5.0
"""Seconds for which a server that leaves waits until its last mean has arrived."""
LOST = {"dead": "died", "left": "has left", "rejoined": "was given up or started again"}
"""What happens to members that have no place in the rounds any more, in words."""

F = TypeVar("F", bound=np.floating)


class Aggregator(Generic[F]):
    """The server's side of the barrier, without I/O and for values of any width.

    Args:
        members: whose gradients make a round, in the order of the sum.
    """

    def __init__(self, members: Sequence[NodeId]) -> None:
        self.members = list(members)
        self.round = 0
        """The round that is being gathered, or was gathered last."""
        self._gathered: dict[NodeId, NDArray[F]] = {}
        self._early: dict[NodeId, NDArray[F]] = {}

    def begin(self) -> None:
        """Begin the next round with what came early for it."""
        self.round += 1
        self._gathered, self._early = self._early, {}

    def put(self, member: NodeId, number: int, vector: NDArray[F]) -> None:
        """Take the gradient of ``member`` for this round or the next one; all others are ignored, repeats too."""
        if member in self.members and number in {self.round, self.round + 1}:
            (self._gathered if number == self.round else self._early).setdefault(member, vector)

    def leave_out(self, member: NodeId) -> bool:
        """Do without ``member`` from now on; return whether it was one of us."""
        if member not in self.members:
            return False
        self.members.remove(member)
        self._gathered.pop(member, None)
        self._early.pop(member, None)
        return True

    @property
    def missing(self) -> list[NodeId]:
        """Members whose gradient for this round has not come."""
        return [member for member in self.members if member not in self._gathered]

    def mean(self) -> NDArray[F]:
        """Return the mean of the round: the sum in the order of the members, divided by their number."""
        vectors = [self._gathered[member] for member in self.members]
        total = vectors[0].copy()
        for vector in vectors[1:]:
            total += vector
        total /= total.dtype.type(len(vectors))
        return total


class SyncServerRule:
    """Replaces each gradient by the mean of all members'.

    Args:
        replica: gives and takes the gradients.
        exchange: posts and waits.
        role: who serves.
    """

    needs_gradient = True

    def __init__(self, replica: Replica, exchange: Exchange, role: Role) -> None:
        self.patience = PATIENCE
        """Seconds without any movement after which a round is given up."""
        self._replica = replica
        self._exchange = exchange
        self._role = role
        self._intake = DenseIntake(replica.layout.blocks, replica.layout.block)
        self._waited = 0.0
        self._totals: Aggregator[np.float32] = Aggregator(role.members)
        self._means: list[Rows] = []
        """The mean of this round, once it is here (a worker's side)."""
        self._post: DensePost | None = None
        self._ended = ""
        """Why there are no rounds any more."""
        self._known: set[NodeId] = set()
        """Members of whom something came in this life of theirs: a folder may still tell of an earlier one."""
        self._late: set[NodeId] = set()
        """Workers that are to be told that the rounds go on without them."""
        exchange.pauses.finish = self._see_off

    def before_step(self, scale: float) -> None:
        """Take part in a round, and wait for its mean.

        Raises:
            BarrierBroken: it cannot be completed, or goes on without this worker.
        """
        if not self._replica.has_gradients():
            self._look()
            return
        began = self._exchange.now()
        own = self._own(scale)
        self._totals.begin()
        self._apply(self._serve(own) if self._role.is_server else self._ask(own), scale)
        self._exchange.metrics.count("rounds")
        self._waited += self._exchange.now() - began
        self._exchange.metrics.gauge("barrier_seconds", self._waited)

    def after_step(self, step: int) -> None:
        """Do nothing: all is done when the optimizer steps."""

    def absorb(self, step: int) -> None:
        """Do nothing: no state is transferred under this rule."""

    def moved(self, indices: Indices, *, copied: bool) -> None:
        """Do nothing: no state is transferred under this rule."""

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: between two rounds there is no state."""
        return {}

    def restart(self) -> None:
        """Count rounds from 1. All members must do so together, as after a checkpoint that all of them took."""
        self._totals = Aggregator(self._role.members)
        self._post = None
        self._means.clear()
        self._late.clear()

    # One round ---------------------------------------------------------------------------------------------------

    def _own(self, scale: float) -> Rows:
        """Return this worker's part: finite gradients, and the values of buffers; float32[nB, B]."""
        replica = self._replica
        out = torch.zeros_like(replica.flat)
        replica.gradients(out, 1 / scale)
        replica.refresh()
        buffers = slice(replica.trainable, replica.layout.size)
        out[buffers] = replica.flat[buffers]
        if not bool(torch.isfinite(out.sum())):
            self._exchange.metrics.count("blocks_poisoned", int((~torch.isfinite(out)).sum()))
            torch.nan_to_num_(out, nan=0.0, posinf=0.0, neginf=0.0)
        rows: Rows = out.view(-1, replica.layout.block).cpu().numpy()
        return rows

    def _apply(self, mean: Rows, scale: float) -> None:
        """Let the optimizer step with the mean, and set the buffers to theirs."""
        replica, block = self._replica, self._replica.layout.block
        values = torch.tensor(mean, device=replica.device).view(-1)
        replica.set_gradients(values, scale)
        if replica.trainable < replica.layout.size:
            buffers = slice(replica.trainable, replica.layout.size)
            replica.flat[buffers] = values[buffers]
            replica.written([np.arange(replica.trainable // block, replica.layout.blocks, dtype=np.int64)])

    def _serve(self, own: Rows) -> Rows:
        """Gather the round, send its mean to all who are in it, and return it."""
        totals = self._totals
        totals.put(self._role.me, totals.round, own)
        self._wait_until(lambda: not totals.missing, lambda: totals.missing)
        mean = totals.mean()
        post = self._post = self._posted(mean, totals.members)
        self._wait_until(lambda: not post.unserved, lambda: post.unserved)
        return mean

    def _ask(self, own: Rows) -> Rows:
        """Send the own part to the server, and return the mean that it answers with."""
        self._means.clear()
        self._post = self._posted(own, [self._role.server])
        self._wait_until(lambda: bool(self._means), lambda: [self._role.server])
        return self._means[0]

    def _posted(self, rows: Rows, peers: Sequence[NodeId]) -> DensePost:
        others = [peer for peer in peers if peer != self._role.me]
        post = DensePost(self._exchange, rows, Kind.GRADIENT, self._totals.round, others)
        post.pump()  # the links as last seen; at once where they are ready
        return post

    def _wait_until(self, is_done: Callable[[], bool], missing: Callable[[], Sequence[NodeId]]) -> None:
        since = self._exchange.now()
        while not is_done():
            if self._look():
                since = self._exchange.now()
                continue
            if self._ended:
                raise BarrierBroken(f"round {self._totals.round}: {self._ended}, and nobody else sums up: start again")
            if self._exchange.now() - since > self.patience:
                names = ", ".join(map(self._role.name_of, missing()))
                raise BarrierBroken(
                    f"round {self._totals.round}: nothing of {names} for {self.patience:.0f} s; under the rule sync-ps "
                    "all members take the same number of steps, and the graph is complete"
                )
            self._exchange.wait(LOOK)

    # Looking at the port -----------------------------------------------------------------------------------------

    def _look(self) -> bool:
        """Take what came, send what can be sent; return whether anything has moved."""
        taken = self._exchange.take()
        if self._post is not None:
            self._post.heard(taken)
        for event in taken.events:
            peer, is_new = event.peer, event.kind == "rejoined" and event.peer not in self._known
            if event.kind in LOST and peer != self._role.me and not is_new:
                self._lose(peer, event.kind)
        self._known.update(arrival.peer for arrival in taken.arrivals)
        for arrival in taken.arrivals:
            if self._role.is_server:
                self._gather(arrival)
            else:
                self._answered(arrival)
        if self._post is not None:
            self._post.pump()
        for peer in sorted(self._late & self._exchange.ready):
            self._refuse(peer)
        return bool(taken.arrivals or taken.outcomes)

    def _lose(self, peer: NodeId, how: str) -> None:
        """Go on without ``peer``; without the server nobody can."""
        if self._role.is_server:
            if self._totals.leave_out(peer):
                self._exchange.metrics.count("members_left_out")
                self._intake.forget(peer)
                if self._post is not None:
                    self._post.drop(peer)
        elif peer == self._role.server:
            self._ended = f"the server {self._role.name_of(peer)} {LOST[how]}"

    def _gather(self, arrival: Arrival) -> None:
        """Take a part of a worker's gradient (the server's side)."""
        peer, totals = arrival.peer, self._totals
        if peer in totals.members and arrival.step < totals.round - 1:
            self._lose(peer, "rejoined")  # nobody repeats what was answered two rounds ago: it counts from 1 again
        if peer not in totals.members:
            self._late.add(peer)
        elif arrival.step > totals.round + 1:
            raise BarrierBroken(
                f"{self._role.name_of(peer)} is in round {arrival.step} and this server in {totals.round}: it was "
                "started again, and its rounds are lost: start the run again"
            )
        elif arrival.step >= totals.round:
            self._exchange.metrics.count("frames_mixed")
            if (rows := self._intake.put(arrival)) is not None:
                totals.put(peer, arrival.step, rows)

    def _answered(self, arrival: Arrival) -> None:
        """Take a part of the mean (a worker's side)."""
        number = self._totals.round
        if arrival.peer != self._role.server:
            self._exchange.metrics.count("frames_dropped.stranger")
        elif arrival.step > number:
            raise BarrierBroken(
                f"the run goes on without this worker, which is in round {number}: it was given up or started again, "
                "and under the rule sync-ps nobody can come back"
            )
        elif arrival.step == number:
            self._exchange.metrics.count("frames_mixed")
            if (rows := self._intake.put(arrival)) is not None:
                self._means.append(rows)

    def _refuse(self, peer: NodeId) -> None:
        """Tell a worker that was left out: any block of a round that it cannot have come to says so."""
        first, nothing = np.zeros(1, np.int64), np.zeros((1, self._replica.layout.block), np.float32)
        if self._exchange.post((peer,), first, nothing, Kind.GRADIENT, self._totals.round + 2) is not None:
            self._late.discard(peer)

    def _see_off(self) -> None:
        """Stay until the last mean has arrived: nobody else has it."""
        deadline = self._exchange.now() + FAREWELL
        while self._role.is_server and self._post is not None and not self._post.is_accepted:
            if self._exchange.now() >= deadline:
                return
            self._exchange.wait(LOOK)
            self._look()
