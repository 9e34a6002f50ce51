from __future__ import annotations

import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Self

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from dagrad_bus.lab.ablations import STUDIES, Scale, make_study
from dagrad_bus.lab.experiment import Experiment
from dagrad_bus.lab.pool import Found, Keep
from dagrad_bus.lab.results import Results
from dagrad_bus.tools import bench_ablations
from dagrad_bus.tools.bench_ablations import Display, ablations

KNOWN: Found = {
    "accuracy": 0.9, "worst": 0.8, "mean_model": 0.95, "consensus": 0.02, "bytes_per_step": 1500.0, "dense_share": 0.02,
    "median_age": None, "skipped": 0.0, "diverged": False,
}  # fmt: skip


class Played:
    """Stands in for the pool: made-up numbers, and an order to stop after ``stop`` runs."""

    stop: int | None = None
    made: list[Experiment]

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, experiments: Sequence[Experiment], keep: Keep) -> None:
        for experiment in experiments:
            if len(self.made) == self.stop:
                raise KeyboardInterrupt
            self.made.append(experiment)
            keep(experiment, dict(KNOWN))


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> type[Played]:
    """Replace the pool; its class says which runs were made."""

    class Fresh(Played):
        made: list[Experiment] = []  # noqa: RUF012  # of this test only

    monkeypatch.setattr(bench_ablations, "Pool", Fresh)
    return Fresh


def invoke(*words: str, out: Path) -> Result:
    return CliRunner().invoke(ablations, [*words, "--out", str(out)])


def test_the_list_names_every_study_and_runs_nothing(played: type[Played], tmp_path: Path) -> None:
    done = invoke("--list", out=tmp_path)
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.output.splitlines()] == list(STUDIES)
    found = json.loads(invoke("--list", "--json", "--seeds", "2", "--study", "w0", out=tmp_path).output)
    assert [(row["study"], row["cells"], row["runs"]) for row in found] == [("w0", 12, 24)]
    assert not played.made
    assert not list(tmp_path.iterdir())


def test_each_study_gets_a_figure_data_and_a_section(played: type[Played], tmp_path: Path) -> None:
    done = invoke("--study", "refresh", "--study", "w0", "--seeds", "2", out=tmp_path)
    assert done.exit_code == 0, done.output
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"ablations.md", "cells.jsonl", "refresh.png", "refresh.json", "w0.png", "w0.json"}
    page = (tmp_path / "ablations.md").read_text()
    assert page.index("## Refresh stripe") < page.index("## Weight of a version")
    assert page in done.stdout
    assert len(played.made) == 2 * (10 + 12) - 2 * 2 * 1  # both studies hold the base: refresh 1/16, w0 0.9


def test_options_reach_the_runs_and_the_key(played: type[Played], tmp_path: Path) -> None:
    words = ("--study", "block", "--workers", "4", "--steps", "7", "--report", "test", "--seeds", "1", "--json")
    done = invoke(*words, out=tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["studies"][0]["scale"] == {"task": "digits-mlp", "workers": 4, "steps": 7, "report": "test"}
    assert {(run.workers, run.steps, run.report) for run in played.made} == {(4, 7, "test")}
    study = make_study("block", Scale(workers=4, steps=7, report="test"))
    results = Results(tmp_path / "cells.jsonl")
    assert all(results.get(cell.experiment.key) for cell in study.cells)


def test_stopped_and_called_again_it_goes_on(played: type[Played], tmp_path: Path) -> None:
    played.stop = 5
    done = invoke("--study", "refresh", "--seeds", "1", out=tmp_path)
    assert done.exit_code == 130
    assert "call it again to go on" in done.output
    played.stop = None
    assert invoke("--study", "refresh", "--seeds", "1", out=tmp_path).exit_code == 0
    assert len(played.made) == 10
    assert invoke("--study", "refresh", "--seeds", "1", out=tmp_path).exit_code == 0
    assert len(played.made) == 10


def test_an_unknown_study_is_refused(tmp_path: Path) -> None:
    assert invoke("--study", "nothing", out=tmp_path).exit_code == 2


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_says_how_far_it_is(is_terminal: bool) -> None:
    text = StringIO()
    with Display(Console(file=text, force_terminal=is_terminal, highlight=False, width=100)) as display:
        display.plan(2)
        display.done("w0", "accuracy 0.9000")
    assert "[1/2] w0  accuracy 0.9000" in text.getvalue()
    assert is_terminal or "left" in text.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_tiny_study_is_really_made(tmp_path: Path) -> None:
    words = ("--study", "refresh", "--workers", "2", "--steps", "5", "--seeds", "1", "--jobs", "1")
    done = invoke(*words, out=tmp_path)
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "refresh.json").read_text())["rows"]
    assert len(rows) == 10
    assert all(0 < row["accuracy"]["mean"] <= 1 and row["bytes_per_step"]["mean"] > 0 for row in rows)
