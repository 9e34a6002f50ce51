"""Rows of the fault matrix that are a fault class of the simulator: only that one, harder than a swarm draws it."""

from __future__ import annotations

from typing import Any

import pytest

from dagrad_bus.faults.rows import RowReport
from dagrad_bus.sim import run as runs
from dagrad_bus.sim.options import Options
from dagrad_bus.sim.run import run

SEEDS = 6
PASSIVE = {("latency",)}
"""Classes that are a state of the world and no event; every event happened in it."""
SWARMS: dict[int, dict[str, Any]] = {
    11: {"faults": ("crash", "restart"), "crash": 0.03},
    20: {"faults": ("latency",), "latency": 0.5},
    21: {"faults": ("reset",), "reset": 0.2},
    25: {"faults": ("nocredit",)},
    26: {"faults": ("slowreader",)},
    35: {"faults": ("leave", "join")},
    37: {"faults": ("rewire", "leave", "join", "drop"), "drop": 0.3},
    42: {
        "faults": ("latency", "reset", "hang", "partition", "drop", "crash", "restart", "pause", "slowreader", "leave")
    },
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "given"),
    [pytest.param(n, given, marks=pytest.mark.row(n, layer="L2"), id=f"row {n}") for n, given in SWARMS.items()],
)
def test_one_fault_class_breaks_no_promise(number: int, given: dict[str, Any], row: RowReport) -> None:
    felt = broken = 0
    for seed in range(SEEDS):
        result = run(Options(seed, workers=10, horizon=60.0, **given))
        felt += sum(result.felt.values()) or result.events * (given["faults"] in PASSIVE)
        broken += not result.ok
        if not result.ok:
            row.inject(result.told())
    row.felt("faults", felt)
    row.at_most("violations", broken, 0)
    row.note("seeds", SEEDS)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.row(34, layer="L2")
def test_a_start_that_takes_a_minute_accuses_nobody(monkeypatch: pytest.MonkeyPatch, row: RowReport) -> None:
    monkeypatch.setattr(runs, "SKEW", 60.0)
    results = [run(Options(seed, workers=16, horizon=90.0)) for seed in range(3)]
    row.at_most("violations", sum(not result.ok for result in results), 0)
    row.note("seeds", len(results))
