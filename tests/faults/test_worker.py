"""A worker's settings come from plain data; its orders are those it lists; what it leaves behind is found."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from dagrad_bus.faults.worker import ORDERS, encode, leftovers, open_descriptors, rss, settings_of


def test_settings_are_built_from_plain_data() -> None:
    given = {"name": "a", "members": ["a", "b"], "key": "k", "directory": "d", "link": {"window": 2}, "beat": {}}
    made = settings_of(given)
    assert made.members == ("a", "b") and made.key == b"k" and made.directory == Path("d")
    assert made.link.window == 2


def test_every_order_says_what_it_does() -> None:
    assert {"state", "events", "set", "ledger", "values", "hold_lock", "wedge", "fork", "limit", "rewire"} <= set(
        ORDERS
    )
    assert all(order.__doc__ for order in ORDERS.values())
    assert encode(np.arange(2, dtype=np.int64)) == "AAAAAAAAAAABAAAAAAAAAA=="
    assert rss() > 1


@pytest.mark.slow
def test_leftovers_are_named() -> None:
    before = set(open_descriptors())
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left")
    thread.start()
    with Path("/dev/null").open("rb"):
        found = leftovers(before)
    stop.set()
    thread.join()
    assert "left" in found["threads"]
    assert "/dev/null" in found["descriptors"].values()
