from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dagrad_bus.affinity import Affinity
from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId
from dagrad_bus.peers import TEMPERATURE, Explorer, PeerChoice, RandomChoice, ScoredChoice, make_choice

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


def scored(scores: list[float], seed: int = 0, **options: float) -> ScoredChoice:
    return ScoredChoice(lambda ready: np.array(scores)[: len(ready)], np.random.default_rng(seed), **options)


@given(st.lists(st.sampled_from(PEERS), unique=True), st.integers(0, 10), st.integers(0, 2**32 - 1))
def test_a_scored_choice_is_a_subset_in_order_of_the_size_asked(ready: list[NodeId], fanout: int, seed: int) -> None:
    chosen = scored([0.1 * i for i in range(8)], seed).choose(ready, fanout)
    assert list(chosen) == [peer for peer in ready if peer in chosen]
    assert len(chosen) == (min(fanout, len(ready)) if fanout else len(ready))


def test_equal_scores_are_a_uniform_choice() -> None:
    choice = scored([0.7] * 4, exploration=0.0)
    seen = Counter(choice.choose(PEERS[:4], 2) for _ in range(6000))
    assert set(seen) == set(combinations(PEERS[:4], 2))
    assert all(abs(count - 1000) < 150 for count in seen.values())


@pytest.mark.parametrize("fanout", [1, 2])
def test_weights_are_those_of_the_scores_and_the_lowest_gets_at_most_the_uniform_share(fanout: int) -> None:
    choice = scored([1.0, 0.5, 0.0, 0.0], exploration=0.1)
    draws = 6000
    seen = Counter(peer for _ in range(draws) for peer in choice.choose(PEERS[:4], fanout))
    counts = [seen[peer] / draws for peer in PEERS[:4]]
    assert counts[0] > counts[1] > max(counts[2:]) and fanout / 4 > max(counts[2:])
    if fanout == 1:
        weights = np.exp(np.array([1.0, 0.5, 0.0, 0.0]) / TEMPERATURE)
        np.testing.assert_allclose(counts, 0.9 * weights / weights.sum() + 0.1 / 4, atol=0.03)


def test_scores_are_asked_only_where_there_is_something_to_choose() -> None:
    def refuse(ready: Sequence[NodeId]) -> NDArray[np.float64]:
        raise AssertionError("nobody should ask")

    choice = ScoredChoice(refuse, np.random.default_rng(0))
    assert choice.choose(PEERS, 0) == tuple(PEERS)
    assert choice.choose(PEERS[:2], 2) == tuple(PEERS[:2])
    with pytest.raises(UsageError, match="fanout is -1"):
        choice.choose(PEERS, -1)


def test_each_name_has_its_choice() -> None:
    affinity, rng = Affinity(), np.random.default_rng(0)
    assert isinstance(make_choice("random", affinity, rng), RandomChoice)
    for name in ("complementary", "similar"):
        assert isinstance(make_choice(name, affinity, rng), ScoredChoice)


def test_explored_members_stay_for_a_period() -> None:
    explorer = Explorer(chooser(2), 2, period=60.0)
    assert explorer.renew(PEERS, 0.0) and len(explorer.wanted) == 2
    first = explorer.wanted
    assert not explorer.renew(PEERS, 59.9) and explorer.wanted == first
    assert explorer.renew(PEERS, 60.0)


def test_an_explored_member_that_has_gone_is_replaced_and_new_ones_fill_the_set() -> None:
    explorer = Explorer(chooser(2), 2)
    explorer.renew([], 0.0)
    assert not explorer.wanted
    assert explorer.renew(PEERS[:1], 1.0) and list(explorer.wanted) == PEERS[:1]
    assert not explorer.renew(PEERS[:1], 2.0)
    assert explorer.renew(PEERS[:3], 3.0) and len(explorer.wanted) == 2
    rest = [peer for peer in PEERS if peer != explorer.wanted[0]]
    assert explorer.renew(rest, 4.0) and set(explorer.wanted) <= set(rest)


def test_who_explores_nobody_is_never_told_to() -> None:
    explorer = Explorer(chooser(2), 0)
    assert not explorer.renew(PEERS, 0.0) and explorer.wanted == ()
