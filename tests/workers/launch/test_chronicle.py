from __future__ import annotations

import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.workers.launch.chronicle import Chronicle
from dagrad_bus.workers.launch.folder import RunFolder, create
from dagrad_bus.workers.launch.outcome import Exit

TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 1\nZeroDivisionError: division by zero'


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create(tmp_path / "run", run="r", names=["a.0"], facts={})


@pytest.fixture
def chronicle(folder: RunFolder) -> Generator[Chronicle]:
    chronicle = Chronicle(folder)
    yield chronicle
    chronicle.close()


def events(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]


def failed(attempt: int = 0, code: int | None = 1) -> Exit:
    return Exit("a.0", 7, code, None if code is not None else 9, 5.0, attempt)


def test_an_event_is_a_line_with_the_time(chronicle: Chronicle, folder: RunFolder) -> None:
    chronicle.add("cut", host="n1", why="no\nroute")
    chronicle.began("a.0", 7, 0)
    first, second = events(folder)
    assert abs(first.pop("time") - time.time()) < 5 and first == {"event": "cut", "host": "n1", "why": "no\nroute"}
    assert second == {"event": "started", "time": second["time"], "name": "a.0", "pid": 7, "attempt": 0}


def test_a_later_launcher_goes_on_in_the_same_file(chronicle: Chronicle, folder: RunFolder) -> None:
    chronicle.add("one")
    later = Chronicle(folder)
    later.add("two")
    later.close()
    assert [event["event"] for event in events(folder)] == ["one", "two"]


@pytest.mark.parametrize("apart", [False, True])
def test_of_a_failed_worker_the_last_traceback_is_kept(chronicle: Chronicle, folder: RunFolder, apart: bool) -> None:
    path = folder.errors("a.0") if apart else folder.log("a.0")
    folder.log("a.0").write_text("fine\n")
    path.write_text(f"Traceback (most recent call last):\n  caught\n{'x' * 100_000}\n{TRACEBACK}\n")
    chronicle.ended(failed(), by="itself", wait=1.5)
    event = events(folder)[0]
    assert event.pop("traceback") == TRACEBACK
    assert {key: event[key] for key in event if key != "time"} == {
        "event": "exited", "name": "a.0", "pid": 7, "attempt": 0, "how": "exit 1", "status": 1, "by": "itself",
        "restart_in": 1.5,
    }  # fmt: skip


@pytest.mark.parametrize(("code", "by"), [(0, "itself"), (1, "launcher"), (None, "lease")])
def test_an_end_that_is_no_failure_has_none(chronicle: Chronicle, folder: RunFolder, code: int | None, by: str) -> None:
    folder.log("a.0").write_text(TRACEBACK)
    chronicle.ended(failed(code=code), by=by, wait=None)
    chronicle.close()
    assert "traceback" not in events(folder)[0] and len(events(folder)) == 1


def test_one_that_is_still_on_its_way_follows(chronicle: Chronicle, folder: RunFolder) -> None:
    folder.log("a.0").write_text("step 1\n")
    chronicle.ended(failed(), by="itself", wait=1.0)
    folder.log("a.0").write_text(f"step 1\n{TRACEBACK}\n")
    chronicle.began("a.0", 8, 1)
    kinds = [(event["event"], event.get("attempt"), event.get("traceback")) for event in events(folder)]
    assert kinds == [("exited", 0, None), ("traceback", 0, TRACEBACK), ("started", 1, None)]


def test_at_the_end_nothing_more_will_come(chronicle: Chronicle, folder: RunFolder) -> None:
    chronicle.ended(failed(3), by="itself", wait=None)
    folder.log("a.0").write_text(TRACEBACK)
    chronicle.close()
    assert (events(folder)[-1]["attempt"], events(folder)[-1]["traceback"]) == (3, TRACEBACK)


def test_the_traceback_of_an_earlier_attempt_is_not_told_twice(chronicle: Chronicle, folder: RunFolder) -> None:
    folder.log("a.0").write_text(TRACEBACK)
    chronicle.ended(failed(), by="itself", wait=1.0)
    chronicle.began("a.0", 8, 1)
    chronicle.ended(failed(1, code=None), by="itself", wait=None)
    chronicle.close()
    assert ["traceback" in event for event in events(folder)] == [True, False, False]


def test_a_full_disk_costs_the_record_only(folder: RunFolder) -> None:
    (folder.path / "events.jsonl").symlink_to("/dev/full")
    chronicle = Chronicle(folder)
    chronicle.add("cut", host="n1")
    chronicle.ended(failed(), by="itself", wait=None)
    chronicle.close()
