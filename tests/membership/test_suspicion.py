"""The time to refute: memberlist's numbers, one vote per accuser."""

from __future__ import annotations

import math

import pytest

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.suspicion import Suspicion, Suspicions
from dagrad_bus.messages import MemberState, Record

M, N = NodeId(b"m" * 16), NodeId(b"n" * 16)


def suspect(accuser: bytes = b"a", node: NodeId = M, incarnation: int = 0) -> Record:
    return Record(node, 1, incarnation, MemberState.SUSPECT, accuser)


def test_it_shrinks_with_the_logarithm_of_the_accusers() -> None:
    suspicion = Suspicion(suspect(), 10, 8.0, 2.0, 100.0)
    assert suspicion.deadline == 108.0
    assert suspicion.confirm(b"b")
    assert suspicion.deadline == pytest.approx(108.0 - 6.0 * math.log(2) / math.log(3))
    assert suspicion.confirm(b"c")
    assert suspicion.deadline == pytest.approx(102.0)


def test_an_accuser_counts_once_and_the_fourth_not_at_all() -> None:
    suspicion = Suspicion(suspect(), 10, 8.0, 2.0, 0.0)
    assert not suspicion.confirm(b"a")
    assert suspicion.confirm(b"b") and not suspicion.confirm(b"b")
    assert suspicion.confirm(b"c") and not suspicion.confirm(b"d")


@pytest.mark.parametrize(("others", "confirmed"), [(0, 0), (1, 1), (2, 2), (50, 2)])
def test_where_few_could_confirm_fewer_need_to(others: int, confirmed: int) -> None:
    suspicion = Suspicion(suspect(), others, 8.0, 2.0, 0.0)
    for i in range(confirmed):
        assert suspicion.deadline > 2.0
        suspicion.confirm(bytes([i]))
    assert suspicion.deadline == pytest.approx(2.0)


def test_evidence_of_life_begins_it_again() -> None:
    suspicion = Suspicion(suspect(), 10, 8.0, 2.0, 0.0)
    suspicion.confirm(b"b")
    suspicion.restart(5.0)
    assert suspicion.deadline == 13.0


def test_many_come_up_in_order_and_only_while_they_stand() -> None:
    running = Suspicions()
    running.start(M, Suspicion(suspect(), 10, 8.0, 2.0, 0.0))
    running.start(N, Suspicion(suspect(node=N), 10, 8.0, 2.0, 1.0))
    assert running.due == 8.0
    assert not running.confirm(suspect(b"b", incarnation=3))  # of another incarnation
    assert running.confirm(suspect(b"b")) and running.confirm(suspect(b"c"))
    assert running.due == pytest.approx(2.0)
    assert running.take(1.9) == []
    assert running.take(2.1) == [(M, (1, 0))]
    running.restart(N, 6.0)
    assert running.take(9.5) == []
    assert running.due == 14.0
    running.drop(N)
    assert running.take(20.0) == []
    assert running.due == math.inf and N not in running


def test_a_judge_that_was_stopped_moves_them_but_never_beyond_a_whole_time() -> None:
    running = Suspicions()
    running.start(M, Suspicion(suspect(), 10, 8.0, 2.0, 0.0))
    running.shift(20.0, 21.0)
    assert running.due == 28.0
    running.start(N, Suspicion(suspect(node=N), 10, 8.0, 2.0, 21.0))
    running.shift(20.0, 22.0)
    assert running.due == 30.0
