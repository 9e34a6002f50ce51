"""The training thread's book: what each link should have had, what is on its way, where its stripe stands.

For each live link (a peer and the generation of the connection to it):

=============  ======================================================================================
dirty          blocks the link was addressed with and certainly or possibly did not get
in flight      for each job without an outcome, its blocks
stripe cursor  the next block of the refresh stripe
dirty cursor   where the cyclic search for dirty blocks goes on
=============  ======================================================================================

Events and what they do to block b of link l:

======================================  ====================  ==============
event                                   dirty                 in flight
======================================  ====================  ==============
planned, l selected and ready           cleared               set for the job
planned, l selected but not ready       set                   -
planned, l not selected                 -                     -
resolved, accepted                      -                     cleared for the job
resolved, lost                          set                   cleared for the job
l closed, or up anew                    cleared               cleared
======================================  ====================  ==============

**Invariant.** Let ``addressed(l, b)`` be the newest job with b planned while l was selected. Then b is dirty on l, or
in flight on l with that job, or accepted on l with at least that job. Frames carry values, not increments, so a repeat
is read afresh and nothing needs to be kept but the block numbers.

A step costs O(blocks selected), not O(nB): bitmaps are made with the first dirty block and counted, and nothing is
searched while the counts are zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.blocks import Stripe

if TYPE_CHECKING:
    from dagrad_bus.events import LinkState, Outcome
    from dagrad_bus.ids import JobId, NodeId

FIRST_WINDOW = 4096
"""Blocks looked at first in a search for dirty ones; each further window is four times as long."""
NOTHING: NDArray[np.int64] = np.empty(0, dtype=np.int64)


class DirtySet:
    """A set of block numbers with a cyclic cursor: O(k) to add or remove k of them, lazily allocated."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._bits: NDArray[np.bool_] | None = None
        self._cursor = 0
        self._count = 0

    def __len__(self) -> int:
        """How many blocks are dirty."""
        return self._count

    def indices(self) -> NDArray[np.int64]:
        """Return all of them, rising; O(nB)."""
        return NOTHING if self._bits is None else np.flatnonzero(self._bits)

    def add(self, indices: NDArray[np.int64]) -> None:
        """Mark distinct blocks dirty."""
        if self._bits is None:
            self._bits = np.zeros(self._blocks, dtype=np.bool_)
        self._count += indices.size - int(np.count_nonzero(self._bits[indices]))
        self._bits[indices] = True

    def remove(self, indices: NDArray[np.int64]) -> None:
        """Mark distinct blocks clean."""
        if self._bits is None or not self._count:
            return
        self._count -= int(np.count_nonzero(self._bits[indices]))
        self._bits[indices] = False

    def peek(self, limit: int) -> NDArray[np.int64]:
        """Return the next ``limit`` dirty blocks in cyclic order from the cursor, or all if there are fewer."""
        wanted = min(limit, self._count)
        if self._bits is None or wanted <= 0:
            return NOTHING
        found: list[NDArray[np.int64]] = []
        # Two runs, cursor to end and start to cursor; windows grow so that a dense set costs no full pass.
        for start, stop in ((self._cursor, self._blocks), (0, self._cursor)):
            window = FIRST_WINDOW
            while start < stop and wanted > 0:
                part = np.flatnonzero(self._bits[start : min(start + window, stop)])[:wanted] + start
                found.append(part)
                wanted -= part.size
                start += window
                window *= 4
        return np.concatenate(found)

    def pass_by(self, block: int) -> None:
        """Let the next search begin behind ``block``."""
        self._cursor = (block + 1) % self._blocks


class LinkBook:
    """The book of one link in one generation."""

    def __init__(self, blocks: int, generation: int, stripe_cursor: int) -> None:
        self.generation = generation
        self.stripe_cursor = stripe_cursor
        self.led = 0  # count of the last plan whose stripe began at this link's cursor; 0: never
        self.dirty = DirtySet(blocks)
        self.in_flight: dict[JobId, NDArray[np.int64]] = {}


