from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagrad_bus.lab.interface import Traffic, why_not
from dagrad_bus.lab.paper import measuring
from dagrad_bus.lab.paper.cells import Cell, Request
from dagrad_bus.lab.paper.measuring import (
    Measured,
    RunFailed,
    bytes_curve,
    describe_counting,
    environment,
    final_distance,
    measure,
    measure_alone,
    read_run,
    training_rate,
)
from dagrad_bus.workers.launch.journal import Record

MakeRun = Callable[..., Measured]


@pytest.fixture
def cell() -> Cell:
    request = Request(workers=2, rules=("state",), rates=(0.1,), seeds=(0,), steps=20, pace=0.01).filled()
    return request.cell("measure", "state", 0.1, 0)


def make_record(entries: Sequence[Mapping[str, Any]], name: str = "local.0") -> Record:
    record = Record(name)
    for entry in entries:
        record.add(json.dumps(entry).encode())
    return record


def log(step: int, time: float, **numbers: float) -> dict[str, Any]:
    return {"event": "log", "step": step, "time": time, **numbers}


def progress(step: int, sent: int) -> dict[str, Any]:
    return {"event": "progress", "step": step, "time": 0.0, "rate": 0.0, "counters": {"bytes_sent": sent}}


def test_bytes_are_those_of_the_interface_where_it_was_read(make_run: MakeRun) -> None:
    assert make_run(interface_bytes=40_000).bytes_per_step == 40_000 / (4 * 50)
    assert make_run(interface_bytes=None, packets=None, socket_bytes=20_000).bytes_per_step == 100.0
    assert make_run(interface_bytes=40_000).dense_share == 200 / 8000


@pytest.mark.parametrize(
    ("payload", "agrees"),
    [(1_000_000, True), (1_030_000, True), (1_200_000, False), (985_000, True), (900_000, False)],
)
def test_both_counts_must_agree(payload: int, agrees: bool, make_run: MakeRun) -> None:
    run = make_run(interface_bytes=payload + 52 * 200, packets=200, socket_bytes=1_000_000)
    assert run.agreement == payload / 1_000_000
    assert run.agrees is agrees


def test_one_count_alone_agrees_with_nothing(make_run: MakeRun) -> None:
    assert make_run(interface_bytes=None, packets=None).agrees is None
    assert make_run(socket_bytes=0).agrees is None


def test_a_run_comes_back_from_the_store_as_it_was(make_run: MakeRun) -> None:
    run = make_run()
    assert Measured.from_json(json.loads(json.dumps(run.to_json()))) == run


def test_the_rate_is_taken_while_the_worker_trains() -> None:
    logs = [log(10, 100.0), log(20, 105.0), log(50, 114.0), log(50, 115.0), log(170, 120.0)]
    assert training_rate(make_record(logs), 50) == pytest.approx(40 / 14)


@pytest.mark.parametrize("logs", [[], [log(10, 1.0)], [log(170, 1.0)]])
def test_a_worker_that_was_not_seen_to_train_has_no_rate(logs: list[dict[str, Any]]) -> None:
    assert training_rate(make_record(logs), 50) == 0.0


def test_the_area_below_the_curve_is_what_was_sent() -> None:
    records = [make_record([progress(0, 100), progress(20, 2100), progress(50, 3000), progress(80, 9000)])]
    curve = bytes_curve(records, 50)
    steps = [0, *(step for step, _ in curve)]
    area = sum(size * (b - a) for (_, size), a, b in zip(curve, steps, steps[1:], strict=False))
    assert curve[-1][0] == 50
    assert area == pytest.approx(3000 - 100)
    assert curve[0][1] == pytest.approx(100.0)


def test_a_curve_is_the_mean_over_the_workers() -> None:
    records = [make_record([progress(0, 0), progress(30, 300)]), make_record([progress(0, 0), progress(30, 900)])]
    assert all(size == pytest.approx(20.0) for _, size in bytes_curve(records, 30))
    assert bytes_curve([make_record([])], 30) == ()


def test_the_distance_of_the_final_replicas(tmp_path: Path) -> None:
    assert final_distance(tmp_path) is None
    for number, values in enumerate([[3.0, 4.0 + 1.0], [3.0, 4.0 - 1.0]]):
        np.save(tmp_path / f"local.{number}.npy", np.array(values, np.float32))
    assert final_distance(tmp_path) == pytest.approx(1 / 5)


