"""What an owner sees is bounded, and told."""

from __future__ import annotations

from dagrad_bus.bus.outlook import EVENTS, WAITING, Outlook
from dagrad_bus.events import MemberEvent
from dagrad_bus.ids import NodeId


def test_an_owner_that_never_asks_costs_a_bounded_memory() -> None:
    outlook = Outlook()
    for number in range(2 * EVENTS):
        outlook.events.append(MemberEvent(NodeId(bytes(16)), str(number), "alive"))
        outlook.healed.append(NodeId(bytes(16)))
    assert len(outlook.events) == EVENTS
    assert outlook.events[-1].name == str(2 * EVENTS - 1)  # the newest are kept
    assert len(outlook.healed) == WAITING


def test_an_owner_on_the_same_loop_is_called() -> None:
    outlook, calls = Outlook(), []
    outlook.tell()
    outlook.on_change = lambda: calls.append(1)
    outlook.tell()
    assert calls == [1]
