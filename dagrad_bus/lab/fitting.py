"""Real runs, their numbers, and the cost model that explains two of them; then what that model says of others.

A run is the digits program on this machine, its steps padded to a stated time so that its processes fit the cores, and
each worker a little slower than the one before: at equal rates the moments at which workers meet would be those that
chance gave at the start, and a median age that of a few dozen draws. Numbers are those of the second half, without the
evaluations at its two ends.

Fitted are, to a run of small frames, the compute time (median and spread), the exchange's share of a step, and the flight
time, by the ages: on loopback a frame's flight is waking a thread on a busy core; and, to a run of large ones, the bandwidth,
by the ages again: there it is copying, sums and system calls. Rates and bytes are predicted, not fitted.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.parcels import usual_codec
from dagrad_bus.lab.scenario import Scenario
from dagrad_bus.lab.timing import simulate
from dagrad_bus.metrics import histogram_median, sum_bins
from dagrad_bus.settings import PREFIX, SERVED, ExchangeSettings, from_environment
from dagrad_bus.workers.launch.journal import Record, read_record

PROGRAM = "dagrad_bus.workers.digits"
LIMIT = 120.0
"""Seconds that a run may take beyond its steps."""
LEAST_LATENCY = 1e-5
LEAST_BYTE, MOST_BYTE = 1e-11, 1e-7
"""Seconds a byte takes: bounds of what is sought."""
SEEDS = 3
"""Predictions are means over so many."""
HALVINGS = 10
"""Of the interval in which the flight time is sought."""
_P99 = 2.326
"""Standard deviations from the median to the 99th percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all runs of a calibration have in common."""

    workers: int = 8
    steps: int = 200
    pace: float = 0.1
    """Seconds of a step of worker 0, at least."""
    drift: float = 0.002
    """Seconds that a step of each worker takes longer than one of the worker before."""

    @property
    def slowdown(self) -> dict[int, float]:
        """How many times longer a step of each worker takes than one of worker 0."""
        return {index: 1 + index * self.drift / self.pace for index in range(1, self.workers)} if self.drift else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a run showed, or a prediction says: means over the workers."""

    rate: float
    """Steps a second of a worker."""
    bytes_per_step: float
    median_age: float | None
    """By the histogram that runs keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A run's numbers, with those that only a fit needs."""

    seen: Observed
    parameters: int
    step: float
    """Seconds of a step without its padding: median, mean over the workers."""
    step_p99: float
    exchange: float
    """Seconds of it inside the exchange: by its share of all steps, which pauses of the machine leave alone."""


def parse_setting(text: str) -> ExchangeSettings:
    """Return the settings that ``density=0.04,interval=2`` asks for; empty for the defaults.

    Raises:
        UsageError: no such setting, or no such value.
    """
    pairs = [part.partition("=") for part in text.split(",") if part]
    if any(not (name and value) for name, _, value in pairs):
        raise UsageError(f"{text!r}: needs NAME=VALUE, several separated by commas, as density=0.04,interval=2")
    return from_environment({PREFIX + name.strip().upper(): value for name, _, value in pairs}).exchange


