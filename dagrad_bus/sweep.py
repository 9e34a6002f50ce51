"""State transfer: the whole replica of donors, for who joins, comes back or was cut off.

**Requester** (:class:`SweepIn`). A bitmap says which blocks are had. The missing ones are dealt as ranges to up to
:data:`DONORS` donors, one STATE_REQ a donor at a time. A donor that is lost, refuses, says *last* too early or falls
silent gives its missing blocks back to the deal: the bitmap is the truth, not any donor, so whatever happens in
between, the sweep goes on where it stands.

**Donor** (:class:`SweepOut`). At most :data:`SERVED` peers are served at a time, others are told to come back. One
frame is in flight a link; one that is lost is sent again.

Floating blocks are numbered ``0 .. floats - 1``, integer blocks ``floats .. total - 1``; a frame holds one sort only.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.events import NO_NEWS, LinkState, Outcome, PeerNews
from dagrad_bus.ids import JobId, NodeId
from dagrad_bus.wire import MAX_RANGES, StateRej, StateRejection, StateReq

DONORS = 4
"""Donors asked at the same time."""
SERVED = 2
"""Peers served at the same time."""
NO_DONOR = 30.0
"""Seconds without a block after which a requester goes on from its own state, and a donor forgets a request."""
BACKOFF_MS = 500
"""After which a peer that was refused may ask again."""
LOSSES = 3
"""Losses in a row after which a donor tries smaller frames."""
GAP = 64
"""Steps behind the neighbours' median from which on a replica is copied rather than mixed."""
HEARING = 0.5
"""Seconds from the first neighbour heard, after which those heard decide."""
AGAIN = 1.0
"""Seconds before a donor that fell silent or could not be told is asked again."""

Range = tuple[int, int]
"""First block, count."""


@dataclass(slots=True)
class _Asked:
    """What one donor was asked for."""

    request: int
    ranges: tuple[Range, ...]
    until: float
    """When it counts as silent."""
    patience: float


