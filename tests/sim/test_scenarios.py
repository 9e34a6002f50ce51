"""Rows of the fault matrix, at their bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dagrad_bus.ids import NodeId
from dagrad_bus.sim import scenarios
from dagrad_bus.sim.scenarios import SCENARIOS, inside, second_eigenvalue
from dagrad_bus.sim.stage import Finding

QUICK = ("crash", "host-loss", "crash-in-repair", "long-pause")

ROWS = {
    "crash": (1,),
    "host-loss": (2,),
    "bereaved": (5,),
    "crash-in-repair": (6,),
    "short-pause": (7,),
    "long-pause": (8,),
    "partition": (13, 14),
    "one-way": (16,),
    "bridge": (17,),
    "wall-clock": (38,),
}
"""Scenarios short enough for several seeds, with their rows."""


def report(found: Finding, properties: Callable[[str, object], None]) -> None:
    """Keep a scenario's figures, and fail where a bound does not hold."""
    for name, value in found.figures.items():
        properties(name, value)
    assert found.ok, found.told()


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_row_holds(name: str) -> None:
    found = SCENARIOS[name](1)
    assert found.ok, found.told()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.row(*rows, layer="L2")) for name, rows in ROWS.items()]
)
def test_a_row_holds(name: str, seed: int, record_property: Callable[[str, object], None]) -> None:
    report(SCENARIOS[name](seed), record_property)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("workers", "share"),
    [
        pytest.param(16, 0.25, marks=pytest.mark.row(3, layer="L2")),
        pytest.param(128, 0.5, marks=pytest.mark.row(4, layer="L2")),
    ],
)
def test_survivors_of_a_mass_crash_find_together(
    workers: int, share: float, record_property: Callable[[str, object], None]
) -> None:
    report(scenarios.mass_crash(0, workers, share), record_property)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.row(15, layer="L2")
def test_a_partition_of_an_hour_heals(record_property: Callable[[str, object], None]) -> None:
    report(scenarios.long_partition(0), record_property)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.row(36, layer="L2")
def test_a_graph_under_churn_stays_whole(record_property: Callable[[str, object], None]) -> None:
    report(scenarios.churn(0, 64, 120.0), record_property)


def test_lambda2_of_known_graphs() -> None:
    nodes = [NodeId(bytes([i]) * 16) for i in range(8)]
    complete = {node: tuple(peer for peer in nodes if peer != node) for node in nodes}
    assert second_eigenvalue(complete) == pytest.approx(0.0, abs=1e-12)
    ring: dict[NodeId, tuple[NodeId, ...]] = {node: (nodes[i - 1], nodes[(i + 1) % 8]) for i, node in enumerate(nodes)}
    assert second_eigenvalue(ring) == pytest.approx((1 + 2 * np.cos(2 * np.pi / 8)) / 3)
    assert second_eigenvalue(dict.fromkeys(nodes, ())) == pytest.approx(1.0)


def test_inside_leaves_out_what_leads_away() -> None:
    a, b, c = (NodeId(bytes([i]) * 16) for i in range(3))
    assert inside({a: (b, c), b: ()}) == {a: (b,), b: (a,)}
