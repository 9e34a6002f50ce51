"""Bounds of a scenario; quantiles of ages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.scenario import AgeTally, Scenario, mean_of


@pytest.mark.parametrize(
    "wrong",
    [{"rule": "nonsense"}, {"workers": 0}, {"parameters": 0}, {"steps": 0}, {"churn": 1.0}, {"away": 0}, {"pace": -1}],
)
def test_a_value_out_of_its_bounds_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Scenario(**wrong)


def test_a_rule_with_a_server_links_everybody() -> None:
    assert Scenario(rule="sync-ps", workers=9).links == 8
    assert Scenario(rule="state", workers=9).links == 4
    assert Scenario(rule="state", workers=3).links == 2
    assert Scenario(rule="local", workers=9).links == 0


def test_quantiles_are_those_of_the_values() -> None:
    ages = np.random.default_rng(0).lognormal(1, 1, 20_000)
    tally = AgeTally()
    for age in ages:
        tally.add(float(age))
    assert tally.quantile(0.5) == pytest.approx(np.median(ages), rel=0.03)
    assert tally.quantile(0.99) == pytest.approx(np.quantile(ages, 0.99), rel=0.03)
    assert sum(tally.bins) == len(ages)


def test_no_age_has_no_quantile() -> None:
    assert AgeTally().quantile(0.5) is None
    assert mean_of([]) == 0.0
