"""Rows 7 to 10 and 41: processes that stand still, wholly or in part, and come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

import pytest

from dagrad_bus.faults import ledger
from dagrad_bus.faults.census import Chronicle, all_say
from dagrad_bus.faults.herd import Herd
from dagrad_bus.faults.rows import RowReport

HerdOf = Callable[..., AbstractContextManager[Herd]]
pytestmark = pytest.mark.timeout(240)
PATIENCE = 8.0
"""Seconds without a step from which on training counts as wedged here; 60 by default."""
PERIOD = 6.4
"""Seconds in which a link sees every block."""


@pytest.fixture(scope="module")
def herd(herd_of: HerdOf) -> Generator[Herd]:
    """Sixteen workers; every row leaves them well but the last one."""
    with herd_of(16, change={"beat": {"wedged": PATIENCE}}) as found:
        time.sleep(3)  # heartbeats have been heard: silence is judged by their rhythm
        yield found


@pytest.mark.slow
@pytest.mark.row(7, layer="L3")
def test_a_short_pause_kills_nobody(herd: Herd, row: RowReport) -> None:
    chronicle = Chronicle(herd)
    row.inject("SIGSTOP w5, CONT after 2 s")
    step = herd["w5"].ask("state")["step"]
    herd["w5"].signal(signal.SIGSTOP)
    time.sleep(2)
    herd["w5"].signal(signal.SIGCONT)
    herd.until("well", lambda: all_say(herd.states(), herd.names, "ALIVE"), 10)
    time.sleep(2)
    chronicle.read()
    row.felt("longest step", herd["w5"].ask("state")["late_max"] - 1900)
    row.felt("steps since", herd["w5"].ask("state")["step"] - step)
    row.exactly("DEAD", chronicle.count("dead"), 0)
    row.at_most("SUSPECT", chronicle.count("suspect"), 4)
    row.exactly("not refuted", all_say(herd.states(), herd.names, "ALIVE"), True)
    states = ledger.settle(herd, 15)
    row.exactly("links that break BV", ledger.broken_links(herd), {})
    row.exactly("frames that break ONE", sum(ledger.wrong_frames(states).values()), 0)
    herd.ask_all("set", quiet=False)


@pytest.mark.faults
@pytest.mark.row(9, layer="L3")
def test_a_held_interpreter_lock_kills_nobody(herd: Herd, row: RowReport) -> None:
    chronicle = Chronicle(herd)
    row.inject("w7 holds its interpreter lock for 4 s")
    herd["w7"].ask("hold_lock", duration=4.0)
    herd.until("reported", lambda: herd["w7"].ask("state")["metrics"]["gauges"]["loop_lag_ms"] > 1000, 2)
    lag = herd["w7"].ask("state")["metrics"]["gauges"]["loop_lag_ms"] / 1000
    row.at_least("loop lag reported", lag, 3.5, "s")
    herd.until("well", lambda: all_say(herd.states(), herd.names, "ALIVE"), 10)
    time.sleep(3)
    chronicle.read()
    row.note("SUSPECT", chronicle.count("suspect"))
    row.exactly("DEAD", chronicle.count("dead"), 0)


@pytest.mark.faults
@pytest.mark.row(8, layer="L3")
def test_a_long_pause_ends_in_a_return(herd: Herd, row: RowReport) -> None:
    chronicle = Chronicle(herd)
    others = [name for name in herd.names if name != "w4"]
    before = herd["w4"].ask("state")
    row.inject("SIGSTOP w4, CONT after 20 s")
    herd["w4"].signal(signal.SIGSTOP)
    start = time.monotonic()
    herd.until("dead everywhere", lambda: all_say(herd.states(others), ["w4"], "DEAD"), 20)
    row.note("DEAD everywhere after", time.monotonic() - start, "s")
    time.sleep(max(0.0, 20 - (time.monotonic() - start)))
    resumed = herd["w4"].signal(signal.SIGCONT)
    herd.until("back", lambda: all_say(herd.states(others), ["w4"], "ALIVE"), 15)
    row.at_most("back after CONT", time.monotonic() - resumed, 5, "s")
    herd.await_linked(15)
    chronicle.read()
    after = herd["w4"].ask("state")
    row.exactly("same epoch", after["epoch"], before["epoch"])
    row.felt("incarnation rose by", after["incarnations"]["w4"] - before["incarnations"]["w4"])
    row.exactly(
        "whom w4 declared dead", [e.member for e in chronicle.events if e.observer == "w4" and e.kind == "dead"], []
    )
    row.exactly("DEAD of others", chronicle.count("dead", but=["w4"]), 0)
    took, share = ledger.await_agreement(herd, 1e-3, 3 * PERIOD)
    row.at_most("spread", share, 1e-3)
    row.at_most("reconverged after", took, 2 * PERIOD, "s")
    herd.ask_all("set", frozen=False)


BURNERS = 4
"""They leave the workers about a twentieth of the core."""


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for priorities")
@pytest.mark.row(41, layer="L3")
def test_starved_processes_condemn_nobody(herd_of: HerdOf, row: RowReport) -> None:
    with herd_of(16, start=False) as herd:
        herd.start(cores=[0])
        herd.await_linked(40)
        chronicle = Chronicle(herd)
        code = "import os; os.sched_setaffinity(0, [0]); os.nice(-20)\nwhile True: pass"
        burners = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(BURNERS)]
        try:
            row.inject(f"16 workers and {BURNERS} busy loops of the highest priority on one core, 30 s")
            health, states = 0, herd.states()
            for _ in range(15):
                time.sleep(2)
                states = herd.ask_all("state", seconds=60)
                health = max(health, *(state["health"] for state in states.values()))
        finally:
            for burner in burners:
                burner.kill()
                burner.wait()
        herd.until("well", lambda: all_say(herd.states(), herd.names, "ALIVE"), 30)
        chronicle.read()
        row.felt("loop lag", max(state["metrics"]["gauges"]["loop_lag_ms"] for state in states.values()))
        row.felt("health score", health)
        row.exactly("DEAD", chronicle.count("dead"), 0)
        row.note("SUSPECT, all refuted", chronicle.count("suspect"))


@pytest.mark.faults
@pytest.mark.row(10, layer="L3")
def test_a_wedged_trainer_is_told_from_a_dead_one(herd: Herd, row: RowReport) -> None:
    chronicle = Chronicle(herd)
    neighbours = herd["w6"].ask("state")["neighbours"]
    herd.note_exits()
    others = [name for name in herd.running if name != "w6"]
    row.inject(f"w6 never returns from a step; patience {PATIENCE} s instead of 60")
    herd["w6"].tell("wedge")
    start = time.monotonic()

    def told() -> bool:
        chronicle.read(others)
        return set(chronicle.first("wedged", "w6")) >= set(neighbours)

    herd.until("wedged at its neighbours", told, PATIENCE + 10)
    row.at_most("WEDGED after", time.monotonic() - start, PATIENCE + 2 * 1.1, "s")
    jobs = {name: state["jobs"]["w6"] for name, state in herd.states(neighbours).items()}
    time.sleep(2)
    states = herd.states(neighbours)
    row.exactly("edge kept", all("w6" in state["neighbours"] for state in states.values()), True)
    row.exactly("still granted credit", [name for name in neighbours if states[name]["links"]["w6"][0]], [])
    row.exactly("further jobs", sum(states[name]["jobs"]["w6"] - jobs[name] for name in neighbours), 0)
    row.exactly("DEAD", chronicle.count("dead"), 0)
    herd.kill("w6")
