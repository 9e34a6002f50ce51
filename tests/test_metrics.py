"""Counters rise, gauges are set, histograms hold every value once."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.metrics import AGE_EDGES, Metrics, histogram_median, sum_bins


def test_counters_rise_and_start_at_zero() -> None:
    metrics = Metrics()
    assert metrics["frames"] == 0
    metrics.count("frames")
    metrics.count("frames", 4)
    assert metrics["frames"] == 5


def test_asking_creates_nothing() -> None:
    metrics = Metrics()
    assert metrics["frames"] == 0
    assert metrics.snapshot()["counters"] == {}


def test_a_gauge_holds_its_last_value() -> None:
    metrics = Metrics()
    metrics.gauge("peers", 3)
    metrics.gauge("peers", 2)
    assert metrics.snapshot()["gauges"] == {"peers": 2}


@given(st.lists(st.floats(0, 1e6)))
def test_each_value_falls_into_the_bin_whose_upper_edge_is_the_first_not_below_it(values: list[float]) -> None:
    metrics = Metrics()
    for value in values:
        metrics.observe("age", value)
    bins = metrics.snapshot()["histograms"].get("age", [0] * (len(AGE_EDGES) + 1))
    lows, highs = (-1.0, *AGE_EDGES), (*AGE_EDGES, float("inf"))
    assert bins == [sum(low < v <= high for v in values) for low, high in zip(lows, highs, strict=True)]


def test_a_snapshot_is_a_copy_ready_for_json() -> None:
    metrics = Metrics()
    metrics.count("frames")
    metrics.observe("age", 1.0, edges=(1, 2))
    snapshot = metrics.snapshot()
    metrics.count("frames")
    metrics.observe("age", 1.0, edges=(1, 2))
    assert json.loads(json.dumps(snapshot)) == {
        "counters": {"frames": 1},
        "gauges": {},
        "histograms": {"age": [1, 0, 0]},
    }


@settings(deadline=None)  # a busy machine is no fault
@given(ages=st.lists(st.floats(0, 900), min_size=1, max_size=60))
def test_the_median_of_a_histogram_lies_in_the_bin_of_the_median(ages: list[float]) -> None:
    metrics = Metrics()
    for age in ages:
        metrics.observe("age", age)
    bins = metrics.snapshot()["histograms"]["age"]
    assert isinstance(bins, list)
    found = histogram_median(bins)  # pyright: ignore[reportUnknownArgumentType]  # list of int
    middle = sorted(ages)[(len(ages) - 1) // 2]
    upper = next(edge for edge in AGE_EDGES if middle <= edge)
    lower = max((edge for edge in AGE_EDGES if edge < upper), default=0.0)
    assert found is not None
    assert lower <= found <= upper


def test_an_empty_histogram_has_no_median_and_an_open_one_its_last_edge() -> None:
    assert histogram_median([]) is None
    assert histogram_median([0] * 20) is None
    assert histogram_median([0] * 19 + [5]) == 1024


def test_histograms_add_bin_by_bin() -> None:
    assert sum_bins([[1, 2], [], [10, 20, 30]]) == [11, 22, 30]
