from __future__ import annotations

import pytest

from dagrad_bus.lab.rates import best_rates

GRID = (0.05, 0.1, 0.2)


def test_the_best_rate_is_that_of_the_highest_accuracy() -> None:
    assert best_rates({0.05: 0.9, 0.1: 0.8, 0.2: 0.91}) == [0.2, 0.05, 0.1]


def test_of_equals_the_rate_in_the_middle_is_taken() -> None:
    assert best_rates(dict.fromkeys(GRID, 0.9))[0] == 0.1


@pytest.mark.parametrize("rates", [(0.05, 0.1), (0.1, 0.05), (0.02, 0.07), (0.0125, 0.025, 0.05, 0.1)])
def test_of_two_equals_as_near_to_the_middle_the_lower_is_taken(rates: tuple[float, ...]) -> None:
    first, second = best_rates(dict.fromkeys(rates, 0.9))[:2]
    assert first < second
