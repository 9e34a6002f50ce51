from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.lab.ablation_pages import (
    SCHEMA,
    best_reference,
    difference,
    make_report,
    spread_of_bytes,
    to_json,
    to_markdown,
)
from dagrad_bus.lab.ablations import Scale, Study, make_study
from dagrad_bus.lab.results import Results

SCALE = Scale()
MadeUp = Callable[..., dict[str, Any]]
Filled = Callable[[Study, int], Results]


def test_rows_are_means_over_the_seeds(filled: Filled) -> None:
    study = make_study("w0", SCALE)
    report = make_report(study, SCALE, 2, filled(study, 2))
    assert report.is_whole
    assert [row.cell.label for row in report.groups["IID shards"]][:2] == ["w0 0.5", "w0 0.65"]
    first = report.rows[0]
    assert first.seeds == 2
    assert first.accuracy.mean == pytest.approx(0.91)
    assert first.accuracy.spread == pytest.approx(0.02 / math.sqrt(2))


def test_differences_are_taken_seed_by_seed(filled: Filled) -> None:
    study = make_study("w0", SCALE)
    first, second, *_ = make_report(study, SCALE, 3, filled(study, 3)).rows
    found = difference(second, first)
    assert found is not None
    assert found.mean == pytest.approx(-0.01)
    assert found.spread == pytest.approx(0.0, abs=1e-12)  # though each of them varies over the seeds


def test_the_best_of_the_references_counts(filled: Filled) -> None:
    study = make_study("defaults", SCALE)
    report = make_report(study, SCALE, 1, filled(study, 1))
    best = best_reference(report.groups["IID shards"])
    assert best is not None
    assert best.cell.label == "sync-ps, rate 0.1"  # made up so
    page = to_markdown([report])
    assert "difference to the best reference, points" in page
    assert "best of its three learning rates" in page
    assert best_reference([row for row in report.rows if not row.cell.reference]) is None


def test_the_page_has_a_table_a_panel_and_measured_bytes(filled: Filled) -> None:
    study = make_study("refresh", SCALE)
    page = to_markdown([make_report(study, SCALE, 2, filled(study, 2))])
    assert page.count("| refresh 1/16 ") == 2
    assert "91.00 ± 1.41" in page
    assert "differ by at most 0.0 %" in page
    assert "![Refresh stripe](refresh.png)" in page
    assert "validation part" in page
    assert "Not finished" not in page


def test_a_study_that_is_not_finished_says_so(tmp_path: Path, made_up: MadeUp) -> None:
    study, results = make_study("refresh", SCALE), Results(tmp_path / "cells.jsonl")
    nothing = make_report(study, SCALE, 2, results)
    assert "0 of 20 runs" in to_markdown([nothing])
    results.put(study.cells[0].experiment.key, made_up())
    report = make_report(study, SCALE, 2, results)
    assert not report.is_whole
    assert len(report.rows) == 1
    assert "1 of 20 runs" in to_markdown([report])


def test_runs_that_diverged_are_counted(tmp_path: Path, made_up: MadeUp) -> None:
    study, results = make_study("refresh", SCALE), Results(tmp_path / "cells.jsonl")
    results.put(study.cells[0].experiment.key, made_up(diverged=True, consensus=math.inf))
    report = make_report(study, SCALE, 1, results)
    assert report.rows[0].consensus is None
    assert "1 of 1" in to_markdown([report])
    assert "Infinity" not in json.dumps(to_json(report))


def test_bytes_are_compared_within_a_panel(tmp_path: Path, made_up: MadeUp) -> None:
    study, results = make_study("refresh", SCALE), Results(tmp_path / "cells.jsonl")
    for cell, spent in zip(study.cells[:2], (1000.0, 1030.0), strict=True):
        results.put(cell.experiment.key, made_up(bytes_per_step=spent))
    report = make_report(study, SCALE, 1, results)
    assert spread_of_bytes(report.rows) == pytest.approx(0.03)
    assert spread_of_bytes([]) == 0.0
    assert "differ by at most 3.0 %" in to_markdown([report])


def test_data_can_be_read_back(filled: Filled) -> None:
    study = make_study("age", SCALE)
    found = json.loads(json.dumps(to_json(make_report(study, SCALE, 2, filled(study, 2)))))
    assert (found["schema"], found["study"], found["whole"]) == (SCHEMA, "age", True)
    assert len(found["rows"]) == len(study.cells)
    row = found["rows"][0]
    assert row["by_seed"] == {"0": pytest.approx(0.9), "1": pytest.approx(0.92)}
    assert row["experiment"]["costs"]["tail"] == 0.3
    assert "seed" not in row["experiment"]
