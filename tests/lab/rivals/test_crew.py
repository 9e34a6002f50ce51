from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.lab.rivals.crew import Watch, main, stop, watch

WORKER = """
import pathlib, sys, time
rank, steps, then = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with open(f"times.{rank}", "wb", buffering=0) as times:
    for _ in range(steps):
        times.write(b"x" * 16)
        time.sleep(0.02)
if then == "done":
    pathlib.Path(f"worker.{rank}.json").write_text("{}")
elif then == "hang":
    time.sleep(60)
else:
    sys.exit(then)
"""


@pytest.fixture
def idle() -> Generator[subprocess.Popen[bytes]]:
    """A process that does nothing for a minute."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    stop([process], 0.0)


def _job(folder: Path, *thens: str, patience: float = 0.5, limit: float = 20.0) -> Path:
    (folder / "worker.py").write_text(WORKER)
    job: dict[str, Any] = {
        "workers": len(thens), "awaited": list(range(len(thens))), "patience": patience, "limit": limit, "environ": {},
        "commands": [[sys.executable, "worker.py", str(rank), "5", then] for rank, then in enumerate(thens)],
    }  # fmt: skip
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("thens", "ending"),
    [
        (["done", "done"], "done"),
        (["done", "hang"], "froze"),
        (["boom", "boom"], "crashed"),
        (["boom", "done"], "crashed"),
    ],
)
def test_how_it_ended_is_told(tmp_path: Path, thens: list[str], ending: str) -> None:
    assert main([str(_job(tmp_path, *thens))]) == 0
    assert json.loads((tmp_path / "crew.json").read_text())["ending"] == ending
    if "boom" in thens:
        assert (tmp_path / "command.0.log").read_text() == "boom\n"


@pytest.mark.slow
def test_nothing_goes_on_after_the_end(tmp_path: Path) -> None:
    began = time.monotonic()
    main([str(_job(tmp_path, "hang", limit=1.0, patience=30.0))])
    assert json.loads((tmp_path / "crew.json").read_text())["ending"] == "too slow"
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_nobody_waits_for_workers_that_are_not_awaited(tmp_path: Path, idle: subprocess.Popen[bytes]) -> None:
    (tmp_path / "worker.1.json").write_text("{}")
    assert watch([idle], Watch(tmp_path, (1,), patience=5.0, limit=5.0)) == "done"
    assert watch([idle], Watch(tmp_path, (0, 1), patience=5.0, limit=0.1)) == "too slow"


@pytest.mark.slow
def test_a_crew_that_has_not_begun_is_not_frozen(tmp_path: Path, idle: subprocess.Popen[bytes]) -> None:
    task = Watch(tmp_path, (0,), patience=0.05, limit=0.3)
    assert task.last_step() is None
    assert watch([idle], task) == "too slow"
    (tmp_path / "times.0").write_bytes(b"x")
    assert watch([idle], task) == "froze"
