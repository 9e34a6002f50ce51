from __future__ import annotations

import pytest

from dagrad_bus.sim.world import REMEMBERED, World


def test_events_run_by_time_and_then_in_the_order_they_were_made() -> None:
    world, seen = World(0), list[tuple[float, object]]()
    for due, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (3.5, "late")):
        world.at(due, lambda a, b: seen.append((world.now, a)), name)
    world.run(3.0)
    assert seen == [(1.0, "a"), (1.0, "b"), (2.0, "c")]
    assert world.now == 3.0
    assert (world.events, len(world)) == (3, 1)


def test_an_event_of_the_past_runs_next_and_time_never_goes_back() -> None:
    world, seen = World(0, start=5.0), list[float]()
    world.at(1.0, lambda a, b: seen.append(world.now))
    world.after(0.5, lambda a, b: seen.append(world.now))
    world.run(6.0)
    assert seen == [5.0, 5.5]


def test_events_made_by_events_run_too() -> None:
    world, seen = World(0), list[float]()

    def again(a: object, b: object) -> None:
        seen.append(world.now)
        world.after(1.0, again)

    world.at(0.0, again)
    world.run(3.0)
    assert seen == [0.0, 1.0, 2.0, 3.0]


def play(seed: int) -> World:
    world = World(seed)

    def again(a: object, b: object) -> None:
        world.after(world.rng.random(), again)

    again(None, None)
    world.run(300.0)
    return world


def test_equal_seeds_give_equal_traces_and_others_do_not() -> None:
    assert play(1).trace == play(1).trace != play(2).trace


def test_the_trace_is_the_same_in_every_process() -> None:
    world = World(7)
    for due in (0.5, 1.5):
        world.at(due, lambda a, b: None)
    world.run(2.0)
    assert world.trace == hash((hash((7, 0.5, 1)), 1.5, 2))  # numbers only: their hashes are not salted


def test_the_last_events_are_told_even_if_one_raises() -> None:
    world = World(0)
    for place in range(REMEMBERED + 50):
        world.at(place, lambda a, b: None, f"event {place}")

    def fail(a: object, b: object) -> None:
        raise ValueError(a)

    world.at(1000.0, fail, "x" * 1000)
    with pytest.raises(ValueError, match="x"):
        world.run(2000.0)
    told = world.told()
    assert len(told) == REMEMBERED
    assert "fail" in told[-1] and told[-1].rstrip().endswith("...")
    assert f"event {REMEMBERED + 49}" in told[-2]


def test_a_fork_disturbs_no_other_draw() -> None:
    assert World(3).fork(0) != World(3).fork(1)
    assert World(3).fork(5) == World(3).fork(5)
