"""A running bus, seen from outside: plain data by worker name."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dagrad_bus.faults.inspection import bus_state
from dagrad_bus.faults.versions import layout_of
from dagrad_bus.handoff import BusThread
from dagrad_bus.settings import Settings


@pytest.mark.slow
def test_two_workers_see_each_other(tmp_path: Path, timeout_factor: float) -> None:
    a = Settings(run="r", name="a", members=("a", "b"), key=b"k", directory=tmp_path)
    b = replace(a, name="b")
    with BusThread(a, layout_of(16)) as one, BusThread(b, layout_of(16)):
        deadline = time.monotonic() + 10 * timeout_factor
        while (state := bus_state(one, a))["out"] != {"b": "up"}:
            assert time.monotonic() < deadline, state
            time.sleep(0.01)
        assert state["neighbours"] == ["b"]
        assert state["members"] == {"a": "ALIVE", "b": "ALIVE"}
        assert state["assembly"] == 0 and state["mailbox"] == {"b": 0}
        json.dumps(bus_state(one, a))
