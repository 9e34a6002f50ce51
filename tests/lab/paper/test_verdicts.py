from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dagrad_bus.lab.paper.bench import Findings
from dagrad_bus.lab.paper.rows import Over, Pair, Row, make_pair, make_rows
from dagrad_bus.lab.paper.verdicts import judge


@pytest.fixture
def rows(findings: Findings) -> list[Row]:
    return make_rows(findings)


@pytest.fixture
def pair(findings: Findings) -> Pair | None:
    return make_pair(findings)


def change(rows: list[Row], rule: str, **numbers: float) -> list[Row]:
    changes: dict[str, Any] = {name: Over(value, None) for name, value in numbers.items()}
    return [replace(row, **changes) if row.rule == rule else row for row in rows]


def test_rows_that_hold_all_targets_meet_them(rows: list[Row], pair: Pair | None) -> None:
    verdicts = judge(rows, pair)
    assert [verdict.met for verdict in verdicts] == [True, True, True, True]
    assert verdicts[0].line.startswith("met: state sends at least 20 times less than sync-ps: 23.")
    assert verdicts[1].line.endswith("+0.05 points (2 seeds, standard error 0.00)")


@pytest.mark.parametrize(
    ("place", "numbers"),
    [(0, {"bytes_per_step": 5000.0}), (2, {"std": 0.05})],
)
def test_each_target_of_the_rows_can_be_missed(
    rows: list[Row], pair: Pair | None, place: int, numbers: dict[str, float]
) -> None:
    verdicts = judge(change(rows, "state", **numbers), pair)
    assert [verdict.met for verdict in verdicts] == [spot != place for spot in range(4)]
    assert verdicts[place].line.startswith("MISSED: ")


def test_accuracy_is_judged_by_all_seeds_of_the_pair(rows: list[Row]) -> None:
    pair = Pair((0, 1, 2, 3), Over(0.99, 0.0), Over(0.985, 0.0), Over(0.005, 0.002))
    verdict = judge(rows, pair)[1]
    assert verdict.line == (
        "MISSED: state is at most 0.3 points behind sync-ps: +0.50 points (4 seeds, standard error 0.10)"
    )
    one = replace(pair, seeds=(0,), behind=Over(0.003, None))
    assert judge(rows, one)[1].line.endswith("met: state is at most 0.3 points behind sync-ps: +0.30 points (one seed)")


def test_counts_that_disagree_miss_a_target_by_name(rows: list[Row]) -> None:
    bad = [replace(row, disagreeing=(1,)) if row.rule == "local" else row for row in rows]
    assert judge(bad, None)[-1].met is False
    assert "not in local (seed 1)" in judge(bad, None)[-1].text


def test_without_an_interface_nothing_is_said_about_counts(rows: list[Row]) -> None:
    assert judge([replace(row, agreement=None) for row in rows], None)[-1].met is None


def test_what_a_target_needs_and_is_not_there_is_said(rows: list[Row]) -> None:
    verdicts = judge([row for row in rows if row.rule in {"state", "local"}], None)
    assert [verdict.met for verdict in verdicts] == [None, None, None, True]
    assert "needs both rules" in verdicts[0].line


def test_a_quick_look_is_not_judged(rows: list[Row]) -> None:
    verdicts = judge(rows, Pair((0,), Over(0.97, None), Over(0.1, None), Over(0.87, None)), judged=False)
    assert [verdict.met for verdict in verdicts] == [None, None, None, True]
    assert verdicts[1].line.startswith("not judged: ") and "+87.00 points (one seed) (a quick look)" in verdicts[1].text
