"""Pairs that only a third reaches: both ask it again and again, and it takes them as neighbours for as long.

The asker has it as a stand-in; without the converse, news, heartbeats and frames would cross one way only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.actions import Tell
from dagrad_bus.membership.context import Context
from dagrad_bus.messages import PingReq

PERIOD = 3.0
"""Seconds between two questions to a stand-in whether it still reaches whom it stands in for."""
LASTING, LONGEST_GAP = 1.8 * PERIOD, 1.4 * PERIOD
"""Who asks for the same member for longer than this, with no longer gaps, has no passing trouble."""
LIFE = 2.2 * PERIOD
"""Seconds after its last question until the asker is a guest no more."""
MOST_GUESTS = 8
MOST_ASKERS = 256


@dataclass(slots=True)
class Asker:
    """One that asks, lately about the same member."""

    target: NodeId
    first: float
    last: float


class Relaying:
    """The asking side and the asked side of one worker.

    Args:
        context: shared; its guests are set here.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._askers: dict[NodeId, Asker] = {}

    def served(self, node: NodeId, target: NodeId, now: float) -> None:
        """Take note that this worker reached ``target`` on behalf of another."""
        asker = self._askers.get(node)
        if asker is None:
            if len(self._askers) >= MOST_ASKERS:
                return
            asker = self._askers[node] = Asker(target, now, now)
        is_same = asker.target == target and now - asker.last <= LONGEST_GAP
        if not is_same and node not in self._context.guests:
            asker.first = now
        asker.target, asker.last = target, now
        self._receive_guests()
        self._context.agenda.sooner("relays", now + LIFE)

    def turn(self, through: Mapping[NodeId, NodeId], now: float) -> None:
        """Ask the stand-ins, forget old askers, and see to it that this is done again.

        Args:
            through: of each member out of reach one that reaches it.
            now: seconds, monotonic.
        """
        stand_ins: dict[NodeId, NodeId] = {}
        for missing in sorted(through):  # of several always the same one
            if through[missing] in self._context.stand_ins:
                stand_ins.setdefault(through[missing], missing)
        self._context.out += [Tell(relay, PingReq(self._context.nonce(), stand_ins[relay])) for relay in stand_ins]
        self._askers = {node: asker for node, asker in self._askers.items() if now < asker.last + LIFE}
        self._receive_guests()
        ends = [asker.last + LIFE for asker in self._askers.values()]
        again = [now + PERIOD] if through else []
        if ends or again:
            self._context.agenda.sooner("relays", min(ends + again))

    def _receive_guests(self) -> None:
        lasting = [node for node, asker in self._askers.items() if asker.last - asker.first >= LASTING]
        kept = [node for node in lasting if node in self._context.guests]
        others = [node for node in lasting if node not in self._context.guests]
        self._context.guests = frozenset((kept + self._context.some(others, len(others)))[:MOST_GUESTS])
