"""What one trial gave, read from the files that its workers left.

**Did the replicas move together?** Nobody's word is taken for it: a library may return success and have averaged
nothing. Each worker samples its replica over the run. ``spread`` is how far the replicas lie from their mean at the end,
as a share of how far that mean has moved from the start. Replicas that nobody averages have a spread of their own,
which the system without exchange shows on the same shards; one that is not well below it has not averaged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.lab.interface import Ran
from dagrad_bus.lab.rivals.handout import VICTIM, Trial

AVERAGED = 0.5
"""Spread, as a share of that without exchange, up to which replicas count as averaged."""

_ERROR = re.compile(r"\w(Error|Exception|Failure)\b")
_LONGEST = 200

Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One trial. None where the trial did not get so far. Step times are those of the awaited workers."""

    ending: str
    """``done``, ``froze``, ``crashed`` or ``too slow``."""
    reason: str = ""
    """The last thing that was said, where it is not done."""
    accuracies: tuple[float, ...] = ()
    """Of each awaited worker's own replica."""
    steps: int = 0
    """Least number of steps that an awaited worker took."""
    bytes_per_step: float | None = None
    """Sent by a worker in each step, at the interface, from the first step on."""
    startup_bytes: float | None = None
    """Sent by a worker before that."""
    step_ms: float | None = None
    """Mean time of a step, from taking a batch to the end of the optimizer's step."""
    step_p50_ms: float | None = None
    step_p99_ms: float | None = None
    cpu_ms: float | None = None
    """Processor time of a worker and its children per step."""
    peak_mb: float | None = None
    """Largest resident size of a worker and its children."""
    spread: float | None = None
    """See the module."""
    drift: tuple[float, ...] = ()
    """The spread over the run, each as a share of the whole way."""
    gap_ms: float | None = None
    """Longest time from one step's end to the next of a survivor, after the kill, beyond its usual one."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it for a store of results."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Outcome:
        """Return what :meth:`to_json` gave."""
        values: dict[str, Any] = {**found, "accuracies": tuple(found["accuracies"]), "drift": tuple(found["drift"])}
        return cls(**values)


def read_outcome(trial: Trial, folder: Path, ran: Ran) -> Outcome:
    """Gather what the workers of a trial left in ``folder``."""
    crew = _read(folder / "crew.json")
    ending = "too slow" if ran.timed_out else str(crew.get("ending", "crashed"))
    results = [_read(folder / f"worker.{rank}.json") for rank in trial.awaited]
    times = [read_times(folder / f"times.{rank}") for rank in trial.awaited]
    steps = min((len(part) for part in times), default=0)
    done = ending == "done"
    sent, startup = _traffic(trial, folder, ran, steps)
    mean, p50, p99 = _step_times(times, trial.warm)
    drift = _drift(folder, trial) if done else ()
    return Outcome(
        ending=ending,
        reason="" if done else last_words(folder, ran),
        accuracies=tuple(result["accuracy"] for result in results) if done else (),
        steps=steps,
        bytes_per_step=sent,
        startup_bytes=startup,
        step_ms=mean,
        step_p50_ms=p50,
        step_p99_ms=p99,
        cpu_ms=fmean(result["cpu"] for result in results) * 1000 if done else None,
        peak_mb=max(result["peak"] for result in results) / 1e6 if done else None,
        spread=drift[-1] if drift else None,
        drift=drift,
        gap_ms=_gap(trial, folder, times) if done and trial.fault == "kill" else None,
        seconds=ran.seconds,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return found


def read_times(file: Path) -> Times:
    """Return float64[steps, 2], begin and end of each step; empty where the worker took none. A torn pair is left."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        data = b""
    return np.frombuffer(data[: len(data) // 16 * 16], np.float64).reshape(-1, 2)


def _traffic(trial: Trial, folder: Path, ran: Ran, steps: int) -> tuple[float | None, float | None]:
    """Return the bytes of a worker per step from the first step on, and those before it."""
    starts = [_read(folder / f"start.{rank}.json").get("sent") for rank in trial.awaited]
    if not steps or any(start is None for start in starts):
        return None, None
    before = min(start for start in starts if start is not None)
    return (ran.traffic.sent - before) / trial.workers / steps, before / trial.workers


def _step_times(times: list[Times], warm: int) -> tuple[float | None, float | None, float | None]:
    """Return mean, median and 99th percentile, in ms, of the steps after the first ones; None if there are none."""
    kept = [part[warm:] for part in times]
    spans = np.concatenate([(part[:, 1] - part[:, 0]) * 1000 for part in kept] or [np.empty(0)])
    if not len(spans):
        return None, None, None
    return float(spans.mean()), float(np.percentile(spans, 50)), float(np.percentile(spans, 99))


def _drift(folder: Path, trial: Trial) -> tuple[float, ...]:
    files = [folder / f"samples.{rank}.npy" for rank in trial.awaited]
    if len(files) < 2 or not all(file.exists() for file in files):
        return ()
    return spread_of(np.stack([np.load(file, allow_pickle=False) for file in files]))


def spread_of(samples: NDArray[np.float32]) -> tuple[float, ...]:
    """Return how far replicas lie from their mean, as a share of the way that the mean goes from first to last sample.

    Args:
        samples: float32[workers, moments, coordinates]; the first moment is before the first step.

    Returns:
        One number a moment; empty if the mean never moved, or a value is not finite.
    """
    if not np.isfinite(samples).all():
        return ()
    exact = samples.astype(np.float64)
    mean = exact.mean(axis=0)
    way = float(np.linalg.norm(mean[-1] - mean[0]))
    if not way:
        return ()
    return tuple(float(value) / way for value in np.linalg.norm(exact - mean, axis=2).mean(axis=0))


def is_averaged(spread: float | None, reference: float | None) -> bool | None:
    """Return whether replicas were averaged, by their spread and the spread without exchange; None: cannot be told."""
    if spread is None or not reference:
        return None
    return spread <= AVERAGED * reference


def _gap(trial: Trial, folder: Path, times: list[Times]) -> float | None:
    """Return the longest pause of a survivor after the victim's last step, in ms beyond its usual one."""
    last = read_times(folder / f"times.{VICTIM}")
    return None if not len(last) else longest_pause(times, float(last[-1, 1])) * 1000


def longest_pause(times: list[Times], since: float) -> float:
    """Return the longest time, in seconds, from one step's end to the next that ends after ``since``, less the median."""
    worst = 0.0
    for part in times:
        ends = part[:, 1]
        pauses = np.diff(ends)
        after = pauses[ends[1:] > since]
        if len(after):
            worst = max(worst, float(after.max() - np.median(pauses)))
    return worst


def last_words(folder: Path, ran: Ran) -> str:
    """Return the last error that a worker named, or else its last line: the first worker's with any, else the crew's."""
    texts = [file.read_text(errors="replace") for file in sorted(folder.glob("command.*.log"))]
    spoken = [lines for text in [*texts, ran.tail] if (lines := [line for line in text.splitlines() if line.strip()])]
    for lines in spoken:
        if errors := [line for line in lines if _ERROR.search(line)]:
            return errors[-1].strip()[:_LONGEST]
    return spoken[0][-1].strip()[:_LONGEST] if spoken else ""
