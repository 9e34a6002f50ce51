from __future__ import annotations

from dagrad_bus.sim.options import Options
from dagrad_bus.sim.run import Result
from dagrad_bus.sim.shrink import candidates, shrink

BIG = Options(1, 12, 40.0, faults=("crash", "pause", "reset"))


def test_only_what_is_needed_stays() -> None:
    def play(options: Options) -> Result:
        fails = options.has("pause") and options.workers >= 5 and options.horizon >= 10
        return Result(options, "BV" if fails else "")

    smallest = shrink(Result(BIG, "BV"), play=play).options
    assert (smallest.faults, smallest.workers, smallest.horizon) == (("pause",), 5, 10.0)


def test_another_failure_is_not_the_same() -> None:
    played: list[Options] = []

    def play(options: Options) -> Result:
        played.append(options)
        return Result(options, "ONE")

    assert shrink(Result(BIG, "BV"), runs=7, play=play).options == BIG
    assert len(played) == min(7, len(candidates(BIG)))


def test_each_step_is_towards_less() -> None:
    for smaller in candidates(BIG):
        less = (len(smaller.faults), smaller.horizon, smaller.workers)
        assert less < (3, 40.0, 12) or less[0] < 3
    assert candidates(Options(1, 2, 2.0)) == []
