"""What a worker leaves in the run folder."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagrad_bus import record
from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.record import Recorder
from dagrad_bus.settings import Settings

Until = Callable[[Callable[[], object]], Awaitable[None]]
LAYOUT = Layout((Entry("x", (10,), "float32"),), (), 4)


def recorder(folder: Path | None) -> Recorder:
    def snapshot() -> Mapping[str, Mapping[str, object]]:
        return {"counters": {"frames_sent": 3}, "gauges": {}, "histograms": {"age_steps": [1, 2]}}

    return Recorder(Settings(run="r", name="w", directory=folder), snapshot, lambda: (12, 3.5))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "workers" / "w.jsonl").read_text().splitlines()]


@pytest.mark.asyncio
async def test_one_object_a_line_in_order(tmp_path: Path) -> None:
    kept = recorder(tmp_path)
    kept.start(LAYOUT)
    kept.log(1, {"loss": 0.5, "bad": float("nan"), "event": 1.0})
    kept.sample(2, np.arange(3, dtype=np.float32))
    await kept.end("closed")
    start, log, sample, end = lines(tmp_path)
    assert (start["event"], start["parameters"], start["block"], start["blocks"]) == ("start", 10, 4, 3)
    assert start["settings"]["exchange"]["density"] == 0.015
    assert "key" not in start["settings"]
    assert (log["event"], log["step"], log["loss"], log["bad"]) == ("log", 1, 0.5, None)
    assert np.frombuffer(base64.b64decode(sample["values"]), "<f4").tolist() == [0, 1, 2]
    assert (end["event"], end["reason"], end["step"], end["counters"]) == ("end", "closed", 12, {"frames_sent": 3})
    assert end["histograms"] == {"age_steps": [1, 2]}


@pytest.mark.asyncio
async def test_progress_is_written_while_it_runs(tmp_path: Path, until: Until) -> None:
    kept = recorder(tmp_path)
    kept.start(LAYOUT)
    path = tmp_path / "workers" / "w.jsonl"
    async with asyncio.TaskGroup() as group:
        keep = group.create_task(kept.keep())
        await until(lambda: path.exists() and len(path.read_text().splitlines()) >= 2)
        keep.cancel()
    await kept.end("closed")
    found = lines(tmp_path)
    assert (found[1]["event"], found[1]["step"], found[1]["rate"]) == ("progress", 12, 3.5)


@pytest.mark.asyncio
async def test_a_write_that_is_cancelled_before_its_turn_loses_no_line(tmp_path: Path) -> None:
    kept = recorder(tmp_path)
    turn = threading.Event()
    kept._writer.submit(turn.wait)  # the disk is busy
    kept.start(LAYOUT)
    async with asyncio.TaskGroup() as group:
        keep = group.create_task(kept.keep())
        await asyncio.sleep(0)  # its write waits for its turn
        keep.cancel()
    turn.set()
    await kept.end("closed")
    assert [line["event"] for line in lines(tmp_path)] == ["start", "progress", "end"]


@pytest.mark.asyncio
async def test_without_a_folder_nothing_is_written() -> None:
    kept = recorder(None)
    kept.start(LAYOUT)
    kept.log(1, {"loss": 0.5})
    await kept.end("closed")


@pytest.mark.asyncio
async def test_what_never_started_leaves_nothing(tmp_path: Path) -> None:
    await recorder(tmp_path).end("StartError")
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240  # a test has the loop to itself


@pytest.mark.asyncio
async def test_lines_that_found_no_room_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "WAITING", 4)
    kept = recorder(tmp_path)
    kept.start(LAYOUT)
    for step in range(10):
        kept.log(step, {})
    await kept.end("closed")
    found = lines(tmp_path)
    assert len(found) == 4
    assert found[-1]["lines_lost"] == 7


@pytest.mark.asyncio
async def test_a_disk_that_takes_nothing_costs_lines_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "workers").write_text("a file where the folder should be")
    recorder = Recorder(Settings(directory=tmp_path), dict, lambda: (0, 0.0))
    recorder.start(Layout((Entry("x", (4,), "float32"),), (), 1))
    with caplog.at_level("WARNING", logger="dagrad_bus"):
        await recorder.end("closed")
    assert sum("record_lost" in message for message in caplog.messages) == 1
