from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from dagrad_bus.errors import SettingsError, UsageError
from dagrad_bus.lab.interface import why_not
from dagrad_bus.lab.paper.cells import RULES, Cell, Request
from dagrad_bus.lab.paper.measuring import Measured
from dagrad_bus.lab.paper.workloads import WORKLOADS
from dagrad_bus.tools import bench_paper
from dagrad_bus.tools.bench_paper import LISTS, Display, check, join_words, make_request, paper

QUICK = ("--quick", "--rules", "state", "local", "-n", "2")


def invoke(*words: str, out: Path) -> Result:
    return CliRunner().invoke(paper, [*words, "--out", str(out)])


def options(**changes: Any) -> dict[str, Any]:
    names = ("rules", "rates", "seeds", "pair_seeds", "tune_seeds", "steps", "pace", "extra")
    found: dict[str, Any] = dict.fromkeys(names)
    found |= {
        "workload": "digits",
        "model": "",
        "workers": 8,
        "shards": "iid",
        "data_dir": "",
        "density": 0.01,
        "quick": False,
    }
    return found | changes


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """Replace runs by made-up numbers; return the cells that were asked for."""
    asked: list[Cell] = []

    def measure(cell: Cell, folder: Path) -> Measured:
        asked.append(cell)
        return Measured(
            workers=cell.workers,
            steps=cell.steps,
            parameters=100,
            accuracies=(0.9,) * cell.workers,
            mean_model=None,
            consensus=0.1,
            interface_bytes=10**6 if cell.rule == "state" else 10**7,
            packets=0,
            socket_bytes=10**6 if cell.rule == "state" else 10**7,
            rates=(10.0,) * cell.workers,
            median_age=None,
            mixing="mixed",
            curve=((1, 5.0),),
            seconds=1.0,
        )

    monkeypatch.setattr(bench_paper, "measure", measure)
    return asked


def test_words_behind_an_option_are_joined() -> None:
    words = ["--rules", "state", "local", "--quick", "-n", "2", "--seeds", "0", "1", "--rates=0.1"]
    assert join_words(words, LISTS) == ["--rules", "state,local", "--quick", "-n", "2", "--seeds", "0,1", "--rates=0.1"]


def test_options_become_a_request() -> None:
    request = make_request(options(rules="state,local", rates="0.2,0.1", seeds="3,4", extra="wire=f16,w0=0.5"))
    assert (request.rules, request.rates, request.seeds) == (("state", "local"), (0.1, 0.2), (3, 4))
    assert request.extra == {"wire": "f16", "w0": "0.5"}
    assert request.judged
    assert make_request(options()).rules == RULES


def test_the_judged_pair_has_the_workloads_seeds_unless_seeds_are_given() -> None:
    assert make_request(options()).pair_seeds == (3, 4, 5, 6, 7, 8, 9)
    assert make_request(options(seeds="0,1")).pair_seeds == ()
    assert make_request(options(quick=True)).pair_seeds == ()
    assert make_request(options(seeds="0", pair_seeds="1,2")).pair_seeds == (1, 2)


def test_a_quick_look_is_short_and_not_judged() -> None:
    request = make_request(options(quick=True))
    assert (request.steps, request.seeds, request.rates, request.judged) == (30, (0,), (0.1,), False)
    assert make_request(options(quick=True, steps=20, seeds="5")).steps == 20


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"rates": "fast"}, "--rates fast"), ({"seeds": "0.5"}, "whole numbers"), ({"extra": "wire"}, "key=value")],
)
def test_words_that_are_no_values_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_request(options(**changes))


def test_a_folder_of_data_is_handed_on_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = make_request(options(workload="spam", data_dir="mails", shards="groups", quick=True))
    assert request.data_dir == str(tmp_path / "mails")
    assert (request.model, request.rates) == ("small", (1e-3,))


def test_a_workload_without_its_data_says_how_to_make_them() -> None:
    ran = CliRunner().invoke(paper, ["--workload", "spam"])
    assert isinstance(ran.exception, UsageError)
    assert "--data-dir; python -m dagrad_bus.workers.glue --fetch DIR makes one" in str(ran.exception)


def test_what_would_fail_in_the_first_run_is_refused_before_it() -> None:
    with pytest.raises(SettingsError, match="wire"):
        check(make_request(options(extra="wire=f8")), "process")


def test_a_model_that_virtual_time_does_not_know_is_tuned_on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_request(options())
    monkeypatch.setitem(WORKLOADS, "digits", replace(WORKLOADS["digits"], virtual={}))
    with pytest.raises(UsageError, match="--tune process"):
        check(request, "virtual")
    check(request, "process")
    check(replace(request, rates=(0.1,)), "virtual")


