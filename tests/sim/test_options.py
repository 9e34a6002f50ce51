from __future__ import annotations

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.sim.options import FAULTS, Options, draw


def test_a_seed_always_draws_the_same() -> None:
    assert draw(5) == draw(5) != draw(6)


def test_other_bounds_change_only_what_they_bound() -> None:
    a, b = draw(5, (4, 12), 40.0), draw(5, (7, 7), 20.0)
    assert b.workers == 7
    assert b.horizon == a.horizon / 2
    assert (a.faults, a.latency, a.drop, a.fanout) == (b.faults, b.latency, b.drop, b.fanout)


def test_every_fault_is_on_in_some_seeds_and_off_in_others() -> None:
    drawn = [draw(seed).faults for seed in range(60)]
    for fault in FAULTS:
        assert 10 < sum(fault in faults for faults in drawn) < 50


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="earthquake"):
        Options(0, faults=("earthquake",))
    with pytest.raises(UsageError, match="1 workers"):
        Options(0, workers=1)
    with pytest.raises(UsageError, match="horizon"):
        Options(0, horizon=0.0)


def test_options_are_told_on_one_line() -> None:
    told = Options(3, faults=("crash", "pause")).told()
    assert "seed=3" in told and "faults=crash,pause" in told and "\n" not in told
