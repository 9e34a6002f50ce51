"""The beacon: the root counts, the highest count wins, and no progress is noticed."""

from __future__ import annotations

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.beacon import PERIOD, STALE, Beacon

ROOT = NodeId(bytes(16))


def test_the_root_counts_and_is_never_out_of_its_own_reach() -> None:
    beacon = Beacon(0.0)
    for turn in range(1, 10):
        assert not beacon.turn(ROOT, is_own=True, is_known=True, now=turn * PERIOD)
        assert beacon.count == turn


def test_the_highest_count_wins_and_keeps_the_view_fresh() -> None:
    beacon = Beacon(0.0)
    for turn in range(1, 10):
        beacon.heard(turn, turn * PERIOD)
        beacon.heard(1, turn * PERIOD)
        assert not beacon.turn(ROOT, is_own=False, is_known=True, now=turn * PERIOD)
    assert beacon.count == 9


def test_without_progress_the_view_is_split_once_every_15_s() -> None:
    beacon = Beacon(0.0)
    alarms = [at for at in range(0, 100, 5) if beacon.turn(ROOT, is_own=False, is_known=True, now=float(at))]
    assert alarms == [20, 40, 60, 80]
    assert STALE == 15.0


def test_nobody_waits_for_a_root_that_never_came() -> None:
    beacon = Beacon(0.0)
    assert not any(beacon.turn(ROOT, is_own=False, is_known=False, now=float(at)) for at in range(0, 100, 5))


def test_an_absurd_count_is_not_believed() -> None:
    beacon = Beacon(0.0)
    beacon.heard((1 << 64) - 1, 1.0)
    assert beacon.count == 0
