"""Rows of the fault matrix, at their bounds."""

from __future__ import annotations

import numpy as np
import pytest

from dagrad_bus.ids import NodeId
from dagrad_bus.sim import scenarios
from dagrad_bus.sim.scenarios import SCENARIOS, inside, second_eigenvalue

QUICK = ("crash", "host-loss", "crash-in-repair", "long-pause")
BROKEN = {"bridge"}
"""Rows whose bounds do not hold yet."""


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_row_holds(name: str) -> None:
    found = SCENARIOS[name](1)
    assert found.ok, found.told()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", sorted(set(SCENARIOS) - BROKEN - {"long-partition", "churn", "mass-crash"}))
def test_a_row_holds(name: str, seed: int) -> None:
    found = SCENARIOS[name](seed)
    assert found.ok, found.told()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_survivors_of_a_mass_crash_find_together() -> None:
    found = scenarios.mass_crash(0)
    assert found.ok, found.told()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_graph_under_churn_stays_whole() -> None:
    found = scenarios.churn(0, 64, 120.0)
    assert found.ok, found.told()


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
