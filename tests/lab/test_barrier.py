"""Closed forms of what a barrier costs."""

from __future__ import annotations

import math

import pytest

from dagrad_bus.lab.barrier import Barrier, expected_efficiency
from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.parcels import Parcels
from dagrad_bus.lab.scenario import Scenario, Timing

COMPUTE = 0.1


def time_rounds(parts: int, *, workers: int = 9, each: float = 0.0, **more: float) -> Timing:
    """Time ``sync-ps`` whose frames occupy a card for ``each`` seconds."""
    bandwidth = 1e6 / each if each else math.inf
    costs = Costs(compute=COMPUTE, spread=more.get("spread", 0.0), bandwidth=bandwidth, latency=0.0)
    scenario = Scenario(rule="sync-ps", workers=workers, costs=costs, steps=int(more.get("steps", 30)), warmup=3)
    return Barrier(scenario, Parcels(1e6, parts)).run()


@pytest.mark.parametrize("workers", [2, 8, 64])
def test_with_free_bytes_the_slowest_of_all_decides(workers: int) -> None:
    found = time_rounds(1, workers=workers, spread=0.3, steps=2000)
    assert found.efficiency == pytest.approx(expected_efficiency(0.3, workers, draws=200_000), rel=0.02)
    assert found.median_age == 0.0


def test_the_law_of_the_largest_knows_its_extremes() -> None:
    assert expected_efficiency(0.0, 128) == 1.0
    assert expected_efficiency(0.3, 1) == pytest.approx(1.0, rel=0.01)
    assert expected_efficiency(0.3, 512) < expected_efficiency(0.3, 8) < 0.8


@pytest.mark.parametrize("others", [1, 4, 31])
def test_a_model_of_one_frame_takes_one_transfer_of_each_worker_and_one_more(others: int) -> None:
    """Who was answered first computes and pushes while others are being answered."""
    found = time_rounds(1, workers=others + 1, each=0.01)
    assert 1 / found.rate == pytest.approx(COMPUTE + (others + 1) * 0.01)


@pytest.mark.parametrize(("parts", "others"), [(4, 8), (13, 31), (2, 2)])
def test_a_model_of_many_frames_crosses_the_servers_card_twice_for_each_worker(parts: int, others: int) -> None:
    found = time_rounds(parts, workers=others + 1, each=0.001)
    took = 1 / found.rate
    assert took == pytest.approx(COMPUTE + ((2 * parts - 1) * others + 1) * 0.001)
    assert took >= (2 - 1 / parts) * others * parts * 0.001


def test_every_worker_waits_for_a_straggler() -> None:
    costs = Costs(compute=COMPUTE, spread=0.0, slowdown={3: 5.0}, bandwidth=math.inf, latency=0.0)
    found = Barrier(Scenario(rule="sync-ps", workers=8, costs=costs), Parcels(1e3, 1)).run()
    assert found.healthy_efficiency == pytest.approx(1 / 5)
    assert found.rate == pytest.approx(1 / (5 * COMPUTE))


def test_a_ring_moves_twice_the_model_over_each_card() -> None:
    costs = Costs(compute=COMPUTE, spread=0.0, bandwidth=1e9, latency=0.001)
    scenario = Scenario(rule="all-reduce", workers=16, parameters=10_000_000, costs=costs)
    found = Barrier(scenario, Parcels(0.0, 0)).run()
    share = 15 / 16
    assert 1 / found.rate == pytest.approx(COMPUTE + 2 * share * 4e7 / 1e9 + 30 * 0.001)
    assert found.dense_share == pytest.approx(share)


def test_both_ways_of_all_workers_are_counted() -> None:
    found = time_rounds(2, workers=9)
    assert found.bytes_per_step == pytest.approx(2 * 8 / 9 * 2e6, rel=0.01)  # receipts and heartbeats are the rest


def test_who_leaves_never_comes_back() -> None:
    costs = Costs(compute=COMPUTE, spread=0.0, bandwidth=math.inf, latency=0.0)
    found = Barrier(Scenario(rule="sync-ps", workers=21, costs=costs, churn=0.5, warmup=0), Parcels(1e3, 1)).run()
    assert 0.6 < found.efficiency < 0.9  # ten of 21 miss half of the run, on average


def test_one_worker_alone_waits_for_nobody() -> None:
    found = time_rounds(3, workers=1, each=1.0)
    assert found.efficiency == pytest.approx(1.0)
    assert found.bytes_per_step == 0.0
    assert found.median_age is None
