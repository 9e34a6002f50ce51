from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.workers.launch.orders import RestartPolicy
from dagrad_bus.workers.launch.restarts import JITTER, Again, GiveUp, Restarts, pause_before

POLICIES = st.builds(
    RestartPolicy,
    on_failure=st.sampled_from(["restart", "continue"]),
    most=st.integers(0, 6),
    first=st.floats(0.001, 100),
    longest=st.floats(0, 1000),
    healthy=st.floats(1, 1000),
)
CODES = st.one_of(st.none(), st.integers(0, 255))


def crash(restarts: Restarts, *, lived: float = 1.0, code: int | None = 1, wedged: bool = False) -> Again | GiveUp:
    return restarts.decide(code=code, lived=lived, published=True, chance=0.5, wedged=wedged)


@settings(max_examples=50)
@given(POLICIES, st.lists(st.tuples(CODES, st.floats(0, 0.9), st.booleans(), st.floats(0, 0.999)), max_size=12))
def test_never_more_than_most_restarts_without_health(
    policy: RestartPolicy, ends: list[tuple[int | None, float, bool, float]]
) -> None:
    restarts, again = Restarts(policy), 0
    for code, lived, published, chance in ends:
        decision = restarts.decide(code=code, lived=lived, published=published, chance=chance)
        if isinstance(decision, Again):
            again += 1
            assert policy.on_failure == "restart" and published and code not in {0, 2, 126, 127}
            assert 0 <= decision.wait <= policy.longest * (1 + JITTER)
        else:
            assert (decision.why == "") == (code == 0 or policy.on_failure == "continue")
    assert again <= policy.most


@settings(max_examples=50)
@given(POLICIES, st.integers(0, 2000))
def test_pauses_double_up_to_the_longest(policy: RestartPolicy, row: int) -> None:
    here, after = pause_before(row, policy), pause_before(row + 1, policy)
    assert 0 <= here <= after <= policy.longest
    assert after == policy.longest or after == pytest.approx(2 * here)


def test_the_row_of_a_slot_that_keeps_failing() -> None:
    restarts = Restarts(RestartPolicy(most=3, first=1, longest=3))
    assert [crash(restarts) for _ in range(4)] == [Again(1), Again(2), Again(3), GiveUp("3 restarts in a row")]


def test_health_begins_a_new_row() -> None:
    restarts = Restarts(RestartPolicy(most=1, first=1, healthy=60))
    assert [crash(restarts, lived=lived) for lived in (1, 60, 59)] == [Again(1), Again(1), GiveUp("1 restart in a row")]


def test_a_wedged_worker_was_not_healthy_however_long_it_lived() -> None:
    restarts = Restarts(RestartPolicy(most=1, healthy=60))
    assert isinstance(crash(restarts, lived=1000, code=None, wedged=True), Again)
    assert isinstance(crash(restarts, lived=1000, code=None, wedged=True), GiveUp)


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_jitter_is_a_fifth_either_way(chance: float) -> None:
    decision = Restarts(RestartPolicy(first=10)).decide(code=1, lived=1, published=True, chance=chance)
    assert isinstance(decision, Again)
    assert decision.wait == pytest.approx(10 * (0.8 + 0.4 * chance))


@pytest.mark.parametrize(
    ("code", "published", "why"),
    [
        (2, True, "exit code 2: a wrong option or setting would be wrong again"),
        (126, True, "exit code 126: the command cannot be executed"),
        (127, True, "exit code 127: there is no such command"),
        (1, False, "it never published an address, so it never joined the run"),
        (0, False, ""),
    ],
)
def test_what_would_fail_again_is_not_retried(code: int, published: bool, why: str) -> None:
    decision = Restarts(RestartPolicy()).decide(code=code, lived=1, published=published, chance=0.5)
    assert decision == GiveUp(why)


def test_no_restarts_at_all() -> None:
    assert crash(Restarts(RestartPolicy(most=0))) == GiveUp("no restarts are allowed")
    assert crash(Restarts(replace(RestartPolicy(), on_failure="continue"))) == GiveUp("")


def test_a_mistake_before_the_first_step_is_shown_once() -> None:
    restarts = Restarts(RestartPolicy())
    given: dict[str, Any] = {"lived": 1, "published": True, "chance": 0.5, "stepped": False}
    assert restarts.decide(code=1, **given) == GiveUp("it failed before it had made a step, so it would fail again")
    assert isinstance(restarts.decide(code=None, **given), Again)  # a signal may come at any time
    assert isinstance(restarts.decide(code=1, **(given | {"stepped": True})), Again)
