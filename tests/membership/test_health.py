"""Local health: incidents add points, clean time takes them off."""

from __future__ import annotations

import pytest

from dagrad_bus.membership.health import WORST, Health


def test_it_is_bounded_and_recovers_a_point_each_5_s() -> None:
    health = Health()
    health.worsen(9, 0.0)
    assert health.score == WORST and health.factor == 8
    health.recover(4.9)
    assert health.score == WORST
    health.recover(10.0)
    assert health.score == WORST - 2
    health.worsen(1, 11.0)
    health.recover(15.9)
    assert health.score == WORST - 1
    health.recover(1000.0)
    assert health.score == 0 and health.factor == 1


@pytest.mark.parametrize(("lag", "score"), [(0.1, 0), (0.6, 1), (1.9, 1), (2.1, 2)])
def test_a_late_loop_counts(lag: float, score: int) -> None:
    health = Health()
    health.lagged(lag, 0.0)
    assert health.score == score
