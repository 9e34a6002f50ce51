"""News leave at once after a quiet time, gathered otherwise, and never without bound."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dagrad_bus.ids import NodeId
from dagrad_bus.membership import Flood
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.rumours import GATHER, MOST_AT_ONCE, MOST_WAITING, Rumours
from dagrad_bus.messages import MAX_RECORDS, MemberState, Record
from dagrad_bus.settings import BeatSettings
from dagrad_bus.topology.live import TopologySpec

ME = Record(NodeId(b"m" * 16), 1, 0, MemberState.ALIVE, name="m")


def flooded(context: Context) -> list[Record]:
    out, context.out = context.out, []
    assert all(isinstance(action, Flood) and len(action.message.records) <= MAX_RECORDS for action in out)
    return [record for action in out if isinstance(action, Flood) for record in action.message.records]


def start() -> tuple[Context, Rumours]:
    context = Context(ME, BeatSettings(), np.random.default_rng(0))
    return context, Rumours(context)


def test_the_first_leaves_at_once_and_the_next_are_gathered() -> None:
    context, rumours = start()
    rumours.flush(0.0)
    assert not context.out and rumours.is_empty
    rumours.add(ME)
    rumours.flush(0.0)
    assert flooded(context) == [ME]
    for incarnation in range(1, 4):
        rumours.add(replace(ME, incarnation=incarnation))
        rumours.flush(0.01)
    assert not context.out and context.agenda["flood"] == GATHER
    rumours.flush(GATHER)
    assert flooded(context) == [replace(ME, incarnation=3)]


def test_each_accuser_is_heard() -> None:
    context, rumours = start()
    words = [Record(ME.node, 1, 0, MemberState.SUSPECT, accuser) for accuser in (b"a", b"b")]
    for word in words:
        rumours.add(word)
    rumours.flush(0.0)
    assert flooded(context) == words


def test_the_queue_is_bounded_and_sent_in_portions() -> None:
    context, rumours = start()
    for i in range(MOST_WAITING + 100):
        rumours.add(replace(ME, node=NodeId(i.to_bytes(16, "little"))))
    now, total = 0.0, 0
    while not rumours.is_empty:
        rumours.flush(now)
        sent = len(flooded(context))
        assert 0 < sent <= MOST_AT_ONCE
        total += sent
        now += GATHER
    assert total == MOST_WAITING


def test_a_spec_goes_along_or_alone() -> None:
    context, rumours = start()
    spec = TopologySpec(version=1)
    rumours.add_spec(spec)
    rumours.flush(0.0)
    [action] = context.out
    assert isinstance(action, Flood) and action.message.spec == spec and action.message.records == ()
    assert context.agenda["flood"] == math.inf
