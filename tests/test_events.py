"""The vocabulary between the cores, the bus and the training thread."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from dagrad_bus import events
from dagrad_bus.events import LinkState, Outcome, Selection, View
from dagrad_bus.ids import JobId, NodeId


def test_all_of_it_is_immutable() -> None:
    kinds = [kind for kind in vars(events).values() if getattr(kind, "__module__", "") == events.__name__]
    assert len(kinds) >= 10
    assert all(kind.__dataclass_params__.frozen for kind in kinds)
    with pytest.raises(FrozenInstanceError):
        View(()).links = ()  # type: ignore[misc]  # that is the point


def test_facts_are_compared_by_value_and_buffers_by_identity() -> None:
    peer = NodeId(bytes(16))
    assert Outcome(JobId(1), peer, True) == Outcome(JobId(1), peer, True)
    assert LinkState(peer, True, 1) != LinkState(peer, True, 2)
    indices, values = np.arange(2), np.zeros((2, 1), dtype=np.float32)
    assert Selection(indices, values) != Selection(indices, values)
