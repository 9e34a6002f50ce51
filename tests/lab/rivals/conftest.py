"""Fixtures of the comparison's tests: trials, outcomes, findings, and small runs of real systems."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.lab.interface import why_not
from dagrad_bus.lab.rivals.environments import DEFAULT_FOLDER, STAMP
from dagrad_bus.lab.rivals.handout import Trial
from dagrad_bus.lab.rivals.outcome import Outcome
from dagrad_bus.lab.rivals.systems import SYSTEMS
from dagrad_bus.lab.rivals.trial import run_trial

MakeTrial = Callable[..., Trial]
MakeOutcome = Callable[..., Outcome]
RunSystem = Callable[..., Outcome]


@pytest.fixture(scope="session")
def warm_figure() -> None:
    """Draw once first: matplotlib keeps its fonts' files open for the rest of the process."""
    from matplotlib.figure import Figure

    figure = Figure()
    figure.text(0, 0, r"plain $x 10^3$ $\mathdefault{10^{4}}$")
    figure.text(0, 0, "bold", fontweight="bold")
    figure.savefig(BytesIO(), format="png")


@pytest.fixture
def make_trial() -> MakeTrial:
    """Return a trial of two workers and twenty steps, but for what is named."""

    def make(system: str = "local", **changes: Any) -> Trial:
        usual: dict[str, Any] = {
            "shards": "iid",
            "seed": 0,
            "lr": 0.05,
            "steps": 20,
            "workers": 2,
            "pace": 0.0,
            "report": "val",
        }
        return Trial(system=system, **{**usual, **changes})

    return make


@pytest.fixture
def make_outcome() -> MakeOutcome:
    """Return an outcome with every number, but for what is named."""

    def make(**changes: Any) -> Outcome:
        usual: dict[str, Any] = {
            "ending": "done", "accuracies": (0.9, 0.8), "steps": 20, "bytes_per_step": 20_000.0,
            "startup_bytes": 5_000.0, "step_ms": 55.0, "step_p50_ms": 54.0, "step_p99_ms": 70.0, "cpu_ms": 8.0,
            "peak_mb": 300.0, "spread": 0.01, "drift": (0.0, 0.05, 0.01), "seconds": 10.0,
        }  # fmt: skip
        return Outcome(**{**usual, **changes})

    return make


@pytest.fixture
def run_system(make_trial: MakeTrial, tmp_path: Path) -> RunSystem:
    """Return what really runs a system in a network of its own; skips where that cannot be, or it is not installed."""
    if reason := why_not():
        pytest.skip(reason)

    def run(system: str, python: str = "", **changes: Any) -> Outcome:
        place = python or _interpreter(SYSTEMS[system].environment)
        return run_trial(make_trial(system, **changes), place, tmp_path / "trial")

    return run


def _interpreter(environment: str) -> str:
    if not environment:
        return sys.executable
    stamp = DEFAULT_FOLDER.expanduser() / environment / STAMP
    if not stamp.exists():
        pytest.skip(f"{environment} is not installed: dagrad bench peers does that")
    found: str = json.loads(stamp.read_text())["found"]["python"]
    return found
