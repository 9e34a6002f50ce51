"""``dagrad simulate`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from dagrad_bus.errors import UsageError
from dagrad_bus.lab import calibration as calibrating
from dagrad_bus.lab.calibration import load_calibration
from dagrad_bus.lab.fitting import Measured, Observed, Setup
from dagrad_bus.lab.scenario import RULES
from dagrad_bus.tools.simulate import make_experiments, make_question, parse_stragglers, simulate, split

QUICK = ["--link", "10gbit", "--workers", "4", "--steps", "5"]


def call(*words: str) -> str:
    done = CliRunner().invoke(simulate, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def options(*words: str) -> dict[str, Any]:
    """Return the options that words on the command line make."""
    with simulate.make_context("simulate", list(words)) as context:
        return dict(context.params)


def test_a_table_of_all_rules_ends_with_the_calibrations_error() -> None:
    told = call(*QUICK)
    for rule in RULES:
        assert rule in told
    assert "calibration error:" in told


def test_numbers_are_there_for_programs() -> None:
    found = json.loads(call(*QUICK, "--rules", "state", "sync-ps", "--json"))
    assert found["schema"] == "dagrad.simulate/1"
    assert [row["rule"] for row in found["rows"]] == ["state", "sync-ps"]
    assert set(found["calibration"]["error"]) == {"rate", "bytes", "age"}
    assert "not measured here" in found["paper"]["note"]


def test_figure_and_numbers_are_written(tmp_path: Path) -> None:
    call(*QUICK, "--rules", "state", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out" / "efficiency.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "simulate.json").read_text())["rows"]


def test_sources_are_shown_when_asked() -> None:
    assert "NVIDIA/DeepLearningExamples" in call(*QUICK, "--rules", "local", "--sources")


def test_options_make_the_question() -> None:
    words = "--profile bert-base --link 1gbit 100mbit -n 8 2 --rules choco state --density 0.04 --interval 2"
    more = "--stragglers 1:3 --swing 0.5 --churn 0.1 --degree 2 --batch 24 --seed 3"
    found = make_question(options(*words.split(), *more.split()), load_calibration())
    assert (found.workers, found.rules, tuple(found.wires)) == ((2, 8), ("state", "choco"), ("1gbit", "100mbit"))
    assert (found.exchange.density, found.exchange.interval, found.degree) == (0.04, 2, 2)
    assert (found.stragglers, found.factor, found.swing, found.churn, found.seed) == (1, 3.0, 0.5, 0.1, 3)
    assert found.profile.batch == 24


def test_a_scale_looks_at_one_link() -> None:
    found = make_question(options("--scale", "4", "64"), load_calibration())
    assert (found.workers, tuple(found.wires)) == ((4, 64), ("10gbit",))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--workers", "many"], "whole numbers"),
        (["--workers", "0"], "whole numbers over 0"),
        (["--rules", "nonsense"], "nonsense"),
        (["--link", "string"], "10gbit"),
        (["--profile", "vgg"], "resnet50"),
        (["--density", "7"], "density"),
        (["--stragglers", "3"], "K:FACTOR"),
        (["--workers", "2", "--stragglers", "3:2"], "3 stragglers of 2"),
        (["--calibrate", "--train"], "one of them"),
        (["--calibration", "missing.json"], "--calibrate makes"),
        (["--train", "--churn", "0.1"], "soak"),
        (["--calibrate", "--against", "nonsense=1"], "NONSENSE"),
        (["--calibrate", "--runs", "."], "no progress"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=told):
        CliRunner().invoke(simulate, words, catch_exceptions=False)


@pytest.mark.parametrize("text", ["3", "3:", ":2", "3:0.5", "-1:2", "a:b"])
def test_stragglers_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="K:FACTOR"):
        parse_stragglers(text)


def test_words_are_split() -> None:
    assert split(("a,b", "c")) == ("a", "b", "c")
    assert split(()) == ()
    found = make_question(options("--workers", "32", "--workers", "128", "--link", "1gbit"), load_calibration())
    assert found.workers == (32, 128)
    assert parse_stragglers(None) == (0, 1.0)


def test_training_makes_an_experiment_for_each_cell() -> None:
    words = "--train --rules state all-reduce sync-ps -n 4 8 --task digits-small --steps 7 --lr 0.1 --density 0.02"
    found = make_experiments(options(*words.split()), load_calibration())
    assert [(wire, workers, rule) for wire, workers, rule, _ in found] == [
        ("10gbit", 4, "state"), ("10gbit", 4, "sync-ps"), ("10gbit", 8, "state"), ("10gbit", 8, "sync-ps"),
    ]  # fmt: skip
    experiment = found[0][3]
    assert (experiment.task, experiment.steps, experiment.lr, experiment.exchange.density) == (
        "digits-small",
        7,
        0.1,
        0.02,
    )
    assert experiment.costs.bandwidth == 1.25e9


@pytest.mark.slow
def test_a_small_run_is_trained() -> None:
    words = "--train --rules state -n 3 --task digits-small --steps 20 --report val"
    told = call(*words.split())
    assert "accuracy" in told
    assert "calibration error:" in told


@pytest.mark.parametrize(("rate", "code"), [(9.35, 0), (5.0, 1)])
def test_a_calibration_is_measured_written_and_used(
    rate: float, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The runs are made up; the fit, the file and the verdict are not."""

    def make(setup: Setup, setting: str, folder: Path) -> Measured:
        seen = Observed(rate=rate, bytes_per_step=29_400.0, median_age=0.6)
        return Measured(seen=seen, parameters=301_066, step=0.01, step_p99=0.02, exchange=0.006)

    monkeypatch.setattr(calibrating.calibrate, "__defaults__", (print, make))
    file = tmp_path / "mine.json"
    words = ["--calibrate", "--calibration", str(file), "--against", "density=0.01+interval=1"]
    done = CliRunner().invoke(simulate, words, catch_exceptions=False)
    assert done.exit_code == code, done.output
    assert "defaults (fitted)" in done.stdout
    assert load_calibration(file).foretold[0].setting == "density=0.01,interval=1"
    assert "calibration error" in call(*QUICK, "--rules", "state", "--profile", "digits", "--calibration", str(file))


def test_help_teaches() -> None:
    told = call("--help")
    assert "How to read it" in told
    assert "--scale 32 128 1000 10000" in told
    assert isinstance(simulate, click.Command)
