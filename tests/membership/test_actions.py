"""Actions are values: they compare by what they say, and cannot be changed on their way."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from dagrad_bus.ids import NodeId
from dagrad_bus.membership import Healed, MemberChanged, NeighboursChanged

A, B = NodeId(b"a" * 16), NodeId(b"b" * 16)


def test_actions_compare_by_content() -> None:
    assert NeighboursChanged((A, B), (B,), ()) == NeighboursChanged((A, B), (B,), ())
    assert Healed((A,), 1.0) != Healed((B,), 1.0)


def test_actions_are_frozen() -> None:
    change = MemberChanged(A, "a", "alive", "dead", "silent")
    with pytest.raises(FrozenInstanceError):
        change.new = "alive"  # type: ignore[misc]
