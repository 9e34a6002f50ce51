"""Two replicas that exchange: honest frames pass the checks once, all others are counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dagrad_bus.events import Arrival, LinkState, Outcome, Outgoing, Selection
from dagrad_bus.faults.versions import Replica, stamp_check, value_check
from dagrad_bus.ids import NodeId

A, B = NodeId(b"a" * 16), NodeId(b"b" * 16)


def pair() -> tuple[Replica, Replica]:
    one, other = (Replica(index, [A, B], 5 + index, index, blocks=64, frame=8, stripe=2) for index in range(2))
    return one, other


def arrival(outgoing: Outgoing, rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None = None) -> Arrival:
    values = np.asarray(outgoing.selection.values if rows is None else rows, np.float32)
    chosen = Selection(outgoing.selection.indices, values)
    return Arrival(A, outgoing.kind, outgoing.value_type, chosen, outgoing.step, 20.0, 0.0, outgoing.extracted_at)


def planned(one: Replica, step: int = 1, *, ready: bool = True) -> Outgoing | None:
    links = (LinkState(B, ready, 1),)
    one.note_links(links, ())
    one.update(step)
    return one.plan(links, step)


def test_an_honest_frame_is_taken_once() -> None:
    one, other = pair()
    outgoing = planned(one)
    assert outgoing is not None and one.owed == 1
    other.receive([arrival(outgoing)])
    other.receive([arrival(outgoing)])
    assert other.counts == {"frames": 1, "twice": 1}
    one.note_links((LinkState(B, True, 1),), [Outcome(outgoing.job, B, accepted=True)])
    assert one.owed == 0
    due = one.addressed[B].versions > 0
    assert (one.addressed[B].versions[due] == other.seen[A].versions[due]).all()
    assert other.clocks.tolist() == [1, 0]
    assert np.abs(other.values).sum() > 0


@pytest.mark.parametrize("element", [0, 1, 2, 3, 4, 5, 6, 9])
def test_any_changed_element_is_noticed(element: int) -> None:
    one, other = pair()
    outgoing = planned(one)
    assert outgoing is not None
    rows = np.asarray(outgoing.selection.values, np.float32).copy()
    rows[0, element] += 1
    other.receive([arrival(outgoing, rows)])
    assert other.counts["corrupt"] == 1 and not other.counts["frames"]


def test_another_sender_is_noticed() -> None:
    one, other = pair()
    outgoing = planned(one)
    assert outgoing is not None
    other.receive([replace(arrival(outgoing), peer=B)])
    assert other.counts == {"foreign": 1}


def test_what_a_link_could_not_take_is_owed_and_sent_in_quiet() -> None:
    one, _ = pair()
    both = (LinkState(A, True, 1), LinkState(B, False, 1))
    one.note_links(both, ())
    one.update(1)
    outgoing = one.plan(both, 1)
    assert outgoing is not None and outgoing.links == (A,)
    one.note_links(both, [Outcome(outgoing.job, A, accepted=True)])
    assert one.owed == len(outgoing.selection.indices)
    one.quiet = True
    later = planned(one, 2)
    assert later is not None and later.links == (B,)
    one.refused(later)
    assert one.owed
    assert planned(one, 3, ready=False) is None


def test_checks_are_exact_in_float32() -> None:
    rows = np.zeros((2, 16), np.float32)
    rows[:, :4] = [[1 << 20, 127, 1023, (1 << 20) - 1], [1, 2, 3, 4]]
    for check in (stamp_check(rows), value_check(rows)):
        assert (check.astype(np.float32).astype(np.int64) == check).all()
