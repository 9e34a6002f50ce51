"""Pairs that only a third reaches: both ask it again and again, and it takes them as neighbours for as long.

The asker has it as a stand-in; without the converse, news, heartbeats and frames would cross one way only.
"""

from __future__ import annotations

from collections.abc import Mapping

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.actions import Tell
from dagrad_bus.membership.context import Context
from dagrad_bus.messages import PingReq

PERIOD = 10.0
"""Seconds between two questions to a stand-in whether it still reaches whom it stands in for."""
LASTING = 0.8 * PERIOD
"""Who asks for longer than this has no passing trouble."""
LIFE = 2.5 * PERIOD
"""Seconds after its last question until the asker is a guest no more."""
MOST_GUESTS = 8
MOST_ASKERS = 256


class Relaying:
    """The asking side and the asked side of one worker.

    Args:
        context: shared; its guests are set here.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._askers: dict[NodeId, tuple[float, float]] = {}

    def served(self, asker: NodeId, now: float) -> None:
        """Take note that this worker reached a member on behalf of another."""
        if asker not in self._askers and len(self._askers) >= MOST_ASKERS:
            return
        first, _ = self._askers.get(asker, (now, now))
        self._askers[asker] = first, now
        self._receive_guests()
        self._context.agenda.sooner("relays", now + PERIOD)

    def turn(self, through: Mapping[NodeId, NodeId], now: float) -> None:
        """Ask the stand-ins, forget old askers, and see to it that this is done again.

        Args:
            through: of each member out of reach one that reaches it.
            now: seconds, monotonic.
        """
        stand_ins = {relay: missing for missing, relay in through.items() if relay in self._context.stand_ins}
        self._context.out += [Tell(relay, PingReq(self._context.nonce(), stand_ins[relay])) for relay in stand_ins]
        self._askers = {asker: times for asker, times in self._askers.items() if now - times[1] < LIFE}
        self._receive_guests()
        if through or self._askers:
            self._context.agenda.sooner("relays", now + PERIOD)

    def _receive_guests(self) -> None:
        lasting = [asker for asker, (first, last) in self._askers.items() if last - first >= LASTING]
        kept = [asker for asker in lasting if asker in self._context.guests]
        others = [asker for asker in lasting if asker not in self._context.guests]
        self._context.guests = frozenset((kept + self._context.some(others, len(others)))[:MOST_GUESTS])
