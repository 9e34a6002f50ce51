"""News to flood: gathered for at most 50 ms, then broadcast, a bounded number at a time."""

from __future__ import annotations

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.actions import Flood, Tell
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.records import pieces
from dagrad_bus.messages import MAX_RECORDS, Gossip, MemberState, Record
from dagrad_bus.topology.live import TopologySpec

GATHER = 0.05
"""Seconds between two broadcasts; the first news after a quiet time leaves at once."""
MOST_WAITING = 4096
"""Records waiting; beyond it the oldest goes, since comparing digests repairs what a flood missed."""
MOST_AT_ONCE = 8 * MAX_RECORDS


class Rumours:
    """Records and the spec, waiting to be flooded.

    Args:
        context: shared.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: dict[tuple[NodeId, bytes], Record] = {}
        self._told: dict[NodeId, dict[NodeId, Record]] = {}
        self._spec: TopologySpec | None = None
        self._free_at = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting and self._spec is None and not self._told

    def add(self, record: Record) -> None:
        """Flood a record; it takes the place of an older one, but each accuser's SUSPECT stands for itself."""
        key = record.node, record.accuser if record.state is MemberState.SUSPECT else b""
        self._waiting.pop(key, None)
        self._waiting[key] = record
        if len(self._waiting) > MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]

    def add_spec(self, spec: TopologySpec) -> None:
        """Flood the graph's spec."""
        self._spec = spec

    def tell(self, peer: NodeId, record: Record) -> None:
        """Send a record to one member, with all else that the present call has for it."""
        self._told.setdefault(peer, {})[record.node] = record

    def flush(self, now: float) -> None:
        """Broadcast what waits, or see to it that it is broadcast in time."""
        if self.is_empty:
            return
        if self._told:
            told, self._told = self._told, {}
            self._context.out += [Tell(peer, Gossip(lot)) for peer in told for lot in pieces(told[peer].values())]
        if not self._waiting and self._spec is None:
            return
        if now < self._free_at:
            self._context.agenda.sooner("flood", self._free_at)
            return
        self._free_at = now + GATHER
        deaf = dict.fromkeys((*self._context.stand_ins, *self._context.relays_at(now)))
        keys = list(self._waiting)[:MOST_AT_ONCE]
        lots = pieces([self._waiting.pop(key) for key in keys]) or [()]
        for place, lot in enumerate(lots):
            news = Gossip(lot, spec=None if place else self._spec)
            self._context.out.append(Flood(news))
            self._context.out += [Tell(peer, news) for peer in deaf]
        self._spec = None
        if self._waiting:
            self._context.agenda.sooner("flood", self._free_at)
