"""Fixtures: results with made-up numbers, as a store keeps them; a calibration with made-up numbers."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.lab.ablations import Study
from dagrad_bus.lab.calibration import Calibration, Check
from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.fitting import Observed, Setup
from dagrad_bus.lab.results import Results

MadeUp = Callable[..., dict[str, Any]]
Filled = Callable[..., Results]


@pytest.fixture(scope="session", autouse=True)
def warm_fonts() -> None:
    """Draw once first: matplotlib keeps its fonts' files open for the rest of the process."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure()
    figure.text(0.5, 0.5, "thin")
    figure.text(0.5, 0.4, "bold", fontweight="bold")
    figure.subplots().set_xscale("log")
    figure.savefig(BytesIO())


def _make_up(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "accuracy": 0.9, "worst": 0.8, "std": 0.01, "mean_model": 0.95, "consensus": 0.02, "curve": [],
        "parameters": 8970, "bytes_per_step": 1500.0, "dense_share": 0.02, "rate": 20.0, "efficiency": 1.0,
        "healthy_efficiency": 1.0, "median_age": 0.5, "ages": [1, 2], "skipped": 0.0, "seconds": 10.0, "diverged": False,
    }  # fmt: skip
    return found | changes


@pytest.fixture
def made_up() -> MadeUp:
    """Return a result with made-up numbers, changed as asked for."""
    return _make_up


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    """Return a store with a result for every run of a study; accuracy falls from cell to cell and rises with the seed."""

    def fill(study: Study, seeds: int) -> Results:
        results = Results(tmp_path / "cells.jsonl")
        for place, cell in enumerate(study.cells):
            for experiment in cell.runs(seeds):
                accuracy = 0.9 - 0.01 * place + 0.02 * experiment.seed
                results.put(experiment.key, _make_up(accuracy=accuracy, dense_share=0.01 * (1 + place)))
        return results

    return fill


@pytest.fixture
def calibration() -> Calibration:
    """One fitted run and one that was foretold: rate 2 % too high, bytes 4 % too low, age 5 % too high."""
    setup = Setup(workers=4, steps=40)
    seen = Observed(rate=10.0, bytes_per_step=1000.0, median_age=0.5)
    said = Observed(rate=10.2, bytes_per_step=960.0, median_age=0.525)
    return Calibration(
        machine="a machine", made="2026-01-01", command="dagrad simulate --calibrate", setup=setup, parameters=301_066,
        costs=Costs(compute=0.004, spread=0.2, exchange=0.006, bandwidth=float("inf"), slowdown=setup.slowdown),
        checks=(
            Check(setting="", fitted=True, measured=seen, predicted=seen),
            Check(setting="density=0.04", fitted=False, measured=seen, predicted=said),
        ),
    )  # fmt: skip
