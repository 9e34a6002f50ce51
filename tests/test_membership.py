"""Silence is judged fairly: nobody is accused before being heard, or for the judge's own lateness."""

from __future__ import annotations

from dagrad_bus.ids import NodeId
from dagrad_bus.membership import Liveness, Recovered, Suspected
from dagrad_bus.settings import BeatSettings

A, B = NodeId(b"a" * 16), NodeId(b"b" * 16)
SETTINGS = BeatSettings(interval=1.0, silence=3.0)


def judge_until(liveness: Liveness, start: float, end: float) -> list[tuple[float, NodeId]]:
    """Judge once a second; return who was suspected when."""
    found: list[tuple[float, NodeId]] = []
    now = start
    while now <= end:
        found += [(now, action.peer) for action in liveness.tick(now)]
        now += 1.0
    return found


def test_nobody_is_accused_before_the_first_message() -> None:
    liveness = Liveness([A, B], SETTINGS, 0.0)
    assert judge_until(liveness, 1.0, 100.0) == []
    assert liveness.alive == ()


def test_silence_beyond_the_bound_is_suspected_once() -> None:
    liveness = Liveness([A, B], SETTINGS, 0.0)
    assert liveness.heard(A, 0.5) == []
    assert list(liveness.alive) == [A]
    assert judge_until(liveness, 1.0, 20.0) == [(4.0, A)]
    assert list(liveness.alive) == []


def test_a_suspect_that_is_heard_recovers() -> None:
    liveness = Liveness([A], SETTINGS, 0.0)
    liveness.heard(A, 0.0)
    judge_until(liveness, 1.0, 10.0)
    assert liveness.heard(A, 10.5) == [Recovered(A)]
    assert liveness.heard(A, 10.6) == []
    assert liveness.alive == (A,)


def test_regular_beats_are_never_suspected() -> None:
    liveness = Liveness([A], SETTINGS, 0.0)
    for second in range(1, 200):
        liveness.heard(A, second - 0.1)
        assert liveness.tick(float(second)) == []


def test_a_late_judge_gives_everybody_that_time() -> None:
    liveness = Liveness([A], SETTINGS, 0.0)
    liveness.heard(A, 1.0)
    assert liveness.tick(1.0) == []
    assert liveness.tick(60.0) == []  # stopped for a minute: the beats wait in its own queues
    assert judge_until(liveness, 61.0, 70.0) == [(63.0, A)]


def test_who_said_goodbye_is_expected_again_and_never_accused() -> None:
    liveness = Liveness([A], SETTINGS, 0.0)
    liveness.heard(A, 0.5)
    liveness.left(A)
    liveness.left(B)  # a stranger
    assert judge_until(liveness, 1.0, 50.0) == []
    assert list(liveness.alive) == []
    liveness.heard(A, 51.0)  # a beat that was on its way
    assert list(liveness.alive) == []
    liveness.returned(A)
    assert liveness.heard(A, 52.0) == []
    assert list(liveness.alive) == [A]


def test_strangers_are_nobody_s_business() -> None:
    liveness = Liveness([A], SETTINGS, 0.0)
    assert liveness.heard(B, 1.0) == []
    assert liveness.alive == ()


def test_it_is_judged_once_an_interval() -> None:
    liveness = Liveness([A], SETTINGS, 5.0)
    assert liveness.next_deadline() == 6.0
    liveness.tick(6.2)
    assert liveness.next_deadline() == 7.2
    assert Suspected(A) == Suspected(A)
