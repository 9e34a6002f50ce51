from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.rivals.environments import Installed
from dagrad_bus.lab.rivals.handout import Trial
from dagrad_bus.lab.rivals.outcome import Outcome
from dagrad_bus.lab.rivals.systems import RATES, SYSTEMS
from dagrad_bus.tools import bench_peers
from dagrad_bus.tools.bench_peers import (
    Display,
    describe_outcome,
    describe_trial,
    installed,
    make_request,
    peers,
)

DONE = Outcome(
    ending="done", accuracies=(0.9, 0.8), steps=60, bytes_per_step=2e4, step_ms=55.0, spread=0.01, gap_ms=12.0
)


@pytest.fixture
def trial() -> Trial:
    return Trial(system="ddp", shards="iid", seed=0, lr=0.05, steps=60, workers=2, pace=0.0, report="test")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> dict[str, Outcome]:
    """Replace installing and running; the outcome of a system can be set."""
    outcomes: dict[str, Outcome] = {"local": Outcome(ending="done", accuracies=(0.5, 0.5), steps=60, spread=0.4)}

    def run(trial: Trial, python: str, folder: Path) -> Outcome:
        return outcomes.get(trial.system, DONE)

    def ready(*_: Any) -> Installed:
        return Installed(sys.executable)

    monkeypatch.setattr(bench_peers, "run_trial", run)
    monkeypatch.setattr(bench_peers, "installed", ready)
    monkeypatch.setattr(bench_peers, "why_not", str)
    return outcomes


def _call(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(peers, ["--quick", "--out", str(folder), "--systems", "dagrad", "ddp", *words])


def _options(**changes: Any) -> dict[str, Any]:
    return {"workers": 4, "steps": None, "seeds": None, "rates": None, "pace": 0.05, "quick": False, **changes}


def test_what_is_not_said_is_filled_in() -> None:
    whole, quick = make_request("", _options()), make_request("ddp", _options(quick=True))
    assert (whole.steps, whole.seeds, whole.rates, len(whole.systems)) == (150, (0, 1, 2), RATES, len(SYSTEMS))
    assert (quick.steps, quick.seeds, quick.rates) == (60, (0,), (0.05,))
    assert [system.name for system in quick.systems] == ["local", "ddp"]
    with pytest.raises(UsageError, match="no system mpi"):
        make_request("mpi", _options())


def test_three_files_are_written_and_the_page_is_printed(stage: dict[str, Outcome], tmp_path: Path) -> None:
    done = _call(tmp_path)
    assert done.exit_code == 0, done.output
    assert "| dagrad-bus" in done.stdout and "averaged" in done.stdout
    assert {file.name for file in tmp_path.iterdir()} == {
        "results.jsonl", "scoreboard.md", "scoreboard.json", "scoreboard.png",
    }  # fmt: skip
    assert (tmp_path / "scoreboard.md").read_text().strip() == done.stdout.strip()


def test_a_second_call_finds_everything_at_hand(stage: dict[str, Outcome], tmp_path: Path) -> None:
    _call(tmp_path)
    again = _call(tmp_path, "--json")
    assert json.loads(again.stdout)["request"]["seeds"] == [0]
    assert again.stderr.count("at hand") == 11 and " left\n" not in again.stderr


def test_only_a_failure_of_this_system_is_an_exit_code(stage: dict[str, Outcome], tmp_path: Path) -> None:
    bad = Outcome(ending="crashed", reason="no answer")
    stage["ddp"] = bad
    other = _call(tmp_path / "a")
    assert other.exit_code == 0 and "DDP, gloo: 3 of 3 runs crashed at step 0: no answer" in other.stdout
    stage["dagrad"] = bad
    assert _call(tmp_path / "b").exit_code == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "1", "x"], "'1,x': needs numbers"),
        (["--rates", "0"], "0.0: out of range"),
        (["--workers", "1"], "not in the range"),
        (["--steps", "3"], "not in the range"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    done = _call(tmp_path, *words)
    assert done.exit_code == 2 and said in done.stderr


def test_without_a_private_network_nothing_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_peers, "why_not", lambda: "needs root")
    done = _call(tmp_path / "out")
    assert isinstance(done.exception, UsageError) and "private network: needs root" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_how_to_go_on(stage: dict[str, Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(*_: Any) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_peers, "run_trial", stop)
    done = _call(tmp_path)
    assert done.exit_code == 130 and "call it again to go on" in done.stderr


def test_this_system_runs_even_where_installing_it_cannot_be_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any) -> Installed:
        raise UsageError("no network")

    monkeypatch.setattr(bench_peers, "ensure_own", fail)
    monkeypatch.setattr(bench_peers, "ensure", fail)
    said = io.StringIO()
    display = Display(Console(file=said, width=200))
    assert installed(SYSTEMS["dagrad"], tmp_path, display) == Installed(sys.executable)
    assert "was not measured: no network" in said.getvalue()
    with pytest.raises(UsageError, match="no network"):
        installed(SYSTEMS["ddp"], tmp_path, display)


def test_progress_on_a_terminal_and_elsewhere(trial: Trial) -> None:
    for is_terminal in (True, False):
        said = io.StringIO()
        with Display(Console(file=said, force_terminal=is_terminal, width=200)) as display:
            display.plan(2 * trial.guess)
            display.done(trial, DONE, fresh=True)
            display.done(trial, DONE, fresh=False)
        text = said.getvalue()
        assert "85.0 %" in text and "at hand" in text and "left" in text


def test_words_for_trials_and_outcomes(trial: Trial) -> None:
    assert describe_trial(trial).split() == ["ddp", "run", "iid", "lr", "0.05", "seed", "0"]
    assert describe_outcome(DONE).split() == ["85.0", "%", "20.0", "kB/step", "55.0", "ms/step", "gap", "12", "ms"]
    assert describe_outcome(Outcome(ending="froze", steps=7)) == "froze at step 7"
    assert describe_outcome(Outcome(ending="crashed", reason="why")) == "crashed at step 0: why"
