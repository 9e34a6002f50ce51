from __future__ import annotations

from dagrad_bus.sim.stage import SETTLED, Finding, Stage


def test_a_finding_tells_its_figures_and_what_is_broken() -> None:
    assert Finding(2, "host loss", 7, 16, {"p50": 5.25}).told() == "row  2 host loss, N=16, seed 7: p50 5.25"
    assert "BROKEN: p50 is 9" in Finding(2, "host loss", 7, 16, {"p50": 9}, ("p50 is 9, over 5.5",)).told()


def test_a_stage_begins_with_a_cluster_that_agrees() -> None:
    stage = Stage(1, "quiet", 3, 5)
    assert stage.agree(stage.workers)
    assert stage.is_sound(stage.workers)
    assert stage.world.now == SETTLED
    assert stage.finding() == Finding(1, "quiet", 3, 5)


def test_bounds_that_do_not_hold_are_named() -> None:
    stage = Stage(1, "quiet", 3, 3)
    stage.at_most("few", 1, 2)
    stage.at_most("many", 3, 2)
    stage.at_least("too few", 1, 2)
    assert stage.until("never", lambda: False, 0.5) >= 1.5
    assert [words.split(" is ")[0] for words in stage.finding().broken] == ["many", "too few", "never"]


def test_deaths_are_timed_and_false_ones_counted() -> None:
    stage = Stage(1, "one death", 3, 5)
    victim = stage.workers[0]
    since = stage.world.now
    stage.cluster.crash(victim)
    stage.wait(20.0)
    times = stage.detection({victim.node}, 4, since)
    assert len(times) == 4
    assert 0 < times[0] <= times[-1] < 10
    assert stage.false_deaths({victim.node}) == 0
    assert stage.false_deaths(set()) == 4
