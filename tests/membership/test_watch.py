"""A neighbour's bound on silence, and the pair that cannot reach each other."""

from __future__ import annotations

from dagrad_bus.ids import NodeId, Step
from dagrad_bus.membership.watch import Pair, Watch
from dagrad_bus.messages import Heartbeat
from dagrad_bus.settings import BeatSettings

M = NodeId(b"m" * 16)
SETTINGS = BeatSettings()


def test_a_new_neighbour_gets_the_longest_time_until_it_is_connected() -> None:
    watch = Watch(M, SETTINGS, 5.0)
    assert watch.suspect_after(SETTINGS, 1) == 10.0
    watch.heard(6.0)
    assert 3.0 <= watch.suspect_after(SETTINGS, 1) <= 3.5
    assert watch.suspect_after(SETTINGS, 3) == 3 * watch.suspect_after(SETTINGS, 1)
    watch.renew(7.0)
    assert watch.suspect_after(SETTINGS, 1) == 10.0


def test_a_neighbour_that_says_it_is_late_is_waited_for() -> None:
    watch = Watch(M, SETTINGS, 0.0)
    watch.heard(0.0)
    before = watch.suspect_after(SETTINGS, 1)
    watch.beat = Heartbeat(M, 1, 0, 1, Step(1), 1.0, lag_ms=1500)
    assert watch.suspect_after(SETTINGS, 1) == before + 1.5
    watch.beat = Heartbeat(M, 1, 0, 1, Step(1), 1.0, lag_ms=1 << 31)
    assert watch.suspect_after(SETTINGS, 1) == before + 5.0


def test_a_pair_holds_its_tongue_for_longer_each_time() -> None:
    pair = Pair()
    times: list[float] = []
    now = 0.0
    for _ in range(6):
        pair.hold(now)
        assert pair.is_apart and pair.is_muted(now)
        times.append(pair.muted_until - now)
        now = pair.muted_until
        assert not pair.is_muted(now)
    assert times == [60.0, 120.0, 240.0, 480.0, 600.0, 600.0]


def test_hearing_ends_it_and_it_is_forgotten_later() -> None:
    pair = Pair()
    pair.hold(0.0)
    assert pair.clear(10.0) and not pair.clear(10.0)
    assert not pair.is_muted(10.0) and not pair.is_apart
    assert not pair.is_past(500.0) and pair.is_past(611.0)
