from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from dagrad_bus.errors import BusError
from dagrad_bus.lab.virtual import Deadlock, VirtualTime

Told = list[tuple[str, float]]


def sleeper(time: VirtualTime, told: Told, name: str, *naps: float) -> Callable[[], None]:
    def program() -> None:
        for nap in naps:
            time.sleep(nap)
            told.append((name, time.now()))

    return program


def test_programs_run_in_the_order_in_which_their_sleeps_end() -> None:
    time, told = VirtualTime(), Told()
    time.spawn("slow", sleeper(time, told, "slow", 3.0, 3.0))
    time.spawn("fast", sleeper(time, told, "fast", 1.0, 1.0, 2.5))
    time.run()
    assert told == [("fast", 1.0), ("fast", 2.0), ("slow", 3.0), ("fast", 4.5), ("slow", 6.0)]


def test_of_two_sleeps_that_end_together_the_one_begun_first_ends_first() -> None:
    time, told = VirtualTime(), Told()
    for name in "abc":
        time.spawn(name, sleeper(time, told, name, 1.0, 1.0))
    time.run()
    assert [name for name, _ in told] == list("abcabc")


def test_equal_runs_leave_equal_traces() -> None:
    def trace() -> int:
        time, told = VirtualTime(7), Told()
        for place, name in enumerate("abcd"):
            time.spawn(name, sleeper(time, told, name, *(0.1 * (place + 1) for _ in range(20))), at=0.01 * place)
        time.run()
        return time.world.trace

    assert trace() == trace()


def test_a_program_begins_when_it_is_told_to() -> None:
    time, told = VirtualTime(), Told()
    time.spawn("late", sleeper(time, told, "late", 1.0), at=5.0)
    time.run()
    assert told == [("late", 6.0)]


def test_only_one_program_runs_at_a_time() -> None:
    time, inside = VirtualTime(), [0]

    def program() -> None:
        for _ in range(50):
            inside[0] += 1
            assert inside[0] == 1
            inside[0] -= 1
            time.sleep(0.0)

    for name in "abc":
        time.spawn(name, program)
    time.run()


def test_waking_ends_a_sleep_early_and_no_later_one() -> None:
    time, told = VirtualTime(), Told()
    number = time.spawn("sleeper", sleeper(time, told, "sleeper", 100.0, 10.0))
    for moment in (3.0, 3.0):  # the second one finds the sleep over
        time.world.at(moment, lambda _a, _b: time.wake(number))
    time.run()
    assert told == [("sleeper", 3.0), ("sleeper", 13.0)]


def test_an_error_of_a_program_comes_out_of_run_and_ends_the_others() -> None:
    time, told = VirtualTime(), Told()

    def broken() -> None:
        time.sleep(2.0)
        raise ValueError("no such digit")

    time.spawn("sleeper", sleeper(time, told, "sleeper", 1.0, 50.0))
    time.spawn("broken", broken)
    time.spawn("never", sleeper(time, told, "never", 1.0), at=9.0)
    with pytest.raises(ValueError, match="no such digit"):
        time.run()
    assert told == [("sleeper", 1.0)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("virtual-")]


def test_an_error_of_an_event_comes_out_of_run_and_ends_the_programs() -> None:
    time, told = VirtualTime(), Told()

    def fail(*_: object) -> None:
        raise ValueError("event")

    time.spawn("sleeper", sleeper(time, told, "sleeper", 50.0))
    time.world.at(1.0, fail)
    with pytest.raises(ValueError, match="event"):
        time.run()
    assert told == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("virtual-")]


def test_programs_that_wait_for_each_other_are_named() -> None:
    time = VirtualTime()
    time.spawn("ann", lambda: time._actors[0].pause())
    time.spawn("ben", lambda: time._actors[1].pause())
    time.spawn("done", lambda: time.sleep(1.0))
    with pytest.raises(Deadlock, match=r"^ann, ben wait, and nothing is to come$"):
        time.run()


def test_events_cannot_sleep() -> None:
    time = VirtualTime()
    time.spawn("sleeper", lambda: time.sleep(2.0))
    time.world.at(1.0, lambda _a, _b: time.sleep(1.0))
    with pytest.raises(BusError, match="belongs to the programs"):
        time.run()
