"""Who looks complementary, and who must not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dagrad_bus.affinity import APART, PANEL, Affinity, compare
from dagrad_bus.ids import NodeId
from dagrad_bus.peers import ScoredChoice
from dagrad_bus.sketch import Projection

SIZE = 2000
PROJECTION = Projection(b"equal on", SIZE)
ROUNDS = 4


def node(place: int) -> NodeId:
    return NodeId(place.to_bytes(16, "big"))


class Group:
    """Honest members of several kinds of data, two of each, and what one of them, the observer, hears of all.

    Each kind moves in a direction of its own, beside a little that all have in common and some noise of each moment.
    """

    def __init__(self, kinds: int = 6, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.common = self.rng.standard_normal(SIZE)
        self.directions = self.rng.standard_normal((kinds, SIZE))
        self.honest = [node(place) for place in range(1, 2 * kinds)]
        self.affinity = Affinity()

    def direction(self, place: int) -> NDArray[np.float64]:
        """Return where member ``place`` moves now; the observer is member 0, and member 1 its like."""
        own: NDArray[np.float64] = self.directions[place // 2] + 0.3 * self.common
        return own + 0.4 * self.rng.standard_normal(SIZE)

    def sketch(self, direction: NDArray[np.float64]) -> bytes:
        return PROJECTION.sketch(direction.astype(np.float32))

    def meet(self, liars: dict[NodeId, Any], rounds: int = ROUNDS) -> None:
        """Let the observer hear everybody; ``liars`` maps to a function that makes a sketch."""
        for count in range(rounds):
            step = 1 + count * APART
            self.affinity.sketched(self.sketch(self.direction(0)))
            for place, peer in enumerate(self.honest, 1):
                self.affinity.heard(peer, self.sketch(self.direction(place)), step)
            for peer, tell in liars.items():
                self.affinity.heard(peer, tell(), step)


LIAR = node(99)


def tell_noise(group: Group) -> Any:
    return lambda: group.rng.bytes(8)


def tell_one_noise(group: Group) -> Any:
    told = group.rng.bytes(8)
    return lambda: told


def tell_reverse(group: Group) -> Any:
    return lambda: group.sketch(-group.direction(4))


def test_other_data_attracts_and_like_data_does_not() -> None:
    like: list[float] = []
    unlike: list[float] = []
    for seed in range(10):
        group = Group(seed=seed)
        group.meet({})
        gains = group.affinity.gains(group.honest)
        like.append(float(gains[0]))
        unlike.append(float(gains[1:].mean()))
    assert np.mean(like) < 0.1 and np.mean(unlike) > 0.35


@pytest.mark.parametrize(("lie", "most"), [(tell_noise, 0.2), (tell_reverse, 0.3)])
def test_a_liar_gains_less_than_honest_members(lie: Any, most: float) -> None:
    gained: list[float] = []
    honest: list[float] = []
    for seed in range(16):
        group = Group(seed=seed)
        group.meet({LIAR: lie(group)})
        gains = group.affinity.gains([*group.honest, LIAR])
        gained.append(float(gains[-1]))
        honest.append(float(gains[:-1].mean()))
    assert np.mean(gained) < most < np.mean(honest)


@pytest.mark.parametrize("lie", [tell_noise, tell_reverse])
def test_a_liar_gets_at_most_the_share_of_a_uniform_choice(lie: Any) -> None:
    taken = like = 0
    draws, seeds = 400, 12
    for seed in range(seeds):
        group = Group(seed=seed)
        group.meet({LIAR: lie(group)})
        ready = [*group.honest, LIAR]
        choice = ScoredChoice(group.affinity.gains, group.rng)
        chosen = [choice.choose(ready, 1)[0] for _ in range(draws)]
        taken += chosen.count(LIAR)
        like += chosen.count(group.honest[0])
    uniform = draws * seeds / (len(Group().honest) + 1)
    assert taken < uniform
    assert like < uniform
    assert taken > 0.1 * uniform  # exploration: nobody is shut out


def test_a_lie_that_never_changes_is_worth_no_more_than_data_nobody_else_has() -> None:
    """It cannot be told from them: the gain is bounded, and so is the share, by exp(1 / TEMPERATURE)."""
    taken, draws, seeds = 0, 400, 12
    for seed in range(seeds):
        group = Group(seed=seed)
        group.meet({LIAR: tell_one_noise(group)})
        choice = ScoredChoice(group.affinity.gains, group.rng)
        taken += sum(choice.choose([*group.honest, LIAR], 1)[0] == LIAR for _ in range(draws))
    assert taken < 1.5 * draws * seeds / (len(Group().honest) + 1)


def test_random_values_do_not_attract_a_neighbour_however_unlike_they_are() -> None:
    group = Group()
    group.meet({LIAR: lambda: group.sketch(group.direction(6))})  # its sketches look like those of an honest member
    near = [group.honest[2], group.honest[4], group.honest[6], LIAR]
    for _ in range(20):
        for peer in near[:-1]:
            group.affinity.framed(peer, 0.1 * group.rng.standard_normal(), 0.3)
        group.affinity.framed(LIAR, -0.2, 1.45)
    assert group.affinity.gains(near)[-1] == 0
    assert group.affinity.gains(near)[:-1].max() > 0


def test_an_outlier_gains_nothing() -> None:
    group = Group()
    group.meet({})
    near = group.honest[2:7]
    for peer, alike in zip(near, (0.5, 0.45, 0.4, 0.55, -0.5), strict=True):
        group.affinity.framed(peer, alike, 0.2)
    gains = group.affinity.gains(near)
    assert gains[-1] == 0
    assert gains[2] == gains.max() > 0


def test_who_cannot_be_judged_has_no_gain() -> None:
    group = Group()
    assert not group.affinity.gains(group.honest).any()
    group.meet({}, rounds=1)  # nobody can be compared with itself yet
    assert not group.affinity.gains(group.honest).any()
    few = Group(kinds=2)
    few.meet({})
    assert not few.affinity.gains(few.honest).any()  # kinship among three means nothing
    assert not group.affinity.gains([]).size


def test_likeness_orders_peers_by_their_cosine() -> None:
    group = Group()
    np.testing.assert_array_equal(group.affinity.likeness(group.honest), 0.5)
    group.meet({})
    likeness = group.affinity.likeness(group.honest)
    assert likeness[0] == likeness.max() > 0.8


def test_frames_count_once_all_candidates_have_sent_some() -> None:
    group = Group()
    group.meet({})
    pair = group.honest[:2]
    group.affinity.framed(pair[0], -0.4, 0.2)
    assert group.affinity.likeness(pair)[0] > 0.5  # by sketches: the observer's like
    group.affinity.framed(pair[1], 0.4, 0.2)
    assert group.affinity.likeness(pair)[0] < 0.5


def test_who_has_gone_is_forgotten_and_who_trains_anew_is_judged_anew() -> None:
    group = Group()
    group.meet({})
    before = group.affinity.gains(group.honest)
    place = int(before.argmax())
    peer = group.honest[place]
    group.affinity.heard(peer, group.sketch(group.direction(place + 1)), 0)  # its step count fell
    assert group.affinity.gains(group.honest)[place] == 0
    other = group.honest[int(np.argsort(before)[-2])]
    group.affinity.keep([other])
    assert not group.affinity.gains([peer]).any()


def test_kinship_asks_a_panel_where_there_are_many() -> None:
    group = Group(kinds=PANEL)
    group.meet({}, rounds=2)
    gains = group.affinity.gains(group.honest)
    assert len(gains) > PANEL and gains[1:].mean() > 0.3


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=10), st.integers(0, 500)), max_size=40))
def test_nothing_that_peers_say_raises_and_gains_stay_in_range(said: list[tuple[int, bytes, int]]) -> None:
    affinity = Affinity()
    affinity.sketched(bytes(8))
    for place, sketch, step in said:
        affinity.heard(node(place), sketch, step)
    candidates = [node(place) for place in range(7)]
    for scores in (affinity.gains(candidates), affinity.likeness(candidates)):
        assert scores.shape == (7,) and np.all((scores >= 0) & (scores <= 1))


@pytest.mark.parametrize(("alike", "distance"), [(math.nan, 1.0), (0.5, math.inf)])
def test_what_is_not_finite_tells_nothing(alike: float, distance: float) -> None:
    affinity = Affinity()
    affinity.framed(node(1), alike, distance)
    np.testing.assert_array_equal(affinity.likeness([node(1)]), 0.5)


def test_a_frame_is_compared_from_the_anchor() -> None:
    anchor = np.full((2, 2), 3, np.float32)
    own = anchor + np.array([[1, 0], [0, 0]], np.float32)
    values = anchor + np.array([[1, 0], [0, 1]], np.float32)
    alike, distance = compare(values, own, anchor)
    assert alike == pytest.approx(1 / math.sqrt(2))
    assert distance == pytest.approx(1 / np.linalg.norm(own))
    assert compare(anchor, own, anchor)[0] == 0  # who has not moved has no direction
    assert math.isnan(compare(np.full((2, 2), np.nan, np.float32), own, anchor)[0])
