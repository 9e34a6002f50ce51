"""Judges the silence of neighbours, fairly: never for its own lateness, never twice where it is alone in not hearing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.ledger import Ledger
from dagrad_bus.membership.prober import Prober
from dagrad_bus.membership.relaying import Relaying
from dagrad_bus.membership.table import Change
from dagrad_bus.membership.watch import Pair, Watch
from dagrad_bus.messages import Heartbeat, MemberState

MOST_PAIRS = 512
INQUIRY = 4.0
"""Seconds before a neighbour that never was connected is accused, others are asked about it."""


class Detector:
    """Observation of the neighbours.

    Args:
        context: shared.
        ledger: takes the accusations.
        prober: asks the accused, and others about it.
    """

    def __init__(self, context: Context, ledger: Ledger, prober: Prober) -> None:
        self._context = context
        self._ledger = ledger
        self._prober = prober
        self._pairs: dict[NodeId, Pair] = {}
        self.apart: frozenset[NodeId] = frozenset()
        """Members that others reach and this worker does not."""
        self.through: Mapping[NodeId, NodeId] = {}
        """One of those others, if any is known."""
        prober.on_silent = self.doubt
        prober.on_vouched = self.vouched
        self._relaying = Relaying(context)
        prober.on_served = self._relaying.served

    def follow(self, neighbours: Iterable[NodeId], now: float) -> None:
        """Observe these and nobody else."""
        former, watches = dict(self._context.watches), self._context.watches
        watches.clear()
        for node in neighbours:
            watches[node] = former.pop(node) if node in former else self._new_watch(node, now)
        for node, watch in former.items():
            self._ledger.keep(node, watch)

    def _new_watch(self, node: NodeId, now: float) -> Watch:
        watch = Watch(node, self._context.settings, now)
        watch.is_plain = self._is_plain(node)
        self._context.agenda.sooner("silence", now + self._context.settings.silence)
        return watch

    def _is_plain(self, node: NodeId) -> bool:
        """Whether a member is alive in the table and this worker does not say otherwise."""
        record, pair = self._ledger.table.find(node), self._pairs.get(node)
        is_alive = record is not None and record.state is MemberState.ALIVE
        return is_alive and (pair is None or (pair.accused is None and not pair.is_apart))

    # Signs of life ---------------------------------------------------------------------------------------------------

    def heard(self, node: NodeId, now: float) -> None:
        """Take note of any message of a member."""
        watch = self._context.watches.get(node)
        if watch is not None:
            watch.heard(now)
            if watch.is_plain:
                return
        pair = self._pairs.get(node)
        if pair is not None:
            self._clear(node, pair, now)
        self._ledger.heard(node, now)
        if watch is not None:
            watch.is_plain = self._is_plain(node)

    def beat(self, watch: Watch, beat: Heartbeat, now: float) -> None:
        """Take the rhythm of a neighbour's heartbeats."""
        if watch.beat_at:
            watch.arrivals.add(now - watch.beat_at)
        watch.beat_at = now
        watch.beat = beat

    def watched(self, node: NodeId, now: float) -> None:
        """Take note that the connection to a neighbour is up: silence counts from now."""
        watch = self._context.watches.get(node)
        if watch is not None:
            watch.since = max(watch.since, now)
            watch.is_connected = True
            self._context.agenda.sooner("silence", now + self._context.settings.silence)

    # Judgement -------------------------------------------------------------------------------------------------------

    def silence(self, now: float) -> None:
        """Look at every neighbour, and say when to look again."""
        settings, factor = self._context.settings, self._context.health.factor
        again = math.inf
        for node, watch in list(self._context.watches.items()):
            record = self._ledger.table.find(node)
            if record is None or not record.epoch or record.state > MemberState.SUSPECT:
                continue
            pair = self._pairs.get(node)
            if pair is not None and pair.is_muted(now):
                again = min(again, pair.muted_until)
                continue
            bound = watch.suspect_after(settings, factor)
            waits_until = self._inquire_first(watch, pair, bound, now)
            if now < waits_until:
                again = min(again, waits_until)
            elif now >= watch.since + bound:
                self.doubt(node, now, f"silent for {now - watch.since:.1f} s, bound {bound:.1f} s")
                again = min(again, now + settings.interval)
            else:
                again = min(again, watch.since + bound)
        self._context.agenda.put("silence", again)

    def _inquire_first(self, watch: Watch, pair: Pair | None, bound: float, now: float) -> float:
        """Ask others about a member that this worker never reached before it is accused; return until when to wait."""
        if watch.is_connected and (pair is None or not pair.is_apart):
            return now
        patience = INQUIRY * self._context.health.factor
        if watch.asked_at >= max(watch.since, pair.muted_until if pair is not None else 0.0):
            return watch.asked_at + patience
        if now < watch.since + bound - patience:
            return watch.since + bound - patience
        watch.asked_at = now
        return now + patience if self._prober.inquire(watch.node, now) else now

    def vouched(self, node: NodeId, by: NodeId, now: float) -> None:
        """Take note that another worker reaches a member that this one doubts."""
        record = self._ledger.table.find(node)
        if record is None or record.state > MemberState.SUSPECT or self._ledger.heard_lately(node, now):
            return
        self._context.use_relay(by, now)
        pair = self._pair(node, now)
        pair.through = by
        if pair.accused is None and not pair.is_muted(now):
            self._hold(pair, now)

    def _hold(self, pair: Pair, now: float) -> None:
        relays = self._context.relays_at(now)
        if pair.through is None and relays:
            pair.through = relays[0]
        pair.hold(now)
        self._gather_apart(now)

    def refused(self, node: NodeId, now: float) -> None:
        """Take note that a member's port refuses connections: its process is gone."""
        self._prober.refused(node)
        self.doubt(node, now, "its port refused the connection")

    def doubt(self, node: NodeId, now: float, why: str) -> None:
        """Accuse a member, unless it refuted this worker's last accusation and was not heard since."""
        record = self._ledger.table.find(node)
        if record is None or not record.epoch or record.state > MemberState.SUSPECT or self._context.is_leaving:
            return
        version = record.epoch, record.incarnation
        pair = self._pairs.get(node)
        if pair is not None and pair.is_muted(now):
            return
        if pair is not None and pair.accused is not None and version > pair.accused:
            self._hold(pair, now)
            return
        if self._ledger.accuse(node, now, why) and (pair is None or pair.accused != version):
            self._pair(node, now).accused = version
            if node in self._context.watches:  # else others were asked before, or its port refused
                self._prober.ask_about(node, now)

    def _pair(self, node: NodeId, now: float) -> Pair:
        if len(self._pairs) >= MOST_PAIRS:
            self._pairs = {one: pair for one, pair in self._pairs.items() if not pair.is_past(now)}
        watch = self._context.watches.get(node)
        if watch is not None:
            watch.is_plain = False
        return self._pairs.setdefault(node, Pair())

    def changed(self, change: Change, now: float) -> None:
        """Take note that a member's standing moved."""
        old, new = change.old, change.new
        watch, pair = self._context.watches.get(new.node), self._pairs.get(new.node)
        is_new_life = old is not None and new.epoch > old.epoch
        if pair is not None and (is_new_life or new.state >= MemberState.DEAD):
            self._clear(new.node, pair, now)
        if new.state >= MemberState.DEAD:
            self._context.relays.pop(new.node, None)
        if watch is None:
            return
        if old is not None and 0 < old.epoch < new.epoch:
            watch.renew(now)
        if new.state is MemberState.ALIVE and now - watch.since > self._context.settings.interval:
            watch.since = now  # it refuted, or was only expected before: it gets the time to be heard
        watch.is_plain = self._is_plain(new.node)
        self._context.agenda.sooner("silence", now + self._context.settings.interval)

    def _clear(self, node: NodeId, pair: Pair, now: float) -> None:
        if pair.clear(now):
            self._gather_apart(now)
        if pair.is_past(now) or not pair.mute:
            del self._pairs[node]

    def _gather_apart(self, now: float) -> None:
        apart = {node: pair.through for node, pair in self._pairs.items() if pair.is_apart}
        self.apart = self._prober.apart = frozenset(apart)
        self.through = {node: through for node, through in apart.items() if through is not None}
        if self.through:
            self._context.agenda.sooner("relays", now)

    def keep_relays(self, now: float) -> None:
        """Ask those that reach who is out of reach whether they still do."""
        self._relaying.turn(self.through, now)

    def excuse(self, lag: float, now: float) -> None:
        """Give everybody the time that this worker itself was late: their messages wait in its own queues."""
        for watch in self._context.watches.values():
            watch.since = min(now, watch.since + lag)
            watch.beat_at = 0.0
        self._ledger.suspicions.shift(lag, now)
        self._context.agenda.put("suspicion", self._ledger.suspicions.due)
        self._prober.shift(lag, now)