def command(setup: Setup, setting: str, folder: Path) -> list[str]:
    """Return the command of one run; its results go to ``folder``."""
    exchange = parse_setting(setting)
    launcher = [sys.executable, "-m", "dagrad_bus.tools.cli", "run", "-n", str(setup.workers), "--dir", str(folder)]
    options = ["--progress", "none", "--no-figures", "--on-failure", "abort"]
    options += [f"--{part.partition('=')[0].strip()}={part.partition('=')[2]}" for part in setting.split(",") if part]
    options.append(f"--codec={usual_codec(exchange.rule)}")
    if exchange.rule in SERVED:
        options.append("--topology=complete")
    program = ["-m", PROGRAM, "--steps", str(setup.steps), "--pace", str(setup.pace), "--log-steps", "--no-finals"]
    program += ["--eval-every", str(setup.steps // 2)]
    for index in range(1, setup.workers):
        if setup.drift:
            program += ["--sleep", f"local.{index}:{index * setup.drift:g}"]
    return [*launcher, *options, *program]


def run(setup: Setup, setting: str, folder: Path) -> Measured:
    """Make one run and return what it showed.

    Raises:
        UsageError: it failed, or took too long.
    """
    words = command(setup, setting, folder)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    limit = LIMIT + 4 * setup.steps * setup.pace
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise UsageError(f"took over {limit:.0f} s: {' '.join(words)}: is this machine busy?") from None
    finally:
        if process.poll() is None:  # out of time, or Ctrl-C: the launcher and all its workers
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        raise UsageError(f"exit code {process.returncode}: {' '.join(words)}\n{said[-1500:]}")
    return observe(folder, setup)


def observe(folder: Path, setup: Setup) -> Measured:
    """Return what a finished run showed.

    Raises:
        UsageError: its journals do not say.
    """
    names = [f"local.{index}" for index in range(setup.workers)]
    records = [read_record(folder / "workers" / f"{name}.jsonl", name) for name in names]
    spans = [_span(record, setup.steps) for record in records]
    logs = [_last_log(record, "step_p50_ms") for record in records]
    return Measured(
        seen=Observed(
            rate=fmean((last["step"] - first["step"]) / (last["time"] - first["time"]) for first, last in spans),
            bytes_per_step=fmean(_grown(span, "bytes_sent") / _steps(span) for span in spans),
            median_age=histogram_median(sum_bins([_ages(span) for span in spans])),
        ),
        parameters=int(records[0].start.get("parameters", 0)),
        step=fmean(log["step_p50_ms"] / 1000 for log in logs),
        step_p99=fmean(log["step_p99_ms"] / 1000 for log in logs),
        exchange=fmean(log["step_p50_ms"] / 1000 * log.get("exchange_share", 0.0) for log in logs),
    )


Span = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Two lines of a journal."""


def _span(record: Record, steps: int) -> Span:
    """Return the first and the last progress of the second half of a run, without the evaluations at its ends."""
    inside = [entry for entry in record.progress if steps // 2 + 1 < entry["step"] < steps]
    if len(inside) < 2 or inside[-1]["step"] <= inside[0]["step"]:
        raise UsageError(f"{record.name}: its journal has no progress between steps {steps // 2} and {steps}")
    return inside[0], inside[-1]


def _steps(span: Span) -> int:
    return int(span[1]["step"]) - int(span[0]["step"])


def _grown(span: Span, counter: str) -> int:
    first, last = (int(entry.get("counters", {}).get(counter, 0)) for entry in span)
    return last - first


def _ages(span: Span) -> list[int]:
    first, last = (list(entry.get("histograms", {}).get("age_steps", [])) for entry in span)
    return [after - before for before, after in zip(first or [0] * len(last), last, strict=True)]


def _last_log(record: Record, name: str) -> dict[str, float]:
    found = [entry for entry in record.logs if name in entry]
    if not found:
        raise UsageError(f"{record.name}: its journal does not say how long steps took: run with --log-steps")
    return {key: float(value) for key, value in found[-1].items() if isinstance(value, int | float)}


def fit(setup: Setup, setting: str, measured: Measured) -> Costs:
    """Return the costs that explain a run."""
    computing = max(1e-4, measured.step - measured.exchange)
    spread = math.log(max(1.0, measured.step_p99 / measured.step)) / _P99
    costs = Costs(
        compute=computing, spread=min(spread, 1.0), slowdown=setup.slowdown, exchange=measured.exchange,
        bandwidth=math.inf, latency=LEAST_LATENCY,
    )  # fmt: skip

    def age(latency: float) -> float | None:
        return predict(setup, setting, replace(costs, latency=latency), measured.parameters).median_age

    return replace(costs, latency=_bisect(age, measured.seen.median_age, LEAST_LATENCY, setup.pace))


def fit_bytes(setup: Setup, setting: str, costs: Costs, measured: Measured) -> Costs:
    """Return the costs with the time that bytes take, by the ages of a run of large frames; the rest is left alone."""

    def age(byte: float) -> float | None:
        return predict(setup, setting, replace(costs, bandwidth=1 / byte), measured.parameters).median_age

    byte = _bisect(age, measured.seen.median_age, LEAST_BYTE, MOST_BYTE)
    return replace(costs, bandwidth=math.inf if byte == LEAST_BYTE else 1 / byte)


def _bisect(age: Callable[[float], float | None], wanted: float | None, low: float, high: float) -> float:
    """Return the seconds with which ages are as wanted: between two bounds, the lower one where nothing is wanted."""
    if wanted is None:
        return low
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        said = age(middle)
        low, high = (middle, high) if said is not None and said < wanted else (low, middle)
    return low


def predict(setup: Setup, setting: str, costs: Costs, parameters: int) -> Observed:
    """Return what the simulator says of a run, a mean over some seeds."""
    exchange = parse_setting(setting)
    timings = [
        simulate(
            Scenario(
                rule=exchange.rule, workers=setup.workers, parameters=parameters, costs=costs, exchange=exchange,
                pace=setup.pace, steps=setup.steps // 2, warmup=setup.steps // 8, seed=seed,
            )
        )
        for seed in range(SEEDS)
    ]  # fmt: skip
    ages = [age for age in (histogram_median(timing.ages) for timing in timings) if age is not None]
    return Observed(
        rate=fmean(timing.rate for timing in timings),
        bytes_per_step=fmean(timing.bytes_per_step for timing in timings),
        median_age=fmean(ages) if ages else None,
    )


def errors(measured: Observed, predicted: Observed) -> dict[str, float]:
    """Return by what share of the measured value a prediction is off, by quantity; positive: too high."""
    pairs = {
        "rate": (measured.rate, predicted.rate),
        "bytes": (measured.bytes_per_step, predicted.bytes_per_step),
        "age": (measured.median_age, predicted.median_age),
    }
    return {name: said / seen - 1 for name, (seen, said) in pairs.items() if seen and said is not None}
