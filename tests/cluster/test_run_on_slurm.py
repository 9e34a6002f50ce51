"""`dagrad run --on slurm`, as a user calls it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dagrad_bus.faults.engines import plain_environ
from dagrad_bus.faults.slurm import Slurm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
DAGRAD = (sys.executable, "-m", "dagrad_bus.tools.cli")
DIGITS = ("--", "python", "-m", "dagrad_bus.workers.digits", "--pace", "0.06")
QUIET = ("--no-figures", "--progress", "none")


def test_slurm_runs_workers_and_the_table_is_as_ever(slurm: Slurm, shared: Path) -> None:
    words = (*DAGRAD, "run", "--on", "slurm", "-n", "3", "--srun-arg=--nodes=3", "--dir", str(shared / "run"), *QUIET)
    done = slurm.host.call(
        *words, *DIGITS, "--steps", "60", env=slurm.environ(plain_environ()), cwd=shared, seconds=120
    )
    assert done.code == 0, done.text
    summary = json.loads((shared / "run" / "summary.json").read_text())
    assert summary["mixing"]["verdict"] == "mixed"
    assert [worker["state"] for worker in summary["workers"]] == ["done"] * 3
    assert "slurm:2| slurm.2 step 60 loss" in done.out


def test_slurm_tells_the_first_failures_code(slurm: Slurm, shared: Path) -> None:
    program = "import os; os.environ['DAGRAD_NAME'] == 'slurm.1' and exit(7)"
    words = (
        *DAGRAD,
        "run",
        "--on",
        "slurm",
        "-n",
        "2",
        "--dir",
        str(shared / "run"),
        *QUIET,
        "--",
        "python",
        "-c",
        program,
    )
    done = slurm.host.call(*words, env=slurm.environ(plain_environ()), cwd=shared, seconds=60)
    assert done.code == 7, done.text
    assert "slurm.1 failed: exit 7" in done.err


def test_slurm_is_stopped_by_ctrl_c(slurm: Slurm, shared: Path) -> None:
    words = (*DAGRAD, "run", "--on", "slurm", "-n", "2", "--dir", str(shared / "run"), *QUIET, *DIGITS)
    launcher = slurm.host.start(
        *words, "--steps", "100000", env=slurm.environ(plain_environ()), cwd=shared,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    journals = [shared / "run" / "workers" / f"slurm.{rank}.jsonl" for rank in (0, 1)]
    deadline = time.monotonic() + 60
    while not all(path.exists() and '"step":20,' in path.read_text() for path in journals):
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.1)
    launcher.send_signal(signal.SIGINT)
    told = launcher.communicate(timeout=40)[1].decode()
    assert launcher.returncode == 130, told
    assert all(json.loads(path.read_text().splitlines()[-1])["event"] == "end" for path in journals), told
