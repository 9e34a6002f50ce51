"""Who asks again and again becomes a guest, for as long as it asks."""

from __future__ import annotations

import numpy as np

from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.membership import Tell
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.relaying import LIFE, MOST_ASKERS, MOST_GUESTS, Relaying
from dagrad_bus.messages import MemberState, PingReq, Record
from dagrad_bus.settings import BeatSettings

IDS = [derive_node_id("relaying", str(i)) for i in range(6)]
ME, M, A, B, C = IDS[:5]


def start() -> tuple[Context, Relaying]:
    context = Context(Record(ME, 1, 0, MemberState.ALIVE, name="me"), BeatSettings(), np.random.default_rng(0))
    return context, Relaying(context)


def test_whoever_asks_for_long_is_a_guest_until_it_stops() -> None:
    context, relaying = start()
    relaying.served(A, M, 0.0)
    relaying.served(A, M, 3.0)
    relaying.served(B, M, 3.0)
    assert context.guests == frozenset() and context.agenda["relays"] == LIFE
    relaying.served(A, M, 6.0)
    assert context.guests == {A}
    assert context.agenda.take(LIFE)
    relaying.turn({}, LIFE)
    assert context.guests == {A} and context.agenda["relays"] == 3.0 + LIFE
    relaying.turn({}, 6.0 + LIFE)
    assert context.guests == frozenset()


def test_whoever_asks_now_and_then_or_of_one_and_another_is_none() -> None:
    context, relaying = start()
    for turn in range(20):
        relaying.served(A, M, 5.0 * turn)
        relaying.served(B, (M, C)[turn % 2], 3.0 * turn)
    assert context.guests == frozenset()


def test_stand_ins_are_asked_once_each_for_whom_they_stand_in() -> None:
    context, relaying = start()
    context.stand_ins = (A, C)
    relaying.turn({M: A, B: A, ME: IDS[5]}, 0.0)
    tells = [one for one in context.out if isinstance(one, Tell)]
    asked = [(one.peer, one.message.target) for one in tells if isinstance(one.message, PingReq)]
    assert asked == [(A, min(M, B))] and context.agenda["relays"] == 3.0


def test_guests_are_few_and_stay() -> None:
    context, relaying = start()
    askers = [NodeId(i.to_bytes(16, "little")) for i in range(2 * MOST_ASKERS)]
    guests: list[frozenset[NodeId]] = []
    for now in (0.0, 3.0, 6.0, 9.0):
        for asker in askers:
            relaying.served(asker, M, now)
        guests.append(context.guests)
    assert guests[1] == frozenset() and len(guests[2]) == MOST_GUESTS and guests[3] == guests[2]
    assert len(relaying._askers) == MOST_ASKERS
