"""Fixtures: runs with made-up numbers, and a whole set of findings."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest

from dagrad_bus.lab.paper.bench import Findings
from dagrad_bus.lab.paper.cells import Request
from dagrad_bus.lab.paper.measuring import Measured
from dagrad_bus.lab.paper.tuning import Tuned

P = 1000
MakeRun = Callable[..., Measured]


def _make_run(**changes: Any) -> Measured:
    values: dict[str, Any] = {
        "workers": 4,
        "steps": 50,
        "parameters": P,
        "accuracies": (0.96, 0.97, 0.97, 0.98),
        "mean_model": 0.98,
        "consensus": 0.02,
        "interface_bytes": 21_000 + 52 * 100,
        "packets": 100,
        "socket_bytes": 20_800,
        "rates": (10.0, 10.0, 10.0, 10.0),
        "median_age": 0.5,
        "mixing": "mixed",
        "curve": ((10, 100.0), (30, 110.0), (50, 120.0)),
        "seconds": 12.0,
    }
    return Measured(**(values | changes))


@pytest.fixture(scope="session", autouse=True)
def warm_fonts() -> None:
    """Draw once first: matplotlib keeps its fonts' files open for the rest of the process."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    axes.set_title("2 · P ↓ $10^3$", fontweight="bold")
    axes.set_xlabel("2 · P ↓ $10^3$")
    figure.savefig(BytesIO(), format="png")


@pytest.fixture
def make_run() -> MakeRun:
    """Return what makes a run of 4 workers and 50 steps; keywords replace its numbers."""
    return _make_run


@pytest.fixture
def findings() -> Findings:
    """Findings of two seeds for sync-ps, gossip-dense, state and local."""
    rules = ("sync-ps", "gossip-dense", "state", "local")
    size = {"sync-ps": 30, "gossip-dense": 40, "state": 1, "local": 0}
    right = {"sync-ps": (0.97, 0.97), "gossip-dense": (0.96, 0.98), "state": (0.968, 0.971), "local": (0.8, 0.9)}

    def make(rule: str, seed: int) -> Measured:
        sent = 20_000 * size[rule] + 100 * seed
        return _make_run(
            workers=2,
            accuracies=right[rule],
            interface_bytes=sent + 52 * 100 + 200,
            socket_bytes=sent + 100,
            rates=(10.0, 9.0 + seed),
            median_age=None if rule == "local" else 0.5,
        )

    return Findings(
        request=Request(workers=2, rules=rules, seeds=(0, 1), steps=50, rates=(0.05, 0.1)).filled(),
        tuner="virtual",
        tuned={rule: Tuned(0.1, {0.05: 0.9, 0.1: 0.95, 0.2: 0.91}, "") for rule in rules},
        measured={rule: (make(rule, 0), make(rule, 1)) for rule in rules},
        further={},
        stragglers={rule: _make_run(workers=2, rates=(5.0, 3.0)) for rule in rules},
        alone=_make_run(workers=1, rates=(12.5,), parameters=0, interface_bytes=None, packets=None, socket_bytes=0),
    )
