from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId
from dagrad_bus.peers import PeerChoice, RandomChoice

PEERS = [NodeId(bytes([i]) * 16) for i in range(8)]


def chooser(seed: int) -> PeerChoice:
    return RandomChoice(np.random.default_rng(seed))


@given(st.lists(st.sampled_from(PEERS), unique=True), st.integers(0, 10), st.integers(0, 2**32 - 1))
def test_a_choice_is_a_subset_in_order_of_the_size_asked(ready: list[NodeId], fanout: int, seed: int) -> None:
    chosen = chooser(seed).choose(ready, fanout)
    assert list(chosen) == [peer for peer in ready if peer in chosen]
    assert len(chosen) == (min(fanout, len(ready)) if fanout else len(ready))


def test_equal_seeds_choose_alike() -> None:
    first, second = chooser(7), chooser(7)
    assert [first.choose(PEERS, 2) for _ in range(50)] == [second.choose(PEERS, 2) for _ in range(50)]


def test_every_set_of_peers_is_equally_likely() -> None:
    choice = chooser(1)
    seen = Counter(choice.choose(PEERS[:4], 2) for _ in range(6000))
    assert set(seen) == set(combinations(PEERS[:4], 2))
    assert all(abs(count - 1000) < 150 for count in seen.values())  # five standard deviations


def test_no_chance_is_used_where_there_is_nothing_to_choose() -> None:
    first, second = chooser(3), chooser(3)
    first.choose(PEERS, 0)
    first.choose(PEERS[:2], 2)
    assert first.choose(PEERS, 3) == second.choose(PEERS, 3)


def test_a_negative_fanout_is_refused() -> None:
    with pytest.raises(UsageError, match="fanout is -1"):
        chooser(0).choose(PEERS, -1)
