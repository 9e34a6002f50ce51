"""What the parts share: draws are within bounds and without repetition."""

from __future__ import annotations

import numpy as np

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.context import Context
from dagrad_bus.messages import MemberState, Record
from dagrad_bus.settings import BeatSettings

ME = Record(NodeId(b"m" * 16), 1, 0, MemberState.ALIVE, name="m")


def test_draws() -> None:
    context = Context(ME, BeatSettings(), np.random.default_rng(0))
    assert sorted(context.some(range(3), 5)) == [0, 1, 2]
    for _ in range(20):
        drawn = context.some(range(10), 3)
        assert len(set(drawn)) == 3 and set(drawn) <= set(range(10))
        assert 0 <= context.spread(2.0) < 2.0
        assert 0 < context.nonce() < 1 << 63
    assert context.some((), 3) == []