def test_tables_and_figures_are_written_and_the_page_is_shown(play: list[Cell], tmp_path: Path) -> None:
    ran = invoke(*QUICK, out=tmp_path)
    assert ran.exit_code == 0, ran.output
    assert "## Table 1" in ran.stdout and "## Table 2" in ran.stdout
    assert "[5/5]" in ran.stderr and "left" in ran.stderr
    assert f"took 0.0 minutes; results in {tmp_path}" in ran.stderr
    assert len(play) == 5
    names = {"paper.md", "paper.json", "figure2.png", "figure3.png", "results.jsonl"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "paper.md").read_text().strip() == ran.stdout.strip()


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes half a second."""

    def draw(*_: object) -> list[Path]:
        return []

    monkeypatch.setattr(bench_paper, "draw", draw)


@pytest.mark.usefixtures("no_figures")
def test_called_again_it_only_shows(play: list[Cell], tmp_path: Path) -> None:
    invoke(*QUICK, out=tmp_path)
    play.clear()
    ran = invoke(*QUICK, "--json", out=tmp_path)
    assert json.loads(ran.stdout)["schema"] == "dagrad.bench.paper/1"
    assert play == []
    assert "at hand" in ran.stderr


@pytest.mark.usefixtures("no_figures")
def test_a_missed_target_is_exit_code_1(play: list[Cell], tmp_path: Path) -> None:
    words = ("--rules", "state", "sync-ps", "-n", "2", "--rates", "0.1", "--seeds", "0", "--steps", "20")
    ran = invoke(*words, out=tmp_path)
    assert ran.exit_code == 1
    assert "- MISSED: state sends at least 20 times less than sync-ps: 10.0 times" in ran.stdout
    assert "- met: state is at most 0.3 points behind sync-ps" in ran.stdout


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(cell: Cell, folder: Path) -> Measured:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_paper, "measure", stop)
    ran = invoke(*QUICK, out=tmp_path)
    assert ran.exit_code == 130
    assert "call it again to go on" in ran.stderr


@pytest.mark.usefixtures("no_figures")
def test_rates_are_tuned_on_processes_if_asked(play: list[Cell], tmp_path: Path) -> None:
    ran = invoke(*QUICK, "--tune", "process", "--rates", "0.05", "0.1", "0.2", out=tmp_path)
    assert ran.exit_code == 0, ran.output
    assert sum(cell.purpose == "tune" for cell in play) == 2 * (3 + 2)  # all are equal: one beyond each edge, too
    assert "on real processes" in ran.stdout


@pytest.fixture
def cells() -> Sequence[Cell]:
    request = Request(rates=(0.1,), rules=("state",), seeds=(0,)).filled()
    return request.measured_cells({"state": 0.1})


def test_progress_off_a_terminal_is_a_line_a_run(cells: Sequence[Cell]) -> None:
    out = StringIO()
    with Display(Console(file=out, width=120, highlight=False)) as display:
        display.plan("measuring", len(cells), cells[1:])
        display.done(cells[0], "found", fresh=False)
        display.done(cells[1], "found", fresh=True)
    first, second = out.getvalue().splitlines()
    assert first.startswith("[1/3] alone local lr 0.1 seed 0  found") and first.endswith("at hand")
    assert re.search(r"^\[2/3\] measure state .*measuring: \d+:\d\d left$", second)


def test_progress_on_a_terminal_is_a_bar(cells: Sequence[Cell]) -> None:
    out = StringIO()
    with Display(Console(file=out, width=120, highlight=False, force_terminal=True)) as display:
        display.plan("measuring", len(cells), cells)
        for cell in cells:
            display.done(cell, "found", fresh=True)
    assert "measuring" in out.getvalue() and "[3/3] straggler state" in out.getvalue()


@pytest.fixture
def quick_files(tmp_path: Path) -> Path:
    return tmp_path / "bench"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_quick_look_on_real_processes(quick_files: Path) -> None:
    words = ("--quick", "--rules", "state", "local", "--workers", "2", "--steps", "20", "--seeds", "0")
    ran = invoke(*words, out=quick_files)
    assert ran.exit_code == 0, ran.output
    data = json.loads((quick_files / "paper.json").read_text())
    rows = {row["rule"]: row for row in data["rows"]}
    assert rows["state"]["bandwidth"]["mean"] > 10 * rows["local"]["bandwidth"]["mean"] > 0
    assert rows["state"]["accuracy"]["mean"] > 0.5
    assert rows["state"]["mixing"] == ["mixed"]
    assert rows["state"]["efficiency"]["mean"] > 0.3
    if not why_not():
        assert 0.9 < rows["state"]["agreement"]["mean"] < 1.1
        assert data["verdicts"][-1]["met"] is True
