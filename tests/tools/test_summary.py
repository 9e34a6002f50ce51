from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dagrad_bus.tools.summary import Summary, read_records, summarize
from dagrad_bus.workers.launch.folder import RunFolder

Journal = Callable[..., list[dict[str, Any]]]
MakeRun = Callable[..., RunFolder]


def summary_of(folder: RunFolder) -> Summary:
    return summarize(folder.read_run(), read_records(folder))


def test_numbers_are_those_of_the_journals(make_run: MakeRun, journal: Journal) -> None:
    summary = summary_of(make_run(journal(0), journal(1), journal(2), states=("done",) * 3))
    worker = summary.workers[1]
    assert (worker.steps, worker.rate, worker.accuracy, worker.bytes_per_step) == (100, 10.0, 0.91, 40.0)
    assert (worker.frames_sent, worker.frames_accepted, worker.frames_mixed) == (200, 190, 180)
    assert (summary.steps, summary.rate, summary.parameters, summary.bytes_per_step) == (300, 30.0, 1000, 40.0)
    assert summary.dense_share == 40 / 8000
    assert summary.dropped == {"crc": 6}
    assert summary.median_age == 1.0
    assert summary.mixing.verdict == "mixed"
    assert summary.accuracy is not None
    assert summary.accuracy == pytest.approx({"mean": 0.91, "worst": 0.9, "std": math.sqrt(2 / 3) / 100})


def test_consensus_distance_is_the_formula_at_equal_steps(make_run: MakeRun, journal: Journal) -> None:
    late = [entry for entry in journal(1) if entry["event"] != "sample" or entry["step"] >= 50]
    summary = summary_of(make_run(journal(0), late, states=("done",) * 2))
    rows = np.full((2, 8), 3.0)
    rows[0, 0] += 0.5
    rows[1, 1] += 0.5
    center = rows.mean(axis=0)
    expected = np.linalg.norm(rows - center, axis=1).mean() / np.linalg.norm(center)
    assert [step for step, _ in summary.consensus] == list(range(50, 101, 5))
    assert [value for _, value in summary.consensus] == pytest.approx([expected] * 11)


def test_a_survivor_that_mixed_nothing_is_called_out(make_run: MakeRun, journal: Journal) -> None:
    mixing = summary_of(make_run(journal(0), journal(1, mixed=0), states=("done",) * 2)).mixing
    assert mixing.verdict == "not mixed"
    assert mixing.reasons[0].startswith("local.1 never mixed")


def test_a_run_in_which_nobody_mixed_says_so(make_run: MakeRun, journal: Journal) -> None:
    mixing = summary_of(make_run(journal(0, mixed=0), journal(1, mixed=0), states=("done",) * 2)).mixing
    assert (mixing.verdict, mixing.reasons[0][:9]) == ("not mixed", "no worker")


def test_replicas_that_drift_apart_are_called_out(make_run: MakeRun, journal: Journal) -> None:
    summary = summary_of(make_run(journal(0, drift=0.05), journal(1, drift=0.05), states=("done",) * 2))
    assert summary.mixing.verdict == "drifting"


def test_nobody_asks_for_mixing_of_one_worker_or_without_exchange(make_run: MakeRun, journal: Journal) -> None:
    folder = make_run(journal(0, mixed=0), journal(1, mixed=0), states=("done",) * 2, rule="local")
    assert summary_of(folder).mixing.verdict == "not asked"
    folder.update_run(workers=["local.0"], settings={})
    assert summary_of(folder).mixing.verdict == "not asked"


def test_a_crashed_worker_counts_in_no_mean_and_needs_no_mixing(make_run: MakeRun, journal: Journal) -> None:
    crashed = journal(2, mixed=0, end=False)[:10]
    summary = summary_of(make_run(journal(0), journal(1), crashed, states=("done", "done", "exit 7")))
    assert summary.mixing.verdict == "mixed"
    assert summary.accuracy is not None
    assert summary.accuracy["mean"] == pytest.approx(0.905)
    assert [failure["name"] for failure in summary.failures] == ["local.2"]
    assert len(summary.consensus) == 21


def test_a_lost_launcher_leaves_a_readable_run(make_run: MakeRun, journal: Journal) -> None:
    summary = summary_of(make_run(journal(0), journal(1, end=False)))
    assert [worker.state for worker in summary.workers] == ["done", "unknown"]
    assert summary.mixing.verdict == "unknown"


def test_a_run_without_journals_has_a_summary(make_run: MakeRun) -> None:
    summary = summary_of(make_run([], [], states=("done", "done")))
    assert (summary.steps, summary.rate, summary.accuracy, summary.bytes_per_step) == (0, None, None, None)
    assert summary.mixing.verdict == "not mixed"


def test_damaged_samples_are_left_out(make_run: MakeRun, journal: Journal) -> None:
    entries = journal(0)
    entries[2]["values"] = "not base64!"
    summary = summary_of(make_run(entries, journal(1), states=("done",) * 2))
    assert summary.consensus[0][0] == 5


def test_json_begins_with_the_schema_and_holds_no_nan(make_run: MakeRun, journal: Journal) -> None:
    entries = [entry | ({"loss": math.nan} if entry["event"] == "log" else {}) for entry in journal(0)]
    summary = summary_of(make_run(entries, journal(1), states=("done",) * 2))
    text = json.dumps(summary.to_json(), allow_nan=False)
    assert text.startswith('{"schema": "dagrad.summary/1", "run": "ab12"')
    assert json.loads(text)["loss"]["mean"] is None
