"""Push-pull: two workers compare their tables bucket by bucket and send each other what differs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.actions import Tell
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.ledger import Ledger, Source
from dagrad_bus.membership.records import is_public, outward, pieces
from dagrad_bus.membership.watch import Watch
from dagrad_bus.membership.wiring import Wiring
from dagrad_bus.messages import BUCKETS, MemberState, PpDigest, PpRecords, Record

MISMATCHES = 3
"""Heartbeats in a row with another digest before tables are compared; then 6, 12, 24 and every 48."""
REST = 16
MOST_RECORDS = 512
"""Records sent in one answer, at least one bucket's; what remains follows in the next comparison."""
AGAIN, MOST_AGAIN = 1.0, 5
"""While comparing brings news: so many seconds to the next time with the same member, so often in a row."""
SOONEST = 0.5
"""Seconds between two comparisons that this worker starts with one member, and between two that it answers."""
MOST_REMEMBERED = 512
SMALL = 32
"""Members up to which the period is as set."""


class Repair:
    """Comparisons of one worker.

    Args:
        context: shared.
        ledger: takes the records.
        wiring: takes the spec.
        now: seconds, monotonic.
    """

    def __init__(self, context: Context, ledger: Ledger, wiring: Wiring, now: float) -> None:
        self._context = context
        self._ledger = ledger
        self._wiring = wiring
        self._started: dict[NodeId, float] = {}
        self._answered: dict[NodeId, float] = {}
        self._again: dict[NodeId, tuple[float, int]] = {}
        context.agenda.put("push_pull", now + context.spread(self._period()))

    def _period(self) -> float:
        stretch = 1 + max(0, math.ceil(math.log2(max(1, self._ledger.table.count) / SMALL)))
        return self._context.settings.push_pull * stretch

    # Starting --------------------------------------------------------------------------------------------------------

    def compare(self, peer: NodeId, now: float) -> None:
        """Begin with ``peer``, unless that was done just now."""
        if peer == self._context.me.node or not _is_due(self._started, peer, now):
            return
        self._context.out.append(Tell(peer, PpDigest(tuple(self._ledger.table.buckets), self._wiring.register)))

    def mismatched(self, watch: Watch, now: float) -> None:
        """Count a heartbeat whose digest is another; rarely where comparing did not help."""
        watch.mismatches += 1
        lots, rest = divmod(watch.mismatches, MISMATCHES)
        if not rest and (lots & (lots - 1) == 0 if lots < REST else lots % REST == 0):
            self.compare(watch.node, now)

    def periodically(self, now: float) -> None:
        """Compare with a random member."""
        self._context.agenda.put("push_pull", now + self._period())
        self.compare_with_some(1, now)

    def compare_with_some(self, count: int, now: float) -> None:
        """Compare with random members believed alive."""
        table = self._ledger.table
        drawn = (table.at(int(place)) for place in self._context.rng.integers(table.places, size=8 * count))
        alive = (node for node in drawn if node is not None and self._is_other(table.find(node)))
        for node in list(dict.fromkeys(alive))[:count]:
            self.compare(node, now)

    def _is_other(self, record: Record | None) -> bool:
        is_alive = record is not None and record.epoch > 0 and record.state is MemberState.ALIVE
        return is_alive and record is not None and record.node != self._context.me.node

    def again(self, now: float) -> None:
        """Go on with those that had news."""
        for peer in [peer for peer, (at, _) in self._again.items() if at <= now]:
            _, left = self._again[peer]
            self._again[peer] = math.inf, left
            self.compare(peer, now)
        self._context.agenda.put("again", min((at for at, _ in self._again.values()), default=math.inf))

    # Answering -------------------------------------------------------------------------------------------------------

    def compared(self, peer: NodeId, message: PpDigest, now: float) -> None:
        """Answer with the records of the buckets that differ, and ask for the peer's."""
        is_newer = self._wiring.offer(message.spec, now)
        is_older = self._wiring.register.supersedes(message.spec)
        if not _is_due(self._answered, peer, now):
            return
        own = self._ledger.table.buckets
        differing = [b for b in range(BUCKETS) if b < len(message.buckets) and own[b] != message.buckets[b]]
        if not differing:
            self._again.pop(peer, None)
        if differing or (is_older and not is_newer):
            sent, wanted = self._cut(differing)
            self._send(peer, sent, wanted, with_spec=is_older)

    def _cut(self, buckets: list[int]) -> tuple[list[Record], int]:
        """Return the records of some of these buckets, and which: from a random one on, so that each has its turn."""
        start = int(self._context.rng.integers(len(buckets))) if buckets else 0
        records: list[Record] = []
        taken = 0
        for bucket in buckets[start:] + buckets[:start]:
            found = list(self._records_in(bucket))
            if records and len(records) + len(found) > MOST_RECORDS:
                break
            records += found
            taken |= 1 << bucket
        return records, taken

    def _records_in(self, bucket: int) -> Iterator[Record]:
        table, watches = self._ledger.table, self._context.watches
        for node in table.in_bucket(bucket):
            known = table.known(node)
            if known is None or not is_public(known.record):
                continue
            record, watch = outward(known), watches.get(node)
            beat = watch.beat if watch is not None else None
            if beat is not None and beat.sketch and beat.step > record.sketch_step:
                record = replace(record, sketch=beat.sketch, sketch_step=beat.step)
            yield record

    def _send(self, peer: NodeId, records: Iterable[Record], wanted: int, *, with_spec: bool) -> None:
        lots = pieces(records) or [()]
        for place, lot in enumerate(lots):
            is_last = place == len(lots) - 1
            spec = self._wiring.register if with_spec and place == 0 else None
            self._context.out.append(Tell(peer, PpRecords(lot, wanted if is_last else 0, spec)))

    def records(self, peer: NodeId, message: PpRecords, now: float) -> None:
        """Take a peer's records, and send back what it asks for."""
        is_news = message.spec is not None and self._wiring.offer(message.spec, now)
        for record in message.records:
            source = Source.SELF if record.node == peer else Source.SYNC
            is_news |= self._ledger.learn(record, source, peer, now)
        if message.wanted:
            sent, _ = self._cut([b for b in range(BUCKETS) if message.wanted >> b & 1])
            self._send(peer, sent, 0, with_spec=False)
        if is_news:
            self._go_on(peer, now)

    def _go_on(self, peer: NodeId, now: float) -> None:
        at, left = self._again.get(peer, (math.inf, MOST_AGAIN))
        if at < math.inf:
            return  # within the same comparison
        if not left or (peer not in self._again and len(self._again) >= MOST_REMEMBERED):
            self._again.pop(peer, None)
            return
        self._again[peer] = now + AGAIN, left - 1
        self._context.agenda.sooner("again", now + AGAIN)


def _is_due(times: dict[NodeId, float], peer: NodeId, now: float) -> bool:
    """Whether ``peer`` was not met lately; notes that it is now."""
    if now - times.get(peer, -SOONEST) < SOONEST:
        return False
    if len(times) >= MOST_REMEMBERED:
        for node in [node for node, at in times.items() if now - at >= SOONEST]:
            del times[node]
    if len(times) >= MOST_REMEMBERED:
        return False
    times[peer] = now
    return True
