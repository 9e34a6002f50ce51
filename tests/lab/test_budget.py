from __future__ import annotations

from dataclasses import replace

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.ablations import COSTS, EXCHANGE
from dagrad_bus.lab.budget import bytes_a_step, fit_density
from dagrad_bus.lab.experiment import Experiment, run_experiment

P = 8970


@pytest.mark.parametrize("exchange", [EXCHANGE, replace(EXCHANGE, block=16, density=0.05, fanout=1)])
def test_the_sum_is_what_a_run_sends(exchange: object) -> None:
    experiment = Experiment(workers=3, steps=6, lr=0.1, exchange=exchange, costs=COSTS)  # type: ignore[arg-type]
    found = run_experiment(experiment)
    assert found.bytes_per_step == pytest.approx(bytes_a_step(P, experiment.exchange, 2, COSTS.compute), rel=0.08)


@pytest.mark.parametrize("changes", [{"interval": 4}, {"fanout": 1}, {"wire": "bf16"}, {"block": 8}, {}])
def test_a_fitted_density_costs_the_same(changes: dict[str, object]) -> None:
    wanted = bytes_a_step(P, EXCHANGE, 4, 0.05)
    settings = replace(EXCHANGE, **changes)  # type: ignore[arg-type]
    density = fit_density(P, settings, wanted, 4, 0.05)
    assert bytes_a_step(P, replace(settings, density=density), 4, 0.05) == pytest.approx(wanted, rel=0.05)


def test_fewer_exchanges_leave_room_for_larger_frames() -> None:
    wanted = bytes_a_step(P, EXCHANGE, 4, 0.05)
    found = [fit_density(P, replace(EXCHANGE, interval=interval), wanted, 4, 0.05) for interval in (1, 2, 4)]
    assert found[0] == pytest.approx(EXCHANGE.density, rel=0.05)
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize("wanted", [100.0, 1e9])
def test_what_no_density_costs_is_an_error(wanted: float) -> None:
    with pytest.raises(UsageError, match="no density of block 0, interval 1"):
        fit_density(P, EXCHANGE, wanted, 4, 0.05)
