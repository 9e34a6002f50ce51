from __future__ import annotations

import math

import pytest

from dagrad_bus.sim.scale import scale


def test_the_cost_of_a_worker_does_not_grow_with_their_number() -> None:
    small, large = scale(16), scale(48)
    for cost in (small, large):
        assert cost.messages_a_second < 8
        assert cost.bytes_a_second < 2000
        assert cost.last < 6
    assert large.messages_a_second < 1.2 * small.messages_a_second
    assert large.bytes_a_second < 1.2 * small.bytes_a_second


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_thousand_cost_no_more_than_thirty_two() -> None:
    small, large = scale(32), scale(1000)
    assert large.messages_a_second < 1.1 * small.messages_a_second
    assert large.bytes_a_second < 1.1 * small.bytes_a_second
    assert math.isfinite(large.last) and large.last < 6
