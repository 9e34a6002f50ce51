from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.workers.launch.lease import Lease

GAPS = st.lists(st.tuples(st.floats(0.01, 100), st.sampled_from(["renew", "end"])), max_size=20)


@settings(max_examples=50)
@given(st.floats(0.1, 100), GAPS)
def test_a_lease_runs_out_so_long_after_the_last_order_whatever_became_of_the_stream(
    seconds: float, gaps: list[tuple[float, str]]
) -> None:
    now = last = 5.0
    lease = Lease(seconds, now)
    for gap, event in gaps:
        now += gap
        if event == "renew":
            lease.renew(now)
            last = now
        else:
            lease.end_stream(now)
        assert lease.due == last + seconds
        assert lease.is_expired(lease.due) and not lease.is_expired(math.nextafter(lease.due, 0))


@settings(max_examples=50)
@given(GAPS)
def test_without_seconds_only_an_ended_stream_counts(gaps: list[tuple[float, str]]) -> None:
    now, lease, ended = 0.0, Lease(0, 0), False
    for gap, event in gaps:
        now += gap
        lease.renew(now) if event == "renew" else lease.end_stream(now)
        ended = event == "end"
        assert lease.is_expired(now) == ended


@settings(max_examples=20)
@given(st.floats(-100, -0.001), GAPS)
def test_a_negative_lease_never_runs_out(seconds: float, gaps: list[tuple[float, str]]) -> None:
    lease = Lease(seconds, 0)
    for gap, event in gaps:
        lease.renew(gap) if event == "renew" else lease.end_stream(gap)
    assert lease.due == math.inf
    assert not lease.is_expired(1e18)


def test_a_launcher_that_comes_back_may_give_another_lease() -> None:
    lease = Lease(-1, 0)
    lease.end_stream(1)
    lease.renew(5, seconds=60)
    assert lease.due == 65
    lease.renew(6)
    assert lease.due == 66
