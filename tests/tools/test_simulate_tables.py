"""What the tables of ``dagrad simulate`` say."""

from __future__ import annotations

from dataclasses import fields, replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console, RenderableType

from dagrad_bus.lab.calibration import Calibration, load_calibration
from dagrad_bus.lab.experiment import Result
from dagrad_bus.lab.profiles import PROFILES, WIRES
from dagrad_bus.lab.scaling import Question, Row, answer
from dagrad_bus.tools.simulate_tables import calibration_table, scaling_tables, sources_table, training_table


@pytest.fixture
def question() -> Question:
    return Question(
        profile=PROFILES["resnet50"], wires={"10gbit": WIRES["10gbit"]}, workers=(4,), steps=5,
        rules=("state", "local", "sync-ps", "async-ps"), stragglers=1, factor=3.0, swing=0.1, churn=0.2,
    )  # fmt: skip


@pytest.fixture
def shipped() -> Calibration:
    return load_calibration()


def show(table: RenderableType) -> str:
    console = Console(width=200, file=StringIO())
    console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_papers_figures_stand_apart_and_the_error_stands_below(question: Question, shipped: Calibration) -> None:
    rows = answer(question)
    told = show(scaling_tables(question, rows, shipped))
    assert "the paper's" in told
    assert "nothing of them was measured here" in " ".join(told.split())
    assert "1 stragglers, 3 times slower; bandwidth swings by 10 %; 20 % of the workers leave" in told
    assert shipped.describe() in " ".join(told.split())
    (line,) = [line for line in told.splitlines() if line.split()[:2] == ["sync-ps", "4"]]
    assert f"{100 * rows[2].timing.efficiency:.1f} %" in line


def test_an_exchange_that_never_came_to_an_end_is_older_than_the_run(question: Question, shipped: Calibration) -> None:
    rows = answer(question)
    never = [Row(r.wire, replace(r.timing, median_age=None, p99_age=None), r.samples) for r in rows]
    told = show(scaling_tables(question, never, shipped))
    assert "> 5" in told


def test_sources_name_every_number(question: Question) -> None:
    told = show(sources_table(question))
    for name in (*question.profile.sources, "10gbit"):
        assert name in told
    assert "assumption" in told


def test_a_calibration_shows_every_run(shipped: Calibration) -> None:
    told = show(calibration_table(shipped))
    assert "defaults (fitted)" in told
    for check in shipped.foretold:
        assert check.setting in told


def test_training_shows_accuracy_beside_efficiency(shipped: Calibration) -> None:
    values: dict[str, Any] = {field.name: 0.0 for field in fields(Result)}
    values |= {
        "accuracy": 0.91,
        "worst": 0.85,
        "mean_model": 0.93,
        "efficiency": 0.99,
        "median_age": 0.6,
        "skipped": 0.25,
    }
    result = Result(**values)
    told = show(training_table([("10gbit", 32, "state", result)], shipped))
    for text in ("91.0 %", "85.0 %", "93.0 %", "99.0 %", "25 %", "10gbit"):
        assert text in told
