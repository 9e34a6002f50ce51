from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dagrad_bus.lab.interface import Ran, Traffic
from dagrad_bus.lab.rivals.handout import Trial
from dagrad_bus.lab.rivals.outcome import (
    Outcome,
    is_averaged,
    last_words,
    longest_pause,
    read_outcome,
    read_times,
    spread_of,
)

MakeTrial = Callable[..., Trial]
RAN = Ran(0, Traffic(90_000, 100), 12.0, "crew said this\n")


def _worker(folder: Path, rank: int, accuracy: float, sent: int, step: float = 0.05, steps: int = 20) -> None:
    begins = np.arange(steps) * 0.1 + rank
    (folder / f"times.{rank}").write_bytes(np.stack([begins, begins + step], axis=1).tobytes())
    (folder / f"start.{rank}.json").write_text(json.dumps({"sent": sent}))
    found: dict[str, object] = {
        "accuracy": accuracy,
        "cpu": 0.01,
        "peak": 300_000_000 + rank,
        "steps": steps,
        "notes": {},
    }
    (folder / f"worker.{rank}.json").write_text(json.dumps(found))
    samples = np.array([[0.0, 0.0], [1.0, rank * 0.2], [4.0, rank * 0.1]], np.float32)
    np.save(folder / f"samples.{rank}.npy", samples)


def _crew(folder: Path, ending: str) -> None:
    (folder / "crew.json").write_text(json.dumps({"ending": ending}))


def test_a_finished_trial_has_every_number(make_trial: MakeTrial, tmp_path: Path) -> None:
    _worker(tmp_path, 0, 0.9, 10_000)
    _worker(tmp_path, 1, 0.8, 12_000)
    _crew(tmp_path, "done")
    found = read_outcome(make_trial(), tmp_path, RAN)
    assert (found.ending, found.accuracies, found.steps, found.seconds) == ("done", (0.9, 0.8), 20, 12.0)
    assert found.bytes_per_step == (90_000 - 10_000) / 2 / 20
    assert found.startup_bytes == 5_000
    assert found.step_ms == pytest.approx(50) == found.step_p99_ms
    assert found.cpu_ms == pytest.approx(10) and found.peak_mb == pytest.approx(300)
    assert found.spread == pytest.approx(0.05 / np.hypot(4, 0.05)) and len(found.drift) == 3
    assert Outcome.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_crashed_trial_says_the_last_words(make_trial: MakeTrial, tmp_path: Path) -> None:
    _crew(tmp_path, "crashed")
    (tmp_path / "command.0.log").write_text("\n")
    (tmp_path / "command.1.log").write_text("Traceback\nRuntimeError: connection closed\nbye\n\n")
    found = read_outcome(make_trial(), tmp_path, RAN)
    assert (found.ending, found.reason) == ("crashed", "RuntimeError: connection closed")
    assert (found.accuracies, found.steps, found.bytes_per_step, found.step_ms, found.spread) == (
        (),
        0,
        None,
        None,
        None,
    )


def test_without_a_word_of_a_worker_the_crew_is_asked(tmp_path: Path) -> None:
    assert last_words(tmp_path, RAN) == "crew said this"
    (tmp_path / "command.0.log").write_text("one\ntwo\n")
    assert last_words(tmp_path, RAN) == "two"


def test_a_trial_that_was_killed_is_too_slow(make_trial: MakeTrial, tmp_path: Path) -> None:
    _worker(tmp_path, 0, 0.9, 10_000)
    found = read_outcome(make_trial(), tmp_path, Ran(-9, Traffic(1, 1), 300.0, "", timed_out=True))
    assert (found.ending, found.steps) == ("too slow", 0)


def test_after_a_kill_the_survivors_are_asked(make_trial: MakeTrial, tmp_path: Path) -> None:
    _worker(tmp_path, 0, 0.9, 0)
    _worker(tmp_path, 1, 0.9, 0, steps=10)
    ends = np.concatenate([np.arange(1, 13) * 0.1, np.arange(18, 27) * 0.1])  # ends at 1.2, then at 1.8
    (tmp_path / "times.0").write_bytes(np.stack([ends - 0.05, ends], axis=1).tobytes())
    (tmp_path / "times.1").write_bytes(np.array([[1.0, 1.05]]).tobytes())
    (tmp_path / "worker.1.json").unlink()
    _crew(tmp_path, "done")
    found = read_outcome(make_trial(fault="kill"), tmp_path, RAN)
    assert found.gap_ms == pytest.approx(500)
    assert found.accuracies == (0.9,)


def test_pauses_before_the_kill_do_not_count() -> None:
    ends = np.array([1.0, 2.0, 2.1, 2.2, 2.5, 2.6])
    times = [np.stack([ends, ends], axis=1)]
    assert longest_pause(times, 2.15) == pytest.approx(0.2)
    assert longest_pause(times, 9.0) == 0


def test_a_torn_pair_of_times_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "times").write_bytes(np.zeros(4).tobytes() + b"torn")
    assert read_times(tmp_path / "times").shape == (2, 2)
    assert read_times(tmp_path / "none").shape == (0, 2)


def test_replicas_that_are_equal_have_no_spread_and_broken_ones_none_that_counts() -> None:
    rng = np.random.default_rng(0)
    path = np.cumsum(rng.integers(-9, 9, size=(5, 30)), axis=0).astype(np.float32)
    assert spread_of(np.stack([path] * 3)) == (0.0,) * 5
    apart = spread_of(np.stack([path, -path]) + 1)
    assert apart == ()  # their mean never moved
    path[-1, 3] = np.nan
    assert spread_of(np.stack([path] * 2)) == ()


@pytest.mark.parametrize(
    ("spread", "reference", "verdict"),
    [(0.01, 0.3, True), (0.15, 0.3, True), (0.16, 0.3, False), (None, 0.3, None), (0.1, None, None), (0.1, 0.0, None)],
)
def test_the_verdict(spread: float | None, reference: float | None, verdict: bool | None) -> None:
    assert is_averaged(spread, reference) is verdict
