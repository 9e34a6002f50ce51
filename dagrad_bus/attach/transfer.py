"""State transfer at the step boundary: copy the replica of peers, mix with it, and give the own one away.

*Copy*: a worker that starts, or comes back, far behind its neighbours takes over their values, integer buffers and
step count; its boundary waits meanwhile, so it trains no step on values that are about to be replaced. *Mix*: after a
partition both sides went on; each moves half-way to the other's values, one donor at a time, and training goes on.
Giving away touches neither anchor nor book: the frames are planned outside both.

What was had, asked for and served is the affair of :mod:`dagrad_bus.sweep`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.attach.exchange import Exchange
from dagrad_bus.attach.kernels import gather, scatter
from dagrad_bus.attach.port import Port
from dagrad_bus.attach.replica import Replica
from dagrad_bus.attach.rules import Rule
from dagrad_bus.blocks import gather_blocks, scatter_blocks
from dagrad_bus.codec import Value
from dagrad_bus.events import Arrival, Outgoing, PeerNews, Selection, View
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.mixing import raise_integers
from dagrad_bus.sweep import AGAIN, GAP, GapWatch, Portion, SweepIn, SweepOut
from dagrad_bus.wire import Kind, StateRej, StateRejection

FRAME_BYTES = 4 << 20
"""Payload of one frame at most: what a donor gives away in one step."""
INDEX_BYTES = 64
"""Room for the block numbers of a range."""
QUIET = 10.0
"""Seconds that a donor may be silent, beside four of its steps."""
POLL = 0.002
"""Seconds between two looks while the boundary waits."""
PAUSE = 5.0
"""Seconds without a boundary from which on this worker counts as stopped, not as training alone."""
RECENT = 120.0
"""Seconds for which that is remembered."""
SETTLE = 2.0
"""Seconds after re-entering the membership before the neighbours' news are trusted to be new."""
UNSETTLED = 1.5
"""Seconds with a link in which whole replicas are not sent while it is unknown whether the own one is too old."""
HEAL_WAIT = 60.0
"""Seconds for which a healed peer may be without a link before it is passed over."""
UNFIT_MS = 10_000


