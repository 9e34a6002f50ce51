from __future__ import annotations

from itertools import permutations
from math import nan

import pytest

from dagrad_bus.lab.rates import best_rates, beyond

GRID = (0.05, 0.1, 0.2)


def test_the_best_rate_is_that_of_the_highest_accuracy() -> None:
    assert best_rates({0.05: 0.9, 0.1: 0.8, 0.2: 0.91}) == [0.2, 0.05, 0.1]


def test_of_equals_the_rate_in_the_middle_is_taken() -> None:
    assert best_rates(dict.fromkeys(GRID, 0.9))[0] == 0.1


@pytest.mark.parametrize("rates", [(0.05, 0.1), (0.1, 0.05), (0.02, 0.07), (0.0125, 0.025, 0.05, 0.1)])
def test_of_two_equals_as_near_to_the_middle_the_lower_is_taken(rates: tuple[float, ...]) -> None:
    first, second = best_rates(dict.fromkeys(rates, 0.9))[:2]
    assert first < second


@pytest.mark.parametrize("accuracies", list(permutations((0.7, 0.9, nan, None, 0.8))))
def test_one_that_diverged_or_failed_is_behind_all_others(accuracies: tuple[float | None, ...]) -> None:
    tried = dict(zip((0.02, 0.05, 0.1, 0.2, 0.4), accuracies, strict=True))
    assert [tried[rate] for rate in best_rates(tried)[:3]] == [0.9, 0.8, 0.7]


@pytest.mark.parametrize(
    ("accuracies", "further"),
    [
        ((0.9, 0.8, 0.7), [0.025]), ((0.7, 0.8, 0.9), [0.4]), ((0.7, 0.9, 0.8), []), ((0.9, 0.8, 0.9), [0.025, 0.4]),
        ((0.9, 0.9, 0.9), [0.025, 0.4]), ((None, 0.9, nan), []), ((nan, None, nan), []), ((None, 0.8, 0.9), [0.4]),
    ],
)  # fmt: skip
def test_beyond_an_edge_that_no_rate_beats_there_is_one_to_try(
    accuracies: tuple[float | None, ...], further: list[float]
) -> None:
    assert beyond(dict(zip(GRID, accuracies, strict=True))) == further


def test_a_step_beyond_an_edge_is_as_wide_as_the_last_one() -> None:
    assert beyond({0.02: 0.9, 0.05: 0.8, 0.1: 0.9}) == [0.008, 0.2]


def test_one_rate_has_no_edge() -> None:
    assert beyond({0.1: 0.9}) == []
