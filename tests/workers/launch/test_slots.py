from __future__ import annotations

import pytest

from dagrad_bus.workers.launch.orders import CalledOff, Exited, Started, WorkerOrder
from dagrad_bus.workers.launch.slots import Slots


def order(slot: int, attempt: int = 0) -> WorkerOrder:
    return WorkerOrder(name=f"n1.{slot}", slot=slot, attempt=attempt, env={"DAGRAD_DEVICE": f"cuda:{slot}"})


def started(name: str, attempt: int = 0) -> Started:
    return Started(n=1, name=name, pid=1, attempt=attempt, time=1.0)


def exited(name: str, wait: float | None = None) -> Exited:
    return Exited(n=1, name=name, pid=1, attempt=0, time=1.0, code=1, wait=wait)


@pytest.fixture
def slots() -> Slots:
    return Slots("n1", [order(0), order(1)])


def test_a_worker_is_over_unless_it_is_started_again(slots: Slots) -> None:
    assert slots.take(exited("n1.0", wait=1.0)) and slots.unfinished == ["n1.0", "n1.1"]
    assert slots.take(exited("n1.0")) and slots.unfinished == ["n1.1"]
    assert slots.take(CalledOff(n=2, name="n1.1", attempt=1)) and slots.unfinished == []
    assert slots.take(started("n1.0", 3)) and slots.unfinished == ["n1.0"]
    slots.end(["n1.0"])
    assert slots.unfinished == [] and slots.names == ["n1.0", "n1.1"]


def test_each_start_is_another_attempt_and_keeps_its_device(slots: Slots) -> None:
    assert slots.next_orders(["n1.0"]) == [order(0)]
    slots.take(started("n1.0"))
    slots.take(started("n1.1", 4))
    assert slots.next_orders(["n1.0", "n1.1"]) == [order(0, 1), order(1, 5)]
    slots.add([order(1, 9)], sent=True)
    assert slots.next_orders(["n1.1"]) == [order(1, 9)]


def test_what_is_added_is_known_as_told_or_not(slots: Slots) -> None:
    slots.unwanted["n1.1"] = 5.0
    slots.end(["n1.1"])
    slots.add([order(1, 1), order(2, 1)], sent=False)
    assert slots.unsent == {"n1.1", "n1.2"} and not slots.unwanted and slots.unfinished == ["n1.0", "n1.1", "n1.2"]
    slots.add([order(1, 1)], sent=True)
    assert (slots.unsent, slots.told, slots.swallowed) == ({"n1.2"}, {"n1.1"}, ["n1.0", "n1.2"])


@pytest.mark.parametrize("name", ["n2.0", "local.0", "n1.x", "n1.", "n1", "n1.-1", "n1.\u0663", "x.n1.0"])
def test_a_host_speaks_of_its_own_workers_only(slots: Slots, name: str) -> None:
    for report in (started(name), exited(name), CalledOff(name=name, attempt=0)):
        assert not slots.take(report)
    assert slots.names == ["n1.0", "n1.1"]


def test_a_worker_that_an_earlier_launcher_added_is_taken_note_of(slots: Slots) -> None:
    assert slots.take(started("n1.7", 1))
    assert slots.unfinished == ["n1.0", "n1.1", "n1.7"]
    assert slots.next_orders(["n1.7"]) == [WorkerOrder(name="n1.7", slot=7, attempt=2)]