class Transfer:
    """The state transfers of one worker, both directions; used by the training thread alone.

    Args:
        replica: read, and moved.
        rule: told which blocks moved.
        exchange: shows its views, keeps frames off the links wanted here.
        port: the bus.
        clock: monotonic seconds.
        max_frame: bytes of a payload at most.
        mixes: whether replicas meet half-way after a partition.
    """

    def __init__(
        self,
        replica: Replica,
        rule: Rule,
        exchange: Exchange,
        port: Port,
        clock: Callable[[], float],
        max_frame: int,
        *,
        mixes: bool = True,
    ) -> None:
        layout = replica.layout
        self._replica = replica
        self._rule = rule
        self._exchange = exchange
        self._port, self._clock, self._mixes = port, clock, mixes
        self._floats, self._total = layout.blocks, layout.blocks + layout.integer_blocks
        self._frame = max(1, (min(max_frame, FRAME_BYTES) - INDEX_BYTES) // (4 * layout.block))
        self._out = SweepOut(self._floats, self._total, self._frame)
        self._view = View(())
        self._step = 0
        self._news: dict[NodeId, PeerNews] = {}
        self._heard_at: dict[NodeId, float] = {}
        self._stopped: set[NodeId] = set()
        """Peers that did not train while they were not heard."""
        self._seen_at = clock()
        self._stood_still = -np.inf
        self._gap: GapWatch | None = GapWatch(0, self._seen_at)
        self._behind: bool | None = None
        self._linked_at = np.inf
        self._copy: SweepIn | None = None
        self._ahead = 0
        """Steps that a donor must have done."""
        self.caught_up = 0
        """Steps of the donors of the last copy, if it was completed."""
        self._mix: tuple[NodeId, SweepIn] | None = None
        self._healed: deque[tuple[NodeId, float]] = deque()
        self._requests = 1
        self.pause: Callable[[float], None] = time.sleep
        """How the waiting boundary passes the time."""
        exchange.watch = self._see

    @property
    def is_copying(self) -> bool:
        """Whether the replica is being replaced."""
        return self._copy is not None

    def restart(self, step: int) -> None:
        """Begin at ``step``: a checkpoint was restored, and the others may have gone on without it."""
        self._gap, self.caught_up, self._linked_at = GapWatch(step, self._clock()), 0, np.inf

    # Looking at the port -----------------------------------------------------------------------------------------

    def _see(self, view: View, now: float) -> None:
        """Take what a view says about transfers, and choose whose link the next sweep frames take."""
        if now - self._seen_at > PAUSE:
            self._stood_still = now
        self._seen_at = now
        self._listen(view, now)
        for sweep in self._running():
            self._follow(sweep, view, now)
        self._view = view
        self._out.keep(view.links, now)
        for outcome in view.outcomes:
            self._out.resolved(outcome, now)
        self._answer(view, now)
        self._healed.extend((peer, now) for peer in view.healed if self._mixes)
        # Every other frame of a link is an ordinary one.
        ready = {link.peer for link in view.links if link.ready}
        self._exchange.spared = frozenset(ready.intersection(self._out.waiting())) - self._exchange.spared
        self._exchange.settled = True
        if self._gap is not None and self._copy is None:
            links = [link.peer for link in view.links]
            self._behind = self._gap.decide(self._news, links, now)
            self._linked_at = min(self._linked_at, now) if links else np.inf
            self._exchange.settled = self._behind is False or (
                self._behind is None and now - self._linked_at > UNSETTLED
            )
            if self._behind:  # what is about to be replaced is not published
                self._exchange.spared = frozenset(links)

    def _follow(self, sweep: SweepIn, view: View, now: float) -> None:
        """Tell a running sweep what became of its requests."""
        former = {link.peer: link.generation for link in self._view.links}
        for link in view.links:
            if former.get(link.peer) != link.generation:
                sweep.lost(link.peer)
        for peer, rejection in view.rejections:
            sweep.refused(peer, rejection.request, rejection.backoff_ms / 1000, now)

    def _answer(self, view: View, now: float) -> None:
        """Take the peers' requests, or refuse them."""
        for peer, request in view.requests:
            refusal = StateRej(request.request, StateRejection.SYNCING, round(AGAIN * 1000))
            answer = refusal if self._copy is not None else self._out.requested(peer, request, view.links, now)
            if answer is not None:
                self._port.tell(peer, answer)
                self._exchange.metrics.count("sweeps_refused")

    def _listen(self, view: View, now: float) -> None:
        """Note what is known of the peers' steps, from heartbeats and from the frames themselves."""
        if view.rejoined and now - self._stood_still < RECENT:
            self._gap = GapWatch(self._step, now, SETTLE, self._news)
        told = [(peer, news) for peer, news in view.news.items()] if view.news is not self._view.news else []
        told += [(arrival.peer, PeerNews(arrival.step, arrival.rate)) for arrival in view.arrivals]
        for peer, news in told:
            known = self._news.get(peer)
            if known is not None and news.step == known.step:
                continue
            silent = now - self._heard_at.get(peer, now)
            if known is not None and silent > PAUSE:
                kept_on = news.step - known.step >= known.rate * silent / 2
                self._stopped.discard(peer) if kept_on else self._stopped.add(peer)
            self._news[peer], self._heard_at[peer] = news, now

    def _running(self) -> list[SweepIn]:
        return [sweep for sweep in (self._copy, self._mix[1] if self._mix else None) if sweep is not None]

    # The boundary ------------------------------------------------------------------------------------------------

    def boundary(self, step: int, check: Callable[[], None]) -> int:
        """Do what is due after local step ``step``, and wait where the replica must be copied.

        Args:
            step: own steps so far.
            check: called while waiting; raises what must stop the program.

        Returns:
            Own steps from now on: those of the donors after a copy.
        """
        self._step = step
        self._take()
        self._serve(step)
        if self._behind is not None:
            behind, self._behind, self._gap = self._behind, None, None
            if behind:
                self.copy(step, check, ahead=step + GAP)
        self._mix_on()
        return max(step, self.caught_up)

    def copy(self, step: int, check: Callable[[], None], *, ahead: int = 0, timeout: float = np.inf) -> bool:
        """Copy the state of neighbours, and wait until it is here; False: nobody gave it, the own state stands.

        Args:
            step: own steps so far.
            check: called while waiting; raises what must stop the program.
            ahead: steps that a donor must have done.
            timeout: seconds at most; without a donor it ends in any case.
        """
        began = self._clock()
        self._gap, self._behind, self._mix, self._ahead = None, None, None, ahead
        for peer in self._out.served:
            self._out.drop(peer)
        sweep = self._copy = SweepIn(self._total, self._frame, began, self._requests)
        self._exchange.spared = frozenset()
        self._port.set_syncing(True)
        try:
            while not sweep.is_done:
                check()
                self._rule.absorb(step)
                self._take()
                now = self._seen_at
                if sweep.is_starved(now) or now - began >= timeout:
                    break
                self._ask(sweep, self._donors(sweep), now)
                self._port.note_step(step, self._exchange.rate)
                if not sweep.is_done:
                    self.pause(POLL)
        finally:
            self._copy, self._gap, self._requests = None, None, sweep.next_request
            self.caught_up = self.caught_up if sweep.is_done else 0
            self._port.set_syncing(False)
        self._exchange.metrics.count("sweeps_done" if sweep.is_done else "sweep_fallback")
        self._exchange.metrics.gauge("sweep_seconds", self._clock() - began)
        return sweep.is_done

    def _donors(self, sweep: SweepIn) -> dict[NodeId, float]:
        """Return whom to ask, the furthest first, and how long each may be silent."""
        nothing = PeerNews(Step(0), 0.0)
        able = [link.peer for link in self._view.links if link.ready or sweep.is_asked(link.peer)]
        known = sorted(((self._news.get(peer, nothing), peer) for peer in able), key=lambda one: -one[0].step)
        return {peer: _patience(news) for news, peer in known if news.step >= self._ahead}

    def _ask(self, sweep: SweepIn, donors: Mapping[NodeId, float], now: float) -> None:
        for peer, request in sweep.ask(donors, now):
            if not self._port.tell(peer, request):
                sweep.refused(peer, request.request, AGAIN, now)

    def _mix_on(self) -> None:
        """Go on mixing with peers from the other side of a partition, one at a time."""
        now = self._seen_at
        if self._mix is not None:
            peer, sweep = self._mix
            if sweep.is_done or sweep.is_starved(now):
                self._exchange.metrics.count("sweeps_done" if sweep.is_done else "sweep_fallback")
                self._mix, self._requests = None, sweep.next_request
        linked = {link.peer for link in self._view.links}
        while self._mix is None and self._healed:
            peer, since = self._healed[0]
            if peer not in linked and now - since < HEAL_WAIT:
                break
            self._healed.popleft()
            if peer in linked and peer not in self._stopped:  # who was stopped copies us, if it is behind
                self._ahead = 0
                self._mix = peer, SweepIn(self._total, self._frame, now, self._requests)
        if self._mix is not None:
            peer, sweep = self._mix
            donors = self._donors(sweep)
            self._ask(sweep, {peer: donors[peer]} if peer in donors else {}, now)

    # What arrives ------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        """Put the frames of transfers where they belong."""
        arrivals = self._exchange.take_sweeps()
        sweep = self._copy if self._copy is not None else self._mix[1] if self._mix is not None else None
        if arrivals and sweep is not None:
            self._replica.refresh()
        for arrival in arrivals:
            chosen, metrics = arrival.selection, self._exchange.metrics
            if sweep is None:
                metrics.count("frames_dropped.sweep")
                continue
            fresh = sweep.received(arrival.peer, arrival.request, chosen.indices, self._seen_at, last=arrival.last)
            if not fresh.any():
                metrics.count("frames_dropped.sweep")
                continue
            if self._copy is not None:
                self.caught_up = max(self.caught_up, arrival.step)
            metrics.count("frames_swept")
            metrics.count("blocks_swept", int(np.count_nonzero(fresh)))
            self._apply(arrival, fresh)

    def _apply(self, arrival: Arrival, fresh: NDArray[np.bool_]) -> None:
        indices, rows = arrival.selection.indices[fresh], arrival.selection.values[fresh]
        if arrival.value_type is Value.I64:
            self._set_integers(indices, np.asarray(rows, np.int64))
            return
        copied = self._copy is not None
        values = np.asarray(rows, np.float32)
        block, flat = self._replica.layout.block, self._replica.flat
        if not copied:
            own = gather(flat, block, indices)
            # Halves first: the sum of two large numbers is not finite. A diverged own value is replaced.
            values = np.where(np.isfinite(own), own * np.float32(0.5) + values * np.float32(0.5), values)
        scatter(flat, block, indices, values)
        self._replica.written([indices])
        self._rule.moved(indices, copied=copied)

    def _set_integers(self, indices: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        own = self._replica.integers()
        if self._copy is not None:
            scatter_blocks(own, indices - self._floats, values)
        else:
            raise_integers(own, indices, values, first=self._floats)
        self._replica.set_integers(own)

    # Giving away -------------------------------------------------------------------------------------------------

    def _serve(self, step: int) -> None:
        """Publish the next frame to each peer whose link was kept free for it."""
        for peer in sorted(self._exchange.spared):
            portion = self._out.next_portion(peer)
            if portion is None:
                continue
            value, selection = self._read(portion)
            if value is Value.F32 and not np.isfinite(selection.values).all():
                self._out.drop(peer)
                self._port.tell(peer, StateRej(portion.request, StateRejection.SYNCING, UNFIT_MS))
                self._exchange.metrics.count("sweeps_refused")
                continue
            job = self._exchange.next_job()
            outgoing = Outgoing(
                job,
                (peer,),
                Kind.SWEEP,
                value,
                selection,
                Step(step),
                self._exchange.rate,
                self._seen_at,
                request=portion.request,
                last=portion.last,
            )
            if self._port.publish(outgoing):
                self._out.sent(peer, job, portion)
                self._exchange.metrics.count("sweep_frames_sent")
                self._exchange.metrics.count("sweep_bytes_sent", selection.values.nbytes)

    def _read(self, portion: Portion) -> tuple[Value, Selection]:
        indices = np.arange(portion.start, portion.start + portion.count, dtype=np.int64)
        block = self._replica.layout.block
        if portion.start >= self._floats:
            rows = gather_blocks(self._replica.integers(), indices - self._floats, block)
            return Value.I64, Selection(indices, rows)
        self._replica.refresh()
        return Value.F32, Selection(indices, gather(self._replica.flat, block, indices))


def _patience(news: PeerNews | None) -> float:
    """Return how long a donor may be silent: it sends at its step boundaries."""
    return QUIET + (4 / news.rate if news is not None and news.rate > 0 else 0.0)