class Book:
    """The books of all live links. One thread; no clock, no chance.

    Args:
        blocks: ``nB``; every index handed in lies in ``[0, nB)``.
        frontier: where the stripes of new links begin; a checkpoint keeps :attr:`frontier`.
    """

    def __init__(self, blocks: int, frontier: int = 0) -> None:
        self._blocks = blocks
        self._frontier = frontier % blocks
        self._links: dict[NodeId, LinkBook] = {}
        self._plans = 0
        self._turn = 0

    @property
    def frontier(self) -> int:
        """The end of the last stripe planned. A new link begins here, so that one that flaps still sees every block."""
        return self._frontier

    @property
    def dirty_count(self) -> int:
        """Dirty blocks, summed over the links."""
        return sum(len(link.dirty) for link in self._links.values())

    def dirty_of(self, peer: NodeId) -> NDArray[np.int64]:
        """Return the dirty blocks of one link, rising; O(nB), for tests and reports."""
        return self._links[peer].dirty.indices() if peer in self._links else NOTHING

    def jobs_in_flight(self, peer: NodeId) -> tuple[JobId, ...]:
        """Return the jobs without an outcome on one link, oldest first."""
        return tuple(self._links[peer].in_flight) if peer in self._links else ()

    def sync(self, links: Iterable[LinkState]) -> None:
        """Take over which links live. A vanished link, and one up anew, lose their book: nothing is owed there."""
        current = {state.peer: state.generation for state in links}
        for peer in [peer for peer in self._links if peer not in current]:
            del self._links[peer]
        for peer, generation in current.items():
            known = self._links.get(peer)
            if known is None or known.generation != generation:
                self._links[peer] = LinkBook(self._blocks, generation, self._frontier)

    def stripe(self, ready: Sequence[NodeId], size: int) -> Stripe:
        """Return the next ``size`` blocks from the stripe cursor of the leader: the ready link that led longest ago.

        So a link leads at least one in D of the frames it gets, D being the number of links, whatever sets of links
        are ready when, and gets every block within ``D * ceil(nB / size)`` of them; within ``ceil(nB / size)`` if
        frames always go to all links or always to one.

        Args:
            ready: links that get the frame; those without a book are passed over.
            size: blocks; 0 gives an empty stripe.
        """
        leader = self._leader(ready)
        start = self._frontier if leader is None else leader.stripe_cursor
        return Stripe(start, min(size, self._blocks), self._blocks)

    def _leader(self, ready: Iterable[NodeId]) -> LinkBook | None:
        known = [(self._links[peer].led, peer) for peer in ready if peer in self._links]
        return self._links[min(known)[1]] if known else None

    def dirty_blocks(self, ready: Sequence[NodeId], limit: int) -> NDArray[np.int64]:
        """Return at most ``limit`` blocks dirty on a ready link, round robin over the links, each from its own cursor.

        The cursors move, the bits stay until :meth:`planned`: a plan that is not carried out loses nothing.

        Returns:
            int64, distinct, in the order of their right.
        """
        books = [self._links[peer].dirty for peer in ready if peer in self._links and len(self._links[peer].dirty)]
        if not books or limit <= 0:
            return NOTHING
        # Another link goes first each time: with a limit below the number of links none may starve.
        self._turn += 1
        books = books[self._turn % len(books) :] + books[: self._turn % len(books)]
        queues = [dirty.peek(limit) for dirty in books]
        chosen = _first_distinct(_interleave(queues), limit)
        for dirty, queue in zip(books, queues, strict=True):
            taken = np.isin(queue, chosen)
            served = queue.size if taken.all() else int(np.argmin(taken))
            if served:
                dirty.pass_by(int(queue[served - 1]))
        return chosen

    def planned(
        self,
        job: JobId,
        ready: Sequence[NodeId],
        selected: Sequence[NodeId],
        indices: NDArray[np.int64],
        stripe: Stripe | None = None,
    ) -> None:
        """Enter a job that was handed to the bus.

        Args:
            job: its number, higher than all before.
            ready: links it goes to.
            selected: links it was meant for, the ready ones included; a link not selected is not addressed.
            indices: its blocks, int64, distinct; not written to afterwards.
            stripe: what :meth:`stripe` returned for the same ``ready``, wholly contained in ``indices`` but for
                blocks not fit to be sent; None: no stripe.
        """
        self._plans += 1
        leader = self._leader(ready) if stripe is not None and stripe.size else None
        if leader is not None and stripe is not None:
            leader.led = self._plans
            self._frontier = stripe.end
        going = set(ready)
        for peer in dict.fromkeys((*selected, *ready)):
            link = self._links.get(peer)
            if link is None:
                continue
            if peer not in going:
                link.dirty.add(indices)
                continue
            link.dirty.remove(indices)
            link.in_flight[job] = indices
            if stripe is not None and link.stripe_cursor in stripe:
                link.stripe_cursor = stripe.end

    def resolved(self, outcome: Outcome) -> None:
        """Enter what became of a job on one link; an outcome of a former generation is ignored."""
        link = self._links.get(outcome.peer)
        blocks = link.in_flight.pop(outcome.job, None) if link is not None else None
        if link is not None and blocks is not None and not outcome.accepted:
            link.dirty.add(blocks)


def _interleave(queues: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the first of each queue, then the second of each, and so on."""
    turns = np.concatenate([np.arange(queue.size) for queue in queues])
    return np.concatenate(queues)[np.argsort(turns, kind="stable")]


def _first_distinct(values: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Return the first ``limit`` distinct values in their order."""
    _, first_seen = np.unique(values, return_index=True)
    return values[np.sort(first_seen)[:limit]]
