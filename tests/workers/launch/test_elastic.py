from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.workers.launch.brief import Berth
from dagrad_bus.workers.launch.elastic import compare
from dagrad_bus.workers.launch.journal import Record
from dagrad_bus.workers.launch.orders import WorkerOrder
from dagrad_bus.workers.launch.outcome import Exit, Worker
from dagrad_bus.workers.launch.pipes import Pipe

SLOTS = st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 3)))


def never() -> AbstractAsyncContextManager[Pipe]:
    raise AssertionError("nothing is dialled")


def berths(slots: set[tuple[str, int]]) -> list[Berth]:
    labels = sorted({label for label, _ in slots})
    chosen = {label: sorted(slot for other, slot in slots if other == label) for label in labels}
    return [
        Berth(label=label, workers=tuple(WorkerOrder(name=f"{label}.{slot}", slot=slot) for slot in own), dial=never)
        for label, own in chosen.items()
    ]


def worker(name: str, *, code: int | None = None, attempt: int = 0) -> Worker:
    ended = None if code is None else Exit(name, 1, code, None, 1.0)
    return Worker(name, Record(name), pid=1, exit=ended, attempt=attempt)


@settings(max_examples=50)
@given(SLOTS, SLOTS)
def test_the_difference_makes_the_run_what_the_file_says(
    before: set[tuple[str, int]], now: set[tuple[str, int]]
) -> None:
    running = {name: worker(name) for label, slot in before for name in [f"{label}.{slot}"]}
    change = compare(berths(now), running, set())
    joining = [order.name for berth in change.joining for order in berth.workers]
    assert sorted({*running, *joining} - set(change.gone)) == sorted(f"{label}.{slot}" for label, slot in now)
    assert change.added == len(joining) == len(set(joining)) and not set(joining) & set(running)
    assert all(order.attempt >= 1 for berth in change.joining for order in berth.workers)
    assert all(berth.workers for berth in change.joining)


def test_what_is_over_stays_over_unless_its_slot_was_gone() -> None:
    workers = {name: worker(name, code=code, attempt=2) for name, code in {"a.0": 0, "a.1": 1, "a.2": 143}.items()}
    workers["a.3"] = worker("a.3")
    wanted = berths({("a", slot) for slot in range(4)})
    change = compare(wanted, workers, {"a.2", "a.3"})
    assert [(order.name, order.attempt) for order in change.joining[0].workers] == [("a.2", 3)]
    assert change.gone == [] and compare(wanted, workers, set()).joining == []


def test_nobody_who_is_over_is_stopped() -> None:
    workers = {"a.0": worker("a.0", code=0), "a.1": worker("a.1")}
    assert compare([], workers, set()).gone == ["a.1"]