def test_replicas_that_are_not_finite_have_no_distance(tmp_path: Path) -> None:
    for number in range(2):
        np.save(tmp_path / f"local.{number}.npy", np.array([np.nan, 1.0], np.float32))
    assert final_distance(tmp_path) is None


def make_folder(folder: Path) -> None:
    (folder / "workers").mkdir(parents=True)
    workers = [{"name": f"local.{number}", "accuracy": 0.9 + 0.02 * number} for number in range(2)]
    summary = {"workers": workers, "parameters": 10, "median_age": 0.6, "mixing": {"verdict": "mixed"}}
    (folder / "summary.json").write_text(json.dumps(summary))
    for number in range(2):
        lines = [progress(0, 0), log(2, 1.0), log(20, 2.0), progress(20, 400)]
        lines += [log(25, 3.0, mean_model_accuracy=0.95)] if number else []
        journal = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "workers" / f"local.{number}.jsonl").write_text(journal)


def test_a_finished_run_is_read_from_its_folder(tmp_path: Path, cell: Cell) -> None:
    make_folder(tmp_path / "run")
    found = read_run(cell, tmp_path / "run", traffic=Traffic(1200, 5), seconds=3.5)
    assert found.accuracies == (0.9, 0.92)
    assert found.mean_model == 0.95
    assert (found.interface_bytes, found.packets, found.socket_bytes) == (1200, 5, 800)
    assert found.rates == (18.0, 18.0)
    assert (found.parameters, found.median_age, found.mixing, found.consensus) == (10, 0.6, "mixed", None)
    assert found.bytes_per_step == 1200 / 40
    assert replace(found, interface_bytes=None).bytes_per_step == 800 / 40


def test_a_folder_without_a_summary_is_a_run_that_failed(tmp_path: Path, cell: Cell) -> None:
    with pytest.raises(RunFailed, match="no usable summary"):
        read_run(cell, tmp_path, traffic=None, seconds=1.0)


def test_the_environment_holds_no_settings_but_the_cell_s(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGRAD_W0", "0.1")
    monkeypatch.setenv("SOME_PATH", "here")
    found = environment(replace(cell, extra={"wire": "f16"}))
    assert {name: value for name, value in found.items() if name.startswith("DAGRAD_")} == {
        "DAGRAD_CODEC": "auto",
        "DAGRAD_WIRE": "f16",
    }
    assert (found["SOME_PATH"], found["OMP_NUM_THREADS"]) == ("here", "1")


def test_where_bytes_are_counted_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "why_not", lambda: "needs root")
    assert describe_counting() == "handed to ZeroMQ; not read at an interface: needs root"
    monkeypatch.setattr(measuring, "why_not", lambda: "")
    assert "interface of a namespace" in describe_counting()


def play(cell: Cell, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have cells run a script instead of training."""

    def words(cell: Cell, *_: Path) -> list[str]:
        return [sys.executable, "-c", script]

    monkeypatch.setattr(Cell, "command", words)
    monkeypatch.setattr(Cell, "program", words)


@pytest.mark.slow
@pytest.mark.parametrize("refused", [True, False])
def test_a_run_that_fails_says_what_it_said(
    refused: bool, tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not refused and why_not():
        pytest.skip(why_not())
    if refused:
        monkeypatch.setattr(measuring, "why_not", lambda: "needs root")
    play(cell, "print('no such flag'); raise SystemExit(7)", monkeypatch)
    with pytest.raises(RunFailed, match=r"(?s)exit code 7.*no such flag"):
        measure(cell, tmp_path / "run")


@pytest.mark.slow
def test_a_worker_alone_is_timed_by_what_it_says(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
import time
for step in range(5):
    print(f"local.0 step {2 * step} loss 0.1 accuracy 0.{step}", flush=True)
    time.sleep(0.1)
"""
    play(cell, script, monkeypatch)
    found = measure_alone(cell)
    assert 10 < found.rate <= 20
    assert (found.workers, found.accuracies, found.agrees) == (1, (0.4,), None)


@pytest.mark.slow
def test_a_worker_alone_that_says_nothing_has_failed(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    play(cell, "print('hello')", monkeypatch)
    with pytest.raises(RunFailed, match=r"(?s)exit code 0.*hello"):
        measure_alone(cell)
