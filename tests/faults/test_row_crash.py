"""Rows 1, 3, 5, 6, 11 and 12: processes that die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dagrad_bus.faults import ledger
from dagrad_bus.faults.census import Chronicle, all_say, degrees, delays, half_open, is_whole, percentile
from dagrad_bus.faults.herd import Herd
from dagrad_bus.faults.rows import RowReport

HerdOf = Callable[..., AbstractContextManager[Herd]]
pytestmark = pytest.mark.timeout(240)
BOUND, SETTLE = 80, 15.0
"""Exchanges within which all that is owed must be accepted, and seconds to wait for it."""


def await_dead(herd: Herd, chronicle: Chronicle, names: Iterable[str], seconds: float) -> None:
    """Wait until all that run say so, and it was seen as an event."""
    dead = tuple(names)
    herd.until(f"{dead} dead everywhere", lambda: all_say(herd.states(), dead, "DEAD"), seconds)

    def is_told() -> bool:  # a worker's own thread takes events a step after its table changed
        chronicle.read()
        return all(len(chronicle.first("dead", name)) >= len(herd.states()) for name in dead)

    herd.until(f"{dead} told by every worker", is_told, 5)


def hold_promises(herd: Herd, row: RowReport) -> None:
    """BV and ONE among those that run."""
    herd.await_linked(15)
    states = ledger.settle(herd, SETTLE)
    row.at_most("exchanges until BV", max(state["quiet_exchanges"] for state in states.values()), BOUND)
    row.exactly("links that break BV", ledger.broken_links(herd), {})
    row.exactly("frames that break ONE", sum(ledger.wrong_frames(states).values()), 0)
    herd.ask_all("set", quiet=False)


@pytest.mark.slow
@pytest.mark.row(1, layer="L3")
def test_a_killed_process_is_soon_dead_everywhere(herd_of: HerdOf, row: RowReport) -> None:
    with herd_of(16) as herd:
        chronicle = Chronicle(herd)
        moments: dict[str, float] = {}
        for name in ("w3", "w8", "w12"):
            moments[name] = herd.kill(name)
            row.inject(f"SIGKILL {name}")
            await_dead(herd, chronicle, [name], 10)
        found = delays(chronicle, "dead", moments)
        row.felt("verdicts", len(found))
        row.at_most("DEAD everywhere p50", percentile(found, 50), 2.5, "s")
        row.at_most("DEAD everywhere p99", percentile(found, 99), 5, "s")
        row.exactly("DEAD of others", chronicle.count("dead", but=moments), 0)


@pytest.mark.faults
@pytest.mark.row(3, layer="L3")
@pytest.mark.row(6, layer="L3")
def test_a_quarter_dies_and_one_more_during_the_repair(herd_of: HerdOf, row: RowReport) -> None:
    with herd_of(16) as herd:
        chronicle = Chronicle(herd)
        victims = ["w2", "w6", "w9", "w15"]
        start = herd.kill(*victims)
        row.inject(f"SIGKILL {victims} at once")
        herd.until("one component, degree 3-5", lambda: is_repaired(herd, victims), 20)
        row.at_most("one component, degree 3-5 after", time.monotonic() - start, 10, "s")
        await_dead(herd, chronicle, victims, 15)
        herd.kill("w0")
        row.inject("SIGKILL w0, then a new neighbour of one that lost it, as soon as it is dead there")
        second = kill_new_neighbour(herd, "w0")
        start = time.monotonic()
        herd.until("one component, degree 3-5", lambda: is_repaired(herd, [*victims, "w0", second]), 20)
        row.at_most("degree 3-5 again after", time.monotonic() - start, 10, "s")
        waited = herd.until("no half-open link", lambda: not half_open(herd.states()), 20)
        row.at_most("no half-open link after", waited, 10, "s")
        chronicle.read()
        row.exactly("DEAD of others", chronicle.count("dead", but=[*victims, "w0", second]), 0)
        hold_promises(herd, row)


def is_repaired(herd: Herd, dead: Iterable[str]) -> bool:
    """Whether the survivors' graph is whole, and nobody's neighbours are among the dead any more."""
    states = herd.states()
    return is_whole(states) and not any(set(state["neighbours"]) & set(dead) for state in states.values())


def kill_new_neighbour(herd: Herd, dead: str) -> str:
    """Kill whoever takes the place of ``dead`` at one of its neighbours, right after the verdict."""
    before = {name: set(state["neighbours"]) for name, state in herd.states().items()}
    chosen: list[str] = []

    def replaced() -> bool:
        for name, state in herd.states().items():
            fresh = set(state["neighbours"]) - before[name]
            if dead in before[name] and fresh:
                chosen.append(min(fresh))
                return True
        return False

    herd.until("a new neighbour", replaced, 15)
    herd.kill(chosen[0])
    return chosen[0]


@pytest.mark.faults
@pytest.mark.row(5, layer="L3")
def test_all_neighbours_of_one_die(herd_of: HerdOf, row: RowReport) -> None:
    with herd_of(16) as herd:
        chronicle = Chronicle(herd)
        victims = list(herd["w0"].ask("state")["neighbours"])
        start = herd.kill(*victims)
        row.inject(f"SIGKILL {victims}, all neighbours of w0")
        herd.until("degree 3", lambda: degrees(herd.states())["w0"] >= 3, 20)
        row.at_most("degree of w0 >= 3 after", time.monotonic() - start, 10, "s")
        await_dead(herd, chronicle, victims, 45)
        found = delays(chronicle, "dead", dict.fromkeys(victims, start))
        row.at_most("every dead one found after", found[-1], 40, "s")
        row.exactly("DEAD of others", chronicle.count("dead", but=victims), 0)


@pytest.mark.slow
@pytest.mark.row(11, layer="L3")
def test_a_worker_restarts_in_its_place(herd_of: HerdOf, row: RowReport) -> None:
    with herd_of(8) as herd:
        old = herd["w1"].ask("state")["epoch"]
        row.inject("SIGKILL w1, started anew on its ports after 1 s")
        herd.kill("w1")
        time.sleep(1)
        herd.start("w1")
        start = time.monotonic()
        neighbours = herd["w1"].ask("state")["neighbours"]

        def both_ways() -> bool:
            state = herd["w1"].ask("state")
            sent = herd.states(neighbours)
            return all(state["from"].get(name, 0) and sent[name]["out"]["w1"] == "up" for name in neighbours) and all(
                state["out"].get(name) == "up" for name in neighbours
            )

        herd.until("frames both ways", both_ways, 15)
        row.at_most("frames both ways after", time.monotonic() - start, 5, "s")
        herd.until("known", lambda: all_say(herd.states(), ["w1"], "ALIVE"), 10)
        states = herd.states()
        known = {state["epochs"]["w1"] for state in states.values()}
        row.exactly("epochs known of it", len(known), 1)
        row.felt("its epoch rose by", min(known) - old)
        row.note("frames for the old edge", herd.counter("frames_dropped.bad_edge", states))
        row.note("sweep", "not part of this layer: the herd has no torch")
        hold_promises(herd, row)


@pytest.mark.faults
@pytest.mark.row(12, layer="L3")
def test_an_orphan_does_not_keep_its_parent_alive(herd_of: HerdOf, row: RowReport) -> None:
    with herd_of(8) as herd:
        chronicle = Chronicle(herd)
        orphan = herd["w2"].ask("fork", duration=60)["pid"]
        row.inject("w2 forks a child and is killed")
        try:
            moments = {"w2": herd.kill("w2")}
            await_dead(herd, chronicle, ["w2"], 20)
            found = delays(chronicle, "dead", moments)
            row.at_most("DEAD everywhere after", found[-1], 12, "s")
            row.note("the child lives on", Path(f"/proc/{orphan}").exists())
            start = time.monotonic()
            herd.start("w2")
            row.at_most("restart bound after", time.monotonic() - start, 10, "s")
            herd.await_linked(15)
        finally:
            if Path(f"/proc/{orphan}").exists():
                os.kill(orphan, signal.SIGKILL)
