"""What a run's journals say, and whether a fit finds the costs again that made the numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab import fitting
from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.fitting import (
    Measured,
    Observed,
    Setup,
    command,
    errors,
    fit,
    fit_bytes,
    observe,
    parse_setting,
    predict,
    run,
)
from dagrad_bus.metrics import AGE_EDGES

SETUP = Setup(workers=2, steps=40, pace=0.1, drift=0.0)
MODEL = 20_000


def write_journals(folder: Path, *, logs: bool = True) -> None:
    """Leave what two workers would: ten steps a second, 500 bytes a step, ages between 0.5 and 1."""
    (folder / "workers").mkdir(parents=True)
    for index in range(2):
        lines: list[dict[str, object]] = [{"event": "start", "name": f"local.{index}", "parameters": MODEL}]
        for step in range(0, 41, 5):
            ages = [0] * (len(AGE_EDGES) + 1)
            ages[2] = step * 4
            lines.append(
                {"event": "progress", "time": 100 + step / 10, "step": step, "counters": {"bytes_sent": 500 * step},
                 "histograms": {"age_steps": ages if step else []}}
            )  # fmt: skip
            if logs and step in {20, 40}:
                times = {"step_p50_ms": 10.0, "step_p99_ms": 20.0, "exchange_share": 0.8 if step == 20 else 0.6}
                lines.append({"event": "log", "time": 100 + step / 10, "step": step, **times})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "workers" / f"local.{index}.jsonl").write_text(text)


def test_the_second_half_of_a_run_is_what_counts(tmp_path: Path) -> None:
    write_journals(tmp_path)
    found = observe(tmp_path, SETUP)
    assert found.seen.rate == pytest.approx(10.0)
    assert found.seen.bytes_per_step == pytest.approx(500.0)
    assert found.seen.median_age == pytest.approx(0.75)
    assert found.parameters == MODEL
    assert (found.step, found.step_p99, found.exchange) == pytest.approx((0.010, 0.020, 0.006))


def test_a_run_that_does_not_say_how_long_steps_took_is_refused(tmp_path: Path) -> None:
    write_journals(tmp_path, logs=False)
    with pytest.raises(UsageError, match="--log-steps"):
        observe(tmp_path, SETUP)


def test_a_run_that_was_not_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no progress"):
        observe(tmp_path, SETUP)


def test_a_setting_is_parsed_and_put_on_the_command_line(tmp_path: Path) -> None:
    assert parse_setting("density=0.04,interval=2").interval == 2
    words = command(Setup(), "rule=sync-ps,density=0.04", tmp_path)
    assert {
        "--rule=sync-ps",
        "--codec=raw",
        "--density=0.04",
        "--topology=complete",
        "--log-steps",
        "local.7:0.014",
    } <= set(words)
    for wrong in ("density", "=2", "nonsense=1", "density=2"):
        with pytest.raises(UsageError):
            parse_setting(wrong)


@pytest.mark.parametrize("latency", [0.004, 0.02])
def test_a_fit_finds_the_flight_time_that_made_the_ages(latency: float) -> None:
    setup = Setup(workers=8, steps=160)
    made = Costs(
        compute=0.004, spread=0.2, exchange=0.006, latency=latency, bandwidth=math.inf, slowdown=setup.slowdown
    )
    seen = predict(setup, "", made, MODEL)
    measured = Measured(seen=seen, parameters=MODEL, step=0.01, step_p99=0.016, exchange=0.006)
    found = fit(setup, "", measured)
    assert found.latency == pytest.approx(latency, rel=0.2, abs=0.002)
    assert found.compute == pytest.approx(0.004)
    assert found.spread == pytest.approx(0.2, rel=0.05)
    said = predict(setup, "", found, MODEL)
    assert said.median_age == pytest.approx(seen.median_age, rel=0.02)


@pytest.mark.parametrize("bandwidth", [2e8, 2e7])
def test_a_fit_finds_the_bandwidth_that_made_the_ages(bandwidth: float) -> None:
    setup, large = Setup(workers=8, steps=160), "rule=gossip-dense"
    made = Costs(compute=0.004, exchange=0.006, latency=0.004, bandwidth=bandwidth, slowdown=setup.slowdown)
    measured = Measured(
        seen=predict(setup, large, made, 301_066), parameters=301_066, step=0.01, step_p99=0.01, exchange=0.006
    )
    found = fit_bytes(setup, large, replace(made, bandwidth=math.inf), measured)
    assert found.bandwidth == pytest.approx(bandwidth, rel=0.1)
    assert replace(found, bandwidth=0.5) == replace(made, bandwidth=0.5)


def test_a_run_without_ages_says_nothing_of_bytes() -> None:
    seen = Observed(rate=10.0, bytes_per_step=0.0, median_age=None)
    measured = Measured(seen=seen, parameters=MODEL, step=0.01, step_p99=0.01, exchange=0.0)
    assert math.isinf(fit_bytes(SETUP, "rule=local", Costs(), measured).bandwidth)


def test_a_run_without_ages_leaves_the_flight_time_alone() -> None:
    seen = Observed(rate=10.0, bytes_per_step=0.0, median_age=None)
    measured = Measured(seen=seen, parameters=MODEL, step=0.01, step_p99=0.01, exchange=0.0)
    assert fit(SETUP, "rule=local", measured).latency < 1e-4


def test_workers_of_a_setup_drift_past_each_other() -> None:
    setup = Setup(workers=3, pace=0.1, drift=0.002)
    assert setup.slowdown == pytest.approx({1: 1.02, 2: 1.04})
    costs = Costs(compute=0.004, bandwidth=math.inf, slowdown=setup.slowdown)
    assert predict(setup, "", costs, MODEL).rate == pytest.approx((10 + 10 / 1.02 + 10 / 1.04) / 3, rel=1e-3)


def test_errors_are_shares_of_what_was_measured() -> None:
    seen = Observed(rate=10.0, bytes_per_step=1000.0, median_age=0.5)
    found = errors(seen, replace(seen, rate=11.0, bytes_per_step=900.0, median_age=None))
    assert found == pytest.approx({"rate": 0.1, "bytes": -0.1})


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_real_run_is_made_and_read(tmp_path: Path) -> None:
    found = run(Setup(workers=2, steps=60, pace=0.05), "density=0.02", tmp_path / "run")
    assert found.parameters == 301_066
    assert 5 < found.seen.rate < 21
    assert found.seen.bytes_per_step > 5000
    assert found.seen.median_age is not None
    assert 0 < found.exchange < found.step


@pytest.mark.slow
def test_a_run_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "LIMIT", 1.0)
    with pytest.raises(UsageError, match="took over 1 s"):
        run(Setup(workers=2, steps=1, pace=0.01, drift=0.0), "", tmp_path / "run")


@pytest.mark.slow
def test_a_run_that_fails_says_so(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("no folder")
    with pytest.raises(UsageError, match="exit code"):
        run(Setup(workers=2, steps=10), "density=0.02", tmp_path / "run")
