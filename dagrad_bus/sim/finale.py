"""Phase 2: peace in a part of the cluster, the rest frozen as it is, and what must then come true, and when.

The *core* is the largest set of running workers joined by paths that are open both ways. Every path inside it is healed,
no new fault happens; what is outside stays as it is for good: the dead stay dead, the stopped stay stopped, closed
paths stay closed, slow lines stay slow. A protocol that converges only when *everything* heals fails here.
Where messages were damaged a connection may be ignored for its strikes; edges and quiet then count from the end of that.

=========  ===========================================================================================================
check      bound
=========  ===========================================================================================================
table      60 s: every member of the core holds the same table, with the core present and nobody else
edges      10 s later (or 16 s after peace, if that is later, as sockets dial again within 6 s): links up, symmetric, degree 3 to 5 (all of them where the core has at most five), one component
quiet      15 s after the table: no link of the core stalled or greeting
owed       what was addressed when peace came has been accepted, within ``10 nB / T`` exchanges of each link
spread     within four stripe periods after the edges: replicas differ by at most 1e-3 of what they did
stable     10 s later all of it still holds
=========  ===========================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.bus.admission import BAN
from dagrad_bus.ids import NodeId
from dagrad_bus.link import State
from dagrad_bus.sim.cluster import Cluster, Worker
from dagrad_bus.sim.invariants import Violation, is_substituting
from dagrad_bus.sim.nemesis import Nemesis
from dagrad_bus.sim.trainer import BLOCKS, BUDGET, PERIOD, Trainer
from dagrad_bus.sim.worker import Process

TABLE, EDGES, QUIET, STABLE = 60.0, 10.0, 15.0, 10.0
REDIAL = 6.0
"""Seconds until a socket dials again at the latest."""
STEP = 0.25
"""Seconds a step takes from now on: bounds that count exchanges come sooner."""
SLOWEST = 8.0
"""Seconds within which each link carries a frame, whatever its latency and whoever else is chosen."""
SPREAD = 1e-3
LOOK = 0.5
"""Seconds between two looks."""


@dataclass(frozen=True, slots=True, eq=False)
class Debt:
    """What one link owed when peace came."""

    trainer: Trainer
    receiver: Process
    peer: NodeId
    link_book: object
    addressed: NDArray[np.int64]


class Finale:
    """Phase 2 of one run."""

    def __init__(self, cluster: Cluster, nemesis: Nemesis) -> None:
        self.cluster, self.nemesis = cluster, nemesis
        self.world = cluster.world
        self.core: list[Worker] = []
        self.reached: dict[str, float] = {}
        """Seconds after the beginning of the phase at which each check held."""
        self._began = 0.0

    def play(self) -> None:
        """Make peace, wait for what must come true.

        Raises:
            Violation: it did not, in time.
        """
        self.freeze()
        if len(self.core) < 2:
            return
        grace = max(process.born + process.settings.beat.grace for process in self._processes())
        start = max(self.world.now, grace)
        debts, spread = self._debts(), self._spread()
        self._await("table", start + TABLE, self._table_flaw)
        agreed = self.world.now
        heard = self._began + (BAN if self.cluster.options.has("flip") else 0.0)  # until then some may be ignored
        self._await("edges", max(agreed, heard, self._began + REDIAL) + EDGES, self._edge_flaw)
        self._await("quiet", max(agreed, heard) + QUIET, self._restless)
        self._await_frames("owed", -(-10 * BLOCKS // BUDGET), lambda: self._owing(debts))
        self._await_frames("spread", 4 * PERIOD, lambda: self._apart(spread))
        self.world.run(self.world.now + STABLE)
        for check in (self._table_flaw, self._edge_flaw):
            flaw = check()
            if flaw:
                raise Violation("stable", flaw)

    def _await(self, check: str, deadline: float, flaw_of: Callable[[], str]) -> None:
        while True:
            flaw = flaw_of()
            if not flaw:
                self.reached[check] = self.world.now - self._began
                return
            if self.world.now >= deadline:
                waited = self.world.now - self._began
                raise Violation(check, f"{waited:.1f} s after peace came to {self._told()}: {flaw}")
            self.world.run(min(deadline, self.world.now + LOOK))

    def _await_frames(self, check: str, frames: int, flaw_of: Callable[[], str]) -> None:
        """Wait until a check holds, or until each link of the core has carried so many more frames."""
        trainers = [worker.trainer for worker in self.core if worker.trainer is not None]
        links = [(trainer, peer) for trainer in trainers for peer in trainer.process.node.neighbours]
        before = [trainer.sent[peer] for trainer, peer in links]
        started = self.world.now
        while flaw := flaw_of():
            carried = min(trainer.sent[peer] - was for (trainer, peer), was in zip(links, before, strict=True))
            waited = self.world.now - started
            if carried >= frames or waited > SLOWEST * frames:
                raise Violation(
                    check, f"after {carried} frames on each link of {self._told()} in {waited:.1f} s: {flaw}"
                )
            self.world.run(self.world.now + LOOK)
        self.reached[check] = self.world.now - self._began

    def _told(self) -> str:
        return ", ".join(worker.name for worker in self.core)

    # Peace -------------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Choose the core, heal it, and leave the rest as it is for good."""
        cluster, network = self.cluster, self.cluster.network
        self._began = self.world.now
        self.nemesis.stopped = True
        for worker in cluster.workers:
            if worker.process is not None and worker.process.plug.paused and not worker.process.plug.dead:
                cluster.crash(worker, host=True)  # stopped for good
        self.core = self._largest()
        hosts = {worker.host for worker in self.core}
        for pairs in self.nemesis.closed:
            network.unblock([pair for pair in pairs if pair[0] in hosts and pair[1] in hosts])
        network.calm(hosts)
        weather = network.weather
        weather.drop = weather.flip = weather.full = weather.snap = 0.0
        for worker in cluster.workers:
            trainer = worker.trainer
            if trainer is not None:
                trainer.frozen, trainer.slowness, trainer.stalled_until, trainer.period = True, 1.0, 0.0, STEP
                trainer.process.mailbox.withheld = False

    def _largest(self) -> list[Worker]:
        left = list(self.cluster.running)
        best: list[Worker] = []
        network = self.cluster.network
        while left:
            found = [left.pop(0)]
            for worker in found:
                near = [other for other in left if network.is_open(worker.host, other.host)]
                found += near
                left = [other for other in left if other not in near]
            if len(found) > len(best):
                best = found
        return best

    def _processes(self) -> list[Process]:
        return [worker.process for worker in self.core if worker.process is not None]

    # What must come true -------------------------------------------------------------------------------------------

    def _table_flaw(self) -> str:
        core = tuple(sorted(worker.node for worker in self.core))
        name_of = self.cluster.name_of
        processes = self._processes()
        for process in processes:
            view = process.node.membership.view
            if view != core:
                extra = [name_of(node) for node in view if node not in core]
                lacking = [name_of(node) for node in core if node not in view]
                return f"{process} counts in {extra} and leaves out {lacking}"
        digests = {process.node.membership.digest for process in processes}
        return f"{len(digests)} different tables" if len(digests) > 1 else ""

    def _edge_flaw(self) -> str:
        near = {process.id: process.node.neighbours for process in self._processes()}
        size = len(near)
        name_of = self.cluster.name_of
        for process in self._processes():
            mine = near[process.id]
            if is_substituting(process):
                return f"{process} still works around a pair out of reach"
            if not (3 <= len(mine) <= 5 if size > 5 else len(mine) == size - 1):
                return f"{process} has {len(mine)} neighbours of {size - 1}"
            for peer in mine:
                contact = process.node.by_peer.get(peer)
                if process.id not in near.get(peer, ()):
                    return f"{process} links to {name_of(peer)}, which does not link back"
                if contact is None or contact.out.state not in {State.UP, State.STALLED}:
                    return f"{process} > {name_of(peer)} is {contact.out.state if contact else 'not there'}"
        return "" if is_connected(near) else "the core is not connected"

    def _restless(self) -> str:
        for process in self._processes():
            for contact in process.node.contacts.linked:
                if contact.out.state is not State.UP:
                    return f"{process} > {self.cluster.name_of(contact.peer)} is {contact.out.state.value}"
        return ""

    def _debts(self) -> list[Debt]:
        debts: list[Debt] = []
        members = {worker.node for worker in self.core}
        for worker in self.core:
            trainer = worker.trainer
            if trainer is None:
                continue
            for peer, (link_book, addressed) in trainer.bookings.by_peer.items():
                receiver = self.cluster.checker.receiver_of(trainer.process, peer)
                if peer in members and receiver is not None:
                    debts.append(Debt(trainer, receiver, peer, link_book, addressed.copy()))
        return debts

    def _owing(self, debts: list[Debt]) -> str:
        checker = self.cluster.checker
        for debt in debts:
            known = debt.trainer.book._links.get(debt.peer)
            if known is not debt.link_book or debt.receiver.plug.dead:
                continue  # closed, or up anew: nothing is owed
            lacking = debt.addressed > checker.newest_accepted(debt.receiver, debt.trainer.process.id)
            if lacking.any():
                return f"{debt.trainer.process} > {debt.receiver} owes blocks {np.flatnonzero(lacking).tolist()}"
        return ""

    def _spread(self) -> float:
        replicas = [worker.trainer.x for worker in self.core if worker.trainer is not None]
        return float(np.stack(replicas).std(axis=0).mean()) if replicas else 0.0

    def _apart(self, before: float) -> str:
        now = self._spread()
        return "" if now <= SPREAD * before else f"replicas differ by {now:.2e}, {now / before:.1e} of {before:.2e}"


def is_connected(near: Mapping[NodeId, tuple[NodeId, ...]]) -> bool:
    """Whether every node is reached from every other."""
    if not near:
        return True
    seen = {next(iter(near))}
    todo = list(seen)
    while todo:
        for peer in near.get(todo.pop(), ()):
            if peer in near and peer not in seen:
                seen.add(peer)
                todo.append(peer)
    return len(seen) == len(near)
