"""A calibration keeps its numbers, says how far off it is, and fits before it foretells."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.calibration import (
    SHIPPED,
    Calibration,
    calibrate,
    describe_machine,
    from_json,
    load_calibration,
    save_calibration,
)
from dagrad_bus.lab.fitting import Measured, Observed, Setup


def test_what_is_written_is_read_again(calibration: Calibration, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "mine.json"
    save_calibration(calibration, file)
    assert load_calibration(file) == calibration
    assert from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


def test_the_error_is_that_of_runs_that_were_not_fitted(calibration: Calibration) -> None:
    assert calibration.worst == pytest.approx({"rate": 0.02, "bytes": 0.04, "age": 0.05})
    told = calibration.describe()
    assert "rate 2.0 %, bytes 4.0 %, age 5.0 %" in told
    assert "density=0.04, 4 workers" in told
    assert "a machine, 2026-01-01" in told


def test_a_calibration_that_was_never_checked_says_so(calibration: Calibration) -> None:
    assert "never checked" in replace(calibration, checks=calibration.checks[:1]).describe()


def test_a_calibrated_profile_says_where_it_is_from(calibration: Calibration) -> None:
    profile = calibration.profile()
    assert profile.compute == pytest.approx(0.004)
    assert all(source.startswith("fitted to a real run: a machine") for source in profile.sources.values())


def test_one_is_shipped_and_foretold_something() -> None:
    shipped = load_calibration()
    assert shipped.foretold, SHIPPED
    assert set(shipped.worst) == {"rate", "bytes", "age"}
    assert shipped.setup.workers == 8


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "dagrad.plan/1"}'])
def test_something_else_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(UsageError, match="is no calibration"):
        load_calibration(file)
    with pytest.raises(UsageError, match="--calibrate makes"):
        load_calibration(tmp_path / "missing.json")


def test_a_run_is_foretold_before_it_is_made(tmp_path: Path) -> None:
    setup, made, told = Setup(workers=4, steps=40), list[str](), list[str]()

    def make(asked: Setup, setting: str, folder: Path) -> Measured:
        assert asked == setup
        made.append(f"{setting} {folder.name}")
        return Measured(
            seen=Observed(rate=9.7, bytes_per_step=5000.0, median_age=0.6), parameters=20_000, step=0.01, step_p99=0.02,
            exchange=0.006,
        )  # fmt: skip

    found = calibrate(setup, ("density=0.04", "interval=2"), tmp_path, told.append, make)
    assert made == [" 0", "rule=gossip-dense 1", "density=0.04 2", "interval=2 3"]
    assert len(told) == 4
    assert [check.fitted for check in found.checks] == [True, True, False, False]
    assert found.checks[0].predicted.median_age == pytest.approx(0.6, rel=0.05)
    assert found.checks[3].predicted.bytes_per_step < found.checks[0].predicted.bytes_per_step
    assert found.command == "dagrad simulate --calibrate --against density=0.04 --against interval=2"


def test_the_machine_is_described_without_a_name() -> None:
    told = describe_machine()
    assert "cores, Python 3" in told
    assert "torch" in told
