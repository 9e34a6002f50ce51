"""Which scenarios a question means, and that they are all answered."""

from __future__ import annotations

import pytest

from dagrad_bus.lab.profiles import PROFILES, WIRES
from dagrad_bus.lab.scaling import LEAST_STEPS, MOST_STEPS, Question, Row, answer, find_row
from dagrad_bus.settings import ExchangeSettings


def ask(**more: object) -> Question:
    values: dict[str, object] = {
        "profile": PROFILES["resnet50"], "wires": {"1gbit": WIRES["1gbit"]}, "workers": (4, 8),
        "rules": ("state", "sync-ps", "all-reduce"), "steps": 10,
    }  # fmt: skip
    return Question(**(values | more))  # type: ignore[arg-type]  # the tests' own values


def test_every_cell_is_answered_and_told() -> None:
    question, told = ask(), list[tuple[int, int]]()

    def done(row: Row, number: int, count: int) -> None:
        assert row.wire == "1gbit"
        told.append((number, count))

    rows = answer(question, done)
    assert told == [(number, 6) for number in range(1, 7)]
    state, ring = (find_row(rows, "1gbit", 8, rule) for rule in ("state", "all-reduce"))
    assert state is not None
    assert ring is not None
    assert state.timing.efficiency > 0.99
    assert ring.timing.efficiency < 0.5
    assert state.samples == pytest.approx(8 * 893.09 * state.timing.efficiency, rel=0.02)
    assert find_row(rows, "1gbit", 8, "choco") is None
    assert state.to_json()["rule"] == "state"


def test_a_scenario_has_all_that_was_asked() -> None:
    question = ask(stragglers=2, factor=3.0, churn=0.1, seed=5, exchange=ExchangeSettings(interval=2), swing=0.2)
    found = question.scenario("state", 8, "1gbit")
    assert sorted(found.costs.slowdown.values()) == [3.0, 3.0]
    assert (found.churn, found.seed, found.exchange.interval, found.costs.swing) == (0.1, 5, 2, 0.2)
    assert found.parameters == PROFILES["resnet50"].parameters


def test_rules_with_large_vectors_get_the_steps_they_need() -> None:
    question = ask(steps=0, wires=WIRES)
    sparse, pairs, served = (
        question.scenario(rule, 32, "1gbit").steps for rule in ("state", "gossip-dense", "async-ps")
    )
    assert sparse < pairs < served <= MOST_STEPS
    assert question.scenario("async-ps", 10_000, "1gbit").steps == LEAST_STEPS
