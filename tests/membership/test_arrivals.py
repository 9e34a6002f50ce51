"""The bound on silence follows the arrivals, within its limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.membership.arrivals import WINDOW, Arrivals


def test_before_any_gap_the_interval_is_believed() -> None:
    assert Arrivals(1.0).suspect_after(3.0, 10.0) == pytest.approx(1.0 + 0.4 + 2.0)


@settings(max_examples=50)
@given(st.lists(st.floats(0.001, 8.0), min_size=1, max_size=3 * WINDOW))
def test_the_bound_is_that_of_the_last_64_gaps(gaps: list[float]) -> None:
    arrivals = Arrivals(1.0)
    for gap in gaps:
        arrivals.add(gap)
    last = np.array(gaps[-WINDOW:])
    expected = last.mean() + 4 * max(last.std(), 0.1) + 2.0
    assert len(arrivals) == len(last)
    assert arrivals.suspect_after(0.0, 1e9) == pytest.approx(expected, abs=1e-3)
    assert 3.0 <= arrivals.suspect_after(3.0, 10.0) <= 10.0
