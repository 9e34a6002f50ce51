"""Deadlines: the earliest is known at any time, and what is due comes in order."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.membership.agenda import Agenda


def test_one_time_a_name() -> None:
    agenda = Agenda()
    agenda.put("a", 5.0)
    agenda.put("a", 7.0)
    assert agenda.due == agenda["a"] == 7.0
    agenda.sooner("a", 9.0)
    assert agenda["a"] == 7.0
    agenda.sooner("a", 6.0)
    assert agenda["a"] == 6.0
    agenda.drop("a")
    assert agenda.due == agenda["a"] == math.inf


@settings(max_examples=50)
@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 100)), st.floats(0, 100))
def test_what_is_due_comes_in_order_and_once(times: dict[str, float], now: float) -> None:
    agenda = Agenda()
    for name, at in times.items():
        agenda.put(name, at)
    due = agenda.take(now)
    assert due == [name for _, name in sorted((at, name) for name, at in times.items() if at <= now)]
    assert agenda.take(now) == []
    assert agenda.due == min((at for at in times.values() if at > now), default=math.inf)
