from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.costs import Costs


@pytest.mark.parametrize(
    "wrong",
    [
        {"compute": 0.0},
        {"spread": -1.0},
        {"bandwidth": 0.0},
        {"latency": math.inf},
        {"swing": 1.0},
        {"swing_period": 0.0},
        {"tail_index": 0.0},
        {"slowdown": {0: 0.0}},
    ],
)
def test_a_cost_out_of_range_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Costs(**wrong)


def test_steps_without_spread_take_the_median() -> None:
    rng = np.random.default_rng(0)
    assert Costs(compute=0.2, spread=0.0).step_time(0, rng) == 0.2


def test_the_median_step_is_the_median_whatever_the_spread() -> None:
    rng = np.random.default_rng(1)
    drawn = [Costs(compute=0.2, spread=0.3).step_time(0, rng) for _ in range(4001)]
    assert np.median(drawn) == pytest.approx(0.2, rel=0.03)


def test_a_straggler_takes_its_factor_longer() -> None:
    costs = Costs(compute=0.1, spread=0.0, slowdown={3: 4.0})
    rng = np.random.default_rng(0)
    assert costs.step_time(3, rng) == pytest.approx(0.4)
    assert costs.step_time(2, rng) == pytest.approx(0.1)


def test_a_card_without_limit_costs_no_time() -> None:
    assert Costs(bandwidth=math.inf).transfer_time(1 << 30, 0, 0.0) == 0.0


def test_bandwidth_swings_around_its_mean() -> None:
    costs = Costs(bandwidth=1e6, swing=0.5, swing_period=1.0)
    times = [costs.transfer_time(1_000_000, 0, now) for now in np.linspace(0, 1, 1000, endpoint=False)]
    assert min(times) == pytest.approx(1 / 1.5, rel=0.01)
    assert max(times) == pytest.approx(2.0, rel=0.01)


def test_a_boundary_costs_its_own_time_and_that_of_its_bytes() -> None:
    assert Costs(exchange=0.001, exchange_byte=1e-9).boundary_time(1_000_000) == pytest.approx(0.002)


def test_flights_have_a_floor_and_a_heavy_tail() -> None:
    rng = np.random.default_rng(2)
    flights = [Costs(latency=0.01, tail=0.02, tail_index=1.5).flight_time(rng) for _ in range(5000)]
    assert min(flights) >= 0.01
    assert max(flights) > 0.5
    assert Costs(latency=0.01).flight_time(rng) == 0.01
