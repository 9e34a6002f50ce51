from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch.examination.live import check_run
from dagrad_bus.workers.launch.examination.live_facts import _read_failures, collect_run
from dagrad_bus.workers.launch.folder import RunFolder, create


def _events(path: Path, *events: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    return path


def test_only_those_that_failed_for_good_count(tmp_path: Path) -> None:
    def ended(name: str, status: int, wait: float | None) -> dict[str, Any]:
        return {"event": "exited", "name": name, "status": status, "restart_in": wait, "how": f"exit {status}"}

    again = {"event": "started", "name": "d"}
    path = _events(
        tmp_path / "e", ended("a", 7, None), ended("b", 7, 1.0), ended("c", 0, None), ended("d", 7, None), again
    )
    path.write_text(f"{path.read_text()}no json\n[]\n")
    assert _read_failures(path) == {"a": "exit 7"}
    assert _read_failures(tmp_path / "nosuch") == {}


def test_no_run_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        collect_run(tmp_path, 1.0)


def test_a_run_whose_workers_have_gone_is_described_by_its_folder(tmp_path: Path) -> None:
    folder = create(tmp_path / "r", run="12" * 8, names=["a.0", "a.1"], facts={"ended": 1.0})
    folder.key.chmod(0o644)
    start = {"event": "start", "time": time.time() + 60, "name": "a.0", "version": "9"}
    _events(folder.journal("a.0"), start)
    _events(folder.journal("a.1"), start | {"event": "end", "step": 3, "time": 5.0})
    facts = collect_run(folder.path, 0.2)
    first, second = facts.workers
    assert facts.over and not facts.is_reached and facts.key_mode == 0o644
    assert first.state == "unknown" and first.clock_ahead > 50 and first.version == "9"
    assert second.state == "ended" and second.quiet is None and second.step == 3
    assert [fault.check for fault in check_run(facts)] == ["key", "run"]


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_worker_that_stands_still_is_found(tmp_path: Path) -> None:
    path = tmp_path / "run"
    words = [sys.executable, "-m", "dagrad_bus.tools.cli", "run", "-n", "3", "--progress", "none", "--no-figures",
             "--dir", str(path), "--", "python", "-m", "dagrad_bus.workers.digits", "--steps", "100000",
             "--pace", "0.1"]  # fmt: skip
    launcher = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stopped = 0
    try:
        _await_steps(RunFolder(path), 3)
        facts = collect_run(path, 5.0)
        assert check_run(facts) == [], facts
        assert all(worker.links == worker.expected_links == 2 for worker in facts.workers)
        stopped = int(json.loads((path / "peers" / "local.1.json").read_text())["pid"])
        os.kill(stopped, signal.SIGSTOP)
        found = check_run(collect_run(path, 5.0))
        assert any(fault.where == "local.1" and fault.check in {"silent", "suspect", "dead"} for fault in found), found
    finally:
        if stopped:
            os.kill(stopped, signal.SIGCONT)
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(30)
    ended = collect_run(path, 0.5)
    assert ended.over and not ended.is_reached


def _await_steps(folder: RunFolder, workers: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        journals = list((folder.path / "workers").glob("*.jsonl")) if folder.path.exists() else []
        lines = [path.read_text().splitlines() for path in journals]
        if len(lines) == workers and all(len(one) > 8 and json.loads(one[-2]).get("step", 0) > 5 for one in lines):
            return
        time.sleep(0.2)
    raise AssertionError("the workers do not train")