class SweepIn:
    """The requesting side of one sweep.

    Args:
        total: blocks in all, the integer ones included; from 1.
        frame: blocks of one range at most, about what a frame holds.
        now: monotonic seconds.
        first: number of the first request, from 1; rises over the sweeps of a process.
    """

    def __init__(self, total: int, frame: int, now: float, first: int = 1) -> None:
        self.have: NDArray[np.bool_] = np.zeros(total, np.bool_)
        self.missing = total
        self.next_request = first
        self._frame = max(1, frame)
        self._asked: dict[NodeId, _Asked] = {}
        self._known: set[NodeId] = set()
        self._barred: dict[NodeId, float] = {}
        self._progress_at = now

    @property
    def is_done(self) -> bool:
        """Whether every block is had."""
        return not self.missing

    def is_starved(self, now: float) -> bool:
        """Whether nothing has come for so long that waiting makes no sense."""
        return not self.is_done and now - self._progress_at >= NO_DONOR

    def ask(self, donors: Mapping[NodeId, float], now: float) -> list[tuple[NodeId, StateReq]]:
        """Deal the blocks that nobody was asked for.

        Args:
            donors: who may be asked, the best first, and how many seconds each may be silent. A donor that is no
                longer among them is given up.
            now: seconds.

        Returns:
            Whom to tell what; who cannot be told is handed to :meth:`refused`.
        """
        for peer, asked in list(self._asked.items()):
            if peer not in donors:
                del self._asked[peer]
            elif now >= asked.until:
                self.refused(peer, asked.request, AGAIN, now)
        free = [p for p in donors if p not in self._asked and self._barred.get(p, now) <= now]
        free = free[: DONORS - len(self._asked)]
        pieces = self._unasked(MAX_RANGES * len(free)) if free and self.missing else []
        requests: list[tuple[NodeId, StateReq]] = []
        while pieces:
            peer = free.pop(0)
            share = min(MAX_RANGES, -(-len(pieces) // (len(free) + 1)))
            ranges, pieces = tuple(pieces[:share]), pieces[share:]
            self._asked[peer] = _Asked(self.next_request, ranges, now + donors[peer], donors[peer])
            self._known.add(peer)
            requests.append((peer, StateReq(self.next_request, ranges)))
            self.next_request += 1
        return requests

    def _unasked(self, limit: int) -> list[Range]:
        """Return up to ``limit`` ranges that are missing and not on their way, rising."""
        wanted = ~self.have
        for asked in self._asked.values():
            for start, count in asked.ranges:
                wanted[start : start + count] = False
        turns = np.flatnonzero(np.diff(wanted, prepend=False, append=False))
        pieces: list[Range] = []
        for start, stop in zip(turns[::2].tolist(), turns[1::2].tolist(), strict=True):
            for at in range(start, stop, self._frame):
                if len(pieces) == limit:
                    return pieces
                pieces.append((at, min(self._frame, stop - at)))
        return pieces

    def is_asked(self, peer: NodeId) -> bool:
        """Whether a request to ``peer`` is unanswered."""
        return peer in self._asked

    def lost(self, peer: NodeId) -> None:
        """Take note that a request to ``peer``, or its answer, may have been lost with a connection."""
        self._asked.pop(peer, None)

    def refused(self, peer: NodeId, request: int, backoff: float, now: float) -> None:
        """Take note that ``peer`` does not serve ``request``, and ask it again after ``backoff`` seconds at most."""
        asked = self._asked.get(peer)
        if asked is not None and asked.request == request:
            del self._asked[peer]
            self._barred[peer] = now + min(backoff, NO_DONOR)

    def received(
        self, peer: NodeId, request: int, indices: NDArray[np.int64], now: float, *, last: bool
    ) -> NDArray[np.bool_]:
        """Take note of a frame, and say which of its blocks are wanted: asked for, and not had before.

        Args:
            peer: its sender; a frame of somebody who was never asked is not wanted.
            request: which it answers; an old one's frame is as good.
            indices: int64[n], distinct, within the layout.
            now: seconds.
            last: whether the donor has nothing more for that request.

        Returns:
            bool[n].
        """
        if peer not in self._known:
            return np.zeros(len(indices), np.bool_)
        fresh = ~self.have[indices]
        self.have[indices] = True
        count = int(np.count_nonzero(fresh))
        self.missing -= count
        if count:
            self._progress_at = now
        asked = self._asked.get(peer)
        if asked is not None and asked.request == request:
            asked.until = now + asked.patience
            if last or all(self.have[start : start + size].all() for start, size in asked.ranges):
                del self._asked[peer]
        return fresh


@dataclass(frozen=True, slots=True)
class Portion:
    """What the next frame to a peer holds."""

    request: int
    start: int
    count: int
    last: bool


@dataclass(slots=True)
class _Served:
    """A request that is being answered."""

    request: int
    generation: int
    ranges: deque[Range]
    since: float
    """Of the last progress."""
    largest: int
    """Blocks a frame: halved after :data:`LOSSES` in a row, doubled with each success."""
    losses: int = 0
    flying: tuple[JobId, int] | None = None
    """The frame on its way, and its blocks: they stand at the head of ``ranges`` until accepted."""


class SweepOut:
    """The giving side, for all peers.

    Args:
        floats: floating blocks.
        total: blocks in all.
        frame: floating blocks that a frame holds at most; integer elements are twice as wide.
    """

    def __init__(self, floats: int, total: int, frame: int) -> None:
        self._floats = floats
        self._total = total
        self._frame = max(1, frame)
        self._served: dict[NodeId, _Served] = {}

    @property
    def served(self) -> tuple[NodeId, ...]:
        """Peers whose request is being answered, the longest served first."""
        return tuple(self._served)

    def keep(self, links: Sequence[LinkState], now: float) -> None:
        """Forget the requests of peers whose link is gone or up anew, and of those that take nothing any more."""
        generations = {link.peer: link.generation for link in links}
        for peer, served in list(self._served.items()):
            if generations.get(peer) != served.generation or now - served.since >= NO_DONOR:
                del self._served[peer]

    def requested(self, peer: NodeId, message: StateReq, links: Sequence[LinkState], now: float) -> StateRej | None:
        """Take a request; one of the same peer replaces its former one. Returns the refusal, where it is not served."""
        if any(start + count > self._total for start, count in message.ranges):
            return StateRej(message.request, StateRejection.LAYOUT, round(NO_DONOR * 1000))
        generation = next((link.generation for link in links if link.peer == peer), None)
        former = self._served.get(peer)
        if generation is None or (former is None and len(self._served) >= SERVED):
            return StateRej(message.request, StateRejection.BUSY, BACKOFF_MS)
        if former is None or former.request != message.request:
            self._served[peer] = _Served(message.request, generation, deque(message.ranges), now, self._frame)
        return None

    def waiting(self) -> tuple[NodeId, ...]:
        """Return the peers that the next frame may go to: nothing is in flight there."""
        return tuple(peer for peer, served in self._served.items() if served.flying is None)

    def next_portion(self, peer: NodeId) -> Portion | None:
        """Return what the next frame to ``peer`` holds; the same one until :meth:`sent`."""
        served = self._served.get(peer)
        if served is None or served.flying is not None:
            return None
        start, count = served.ranges[0]
        integer = start >= self._floats
        most = max(1, served.largest // 2) if integer else min(served.largest, self._floats - start)
        size = min(count, most)
        return Portion(served.request, start, size, size == count and len(served.ranges) == 1)

    def sent(self, peer: NodeId, job: JobId, portion: Portion) -> None:
        """Take note that ``portion`` was handed over as ``job``."""
        self._served[peer].flying = (job, portion.count)

    def drop(self, peer: NodeId) -> None:
        """Serve ``peer`` no longer."""
        self._served.pop(peer, None)

    def resolved(self, outcome: Outcome, now: float) -> None:
        """Enter what became of a frame; other jobs are passed over."""
        served = self._served.get(outcome.peer)
        if served is None or served.flying is None or served.flying[0] != outcome.job:
            return
        (_, size), served.flying = served.flying, None
        if not outcome.accepted:
            served.losses += 1
            if served.losses % LOSSES == 0:  # it may be too large for that peer
                served.largest = max(1, min(served.largest, size) // 2)
            return
        served.since, served.losses = now, 0
        served.largest = min(2 * served.largest, self._frame)
        start, count = served.ranges.popleft()
        if size < count:
            served.ranges.appendleft((start + size, count - size))
        if not served.ranges:
            del self._served[outcome.peer]


class GapWatch:
    """Decides once whether this worker is so far behind that it should copy a neighbour's state.

    What counts is the neighbours' steps *when the watch began*, reckoned back by their own rates: a slow worker that
    starts with the others is not behind, however far they are when it first hears of them.

    Args:
        step: own steps when the watch begins.
        now: monotonic seconds.
        settle: seconds in which nothing is decided.
        known: news from before the watch, which say nothing.
    """

    def __init__(self, step: int, now: float, settle: float = 0.0, known: Mapping[NodeId, PeerNews] = NO_NEWS) -> None:
        self._step = step
        self._began = now
        self._settled = now + settle
        self._known = dict(known)
        self._heard_at = math.inf

    def decide(self, news: Mapping[NodeId, PeerNews], linked: Sequence[NodeId], now: float) -> bool | None:
        """Say whether the median of the linked neighbours is more than :data:`GAP` steps ahead; None: not known yet.

        Half of them must have been heard, or :data:`HEARING` seconds gone by since the first was.
        """
        heard = [news[peer] for peer in linked if peer in news and news[peer] != self._known.get(peer)]
        if not heard or now < self._settled:
            return None
        self._heard_at = min(self._heard_at, now)
        if 2 * len(heard) < len(linked) and now - self._heard_at < HEARING:
            return None
        elapsed = now - self._began
        return median(one.step - one.rate * elapsed for one in heard) - self._step > GAP
