"""What must hold after every event, whatever the faults: checked for the process that the event touched.

==========  ==========================================================================================================
check       law
==========  ==========================================================================================================
BV          for each live link and block, the newest version addressed is dirty, in flight, or accepted
ONE         a job is accepted once, in order, with the blocks its sender planned and no other values
MM          frames waiting in a mailbox, and bytes in assembly, stay within their bounds
window      a link has no more frames in flight than its window
receipt     a receiver's credit and highest resolved number never fall
simple      neighbours are distinct, sorted, members, and never the worker itself
graph       workers with equal views and specs have symmetric links
record      (epoch, incarnation) of a member never falls in a table, nor its state but from SUSPECT to ALIVE
crash       a core raised
==========  ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.bus.contact import Contact
from dagrad_bus.events import Arrival
from dagrad_bus.ids import NodeId, derive_edge_id
from dagrad_bus.link import InLink
from dagrad_bus.membership import MemberChanged, Membership
from dagrad_bus.messages import MemberState
from dagrad_bus.sim.trainer import BLOCKS, JOBS_A_LIFE, Trainer
from dagrad_bus.sim.worker import Process, Watch
from dagrad_bus.topology.live import TopologySpec

GraphKey = tuple[tuple[NodeId, ...], TopologySpec]


class Violation(Exception):
    """A law does not hold.

    Args:
        check: its name.
        text: what was seen.
    """

    def __init__(self, check: str, text: str) -> None:
        super().__init__(f"{check}: {text}")
        self.check = check
        self.text = text


@dataclass(slots=True, eq=False)
class Seen:
    """What the checker last saw of one process."""

    membership: Membership | None
    digest: int
    neighbours: tuple[NodeId, ...]
    orders: dict[NodeId, tuple[int, int, int]]
    receipts: dict[InLink, tuple[int, int]]
    accepted: dict[NodeId, NDArray[np.int64]]
    """Newest version accepted from each peer, int64[nB]."""
    last_job: dict[NodeId, int]


class Checker(Watch):
    """Looks at everything."""

    def __init__(self) -> None:
        self.lives: list[Process] = []
        """All processes of the run by the number of their life."""
        self.trainers: dict[int, Trainer] = {}
        self.by_node: dict[NodeId, list[Process]] = {}
        self.changes: list[tuple[float, Process, MemberChanged]] = []
        """When who believed what of whom, in order."""
        self.clock: Callable[[], float] = lambda: 0.0
        self.accepted_frames = 0
        self.checks = 0
        self._seen: dict[Process, Seen] = {}
        self._graphs: dict[GraphKey, dict[NodeId, tuple[NodeId, ...]]] = {}
        self._edges: dict[tuple[Process, Process, int, int], int] = {}

    def add(self, process: Process, trainer: Trainer | None) -> None:
        """Watch another process."""
        if trainer is not None:
            self.trainers[process.life] = trainer
            trainer.on_step = self.trained
        self.lives.append(process)
        self.by_node.setdefault(process.id, []).append(process)

    def _of(self, process: Process) -> Seen:
        seen = self._seen.get(process)
        if seen is None:
            seen = self._seen[process] = Seen(None, -1, (), {}, {}, {}, {})
        return seen

    # After every event -------------------------------------------------------------------------------------------

    def stepped(self, process: Process, touched: Iterable[Contact] | None = None) -> None:
        """Look at a process that has handled an event: at its members if they changed, and at the links it touched."""
        self.checks += 1
        seen = self._seen.get(process) or self._of(process)
        membership = process.node.membership
        if membership.digest != seen.digest or membership.neighbours is not seen.neighbours:
            self._check_members(process, seen)
        self._check_links(process, seen, process.node.by_peer.values() if touched is None else touched)

    def _check_links(self, process: Process, seen: Seen, contacts: Iterable[Contact]) -> None:
        window = process.settings.link.window
        receipts = seen.receipts
        for contact in contacts:
            if contact.out.in_flight > window:
                raise Violation("window", f"{process} has {contact.out.in_flight} frames in flight")
            incoming = contact.incoming
            if incoming is None:
                continue
            now = (incoming.resolved, incoming.credit)
            before = receipts.get(incoming)
            if before != now:
                if before is not None and (before[0] > now[0] or before[1] > now[1]):
                    raise Violation("receipt", f"{process}: (resolved, credit) fell from {before} to {now}")
                if incoming.assembly_bytes > process.settings.link.max_frame:
                    raise Violation("MM", f"{process} assembles {incoming.assembly_bytes} bytes")
                receipts[incoming] = now

    def _check_members(self, process: Process, seen: Seen) -> None:
        membership = process.node.membership
        if seen.membership is not membership:  # a life under another boot epoch: it knows nobody yet
            seen.membership, seen.orders = membership, {}
        seen.digest, seen.neighbours = membership.digest, membership.neighbours
        neighbours, view = membership.neighbours, membership.view
        if process.id in neighbours or list(neighbours) != sorted(set(neighbours)):
            raise Violation("simple", f"{process} has neighbours {_names(process, neighbours)}")
        if process.is_leaving:
            return  # it keeps its links and no longer follows the view
        if not set(neighbours) <= set(view):
            raise Violation("simple", f"{process} has neighbours beyond its view: {_names(process, neighbours)}")
        self._check_graph(process, neighbours, view)
        orders = seen.orders
        for node, record in membership.table.items():
            now, before = record.order, orders.get(node)
            if before is not None and now < before and not _is_cleared(before, now):
                raise Violation("record", f"{process}: {membership.name_of(node)} fell from {before} to {now}")
            orders[node] = now

    def _check_graph(self, process: Process, neighbours: tuple[NodeId, ...], view: tuple[NodeId, ...]) -> None:
        if is_substituting(process):
            return
        others = self._graphs.setdefault((view, process.node.membership.spec), {})
        if others.setdefault(process.id, neighbours) != neighbours:
            raise Violation("graph", f"{process}: equal views, other neighbours: {_names(process, neighbours)}")
        for peer in neighbours:
            theirs = others.get(peer)
            if theirs is not None and process.id not in theirs:
                raise Violation(
                    "graph", f"{process} links to {process.node.membership.name_of(peer)}, which does not link back"
                )

    def changed(self, process: Process, change: MemberChanged) -> None:
        """Write down what a process believes of a member from now on."""
        self.changes.append((self.clock(), process, change))

    # Frames --------------------------------------------------------------------------------------------------------

    def accepted(self, process: Process, arrival: Arrival) -> None:
        """Look at a frame that was put into a mailbox."""
        self.accepted_frames += 1
        seen, peer = self._of(process), arrival.peer
        indices, values = arrival.selection.indices, arrival.selection.values
        job = int(values[0, 0])
        sender = self.trainers.get(job // JOBS_A_LIFE)
        planned = None if sender is None or sender.process.id != peer else sender.plans.get(job)
        if planned is None or not _are_equal(planned, indices) or np.count_nonzero(values[:, 0] != job):
            raise Violation(
                "ONE", f"{process} accepted from {process.node.membership.name_of(peer)} what it never planned: {job}"
            )
        if job <= seen.last_job.get(peer, 0):
            raise Violation("ONE", f"{process} accepted job {job} after {seen.last_job[peer]}")
        seen.last_job[peer] = job
        limit = process.settings.link.mailbox_frames + process.settings.link.window
        if process.mailbox.waiting(peer) > limit:
            raise Violation("MM", f"{process}: {process.mailbox.waiting(peer)} frames of one link wait")
        newest = seen.accepted.get(peer)
        if newest is None:
            newest = seen.accepted[peer] = np.zeros(BLOCKS, np.int64)
        newest[indices] = job

    def trained(self, trainer: Trainer) -> None:
        """Look at the books of a training thread that has taken a step: BV."""
        process = trainer.process
        for peer, link_book in trainer.book._links.items():
            known = trainer.bookings.by_peer.get(peer)
            if known is None or known[0] is not link_book:
                continue
            receiver = self.receiver_of(process, peer)
            if receiver is None:
                continue
            addressed = known[1]
            newest = self._of(receiver).accepted.get(process.id)
            missing = addressed > newest if newest is not None else addressed > 0
            if not np.count_nonzero(missing):
                continue
            for job, blocks in link_book.in_flight.items():
                missing[blocks[addressed[blocks] == job]] = False
            missing[link_book.dirty.indices()] = False
            if missing.any():
                lost = np.flatnonzero(missing)
                raise Violation("BV", f"{process} > {receiver}: blocks {lost.tolist()} of {addressed[lost].tolist()}")

    def newest_accepted(self, receiver: Process, sender: NodeId) -> NDArray[np.int64]:
        """Return the newest version of each block that ``receiver`` accepted of ``sender``."""
        found = self._of(receiver).accepted.get(sender)
        return found if found is not None else np.zeros(BLOCKS, np.int64)

    def receiver_of(self, process: Process, peer: NodeId) -> Process | None:
        """Return the living process at the other end of the link to ``peer``; None: it crashed, the promise is void."""
        contact = process.node.by_peer.get(peer)
        lives = self.by_node.get(peer)
        if contact is None or not lives:
            return None
        for receiver in reversed(lives):
            if not receiver.plug.dead and self._edge(process, receiver) == contact.out.edge:
                return receiver
        return None

    def _edge(self, a: Process, b: Process) -> int:
        key = (a, b, a.node.identity.epoch, b.node.identity.epoch)
        known = self._edges.get(key)
        if known is None:
            known = self._edges[key] = derive_edge_id(a.id, key[2], b.id, key[3])
        return known


def is_substituting(process: Process) -> bool:
    """Whether a worker has put another in the place of a neighbour that it cannot reach, or is in such a place."""
    membership = process.node.membership
    apart = membership._detector.apart
    near = set(membership._wiring.near(process.id))
    return not apart.isdisjoint(near) or not near.issuperset(membership._context.guests)


def _are_equal(a: NDArray[np.int64], b: NDArray[np.int64]) -> bool:
    return len(a) == len(b) and not np.count_nonzero(a != b)


def _is_cleared(before: tuple[int, int, int], now: tuple[int, int, int]) -> bool:
    """Whether a suspicion was taken back by hearing the member itself."""
    return before[:2] == now[:2] and before[2] == MemberState.SUSPECT and now[2] == MemberState.ALIVE


def _names(process: Process, nodes: tuple[NodeId, ...]) -> str:
    return ", ".join(process.node.membership.name_of(node) for node in nodes)
