"""`dagrad run --on slurm`, with a program in the place of srun; tests/cluster has the real one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
Dagrad = Callable[..., "subprocess.CompletedProcess[str]"]
RUN = ("run", "--on", "slurm", "--progress", "none", "--no-figures", "--dir", "run")
SRUN = """#!/bin/sh
printf '%s\\n' "$@" > srun-arguments
for rank in 0 1; do echo "up $rank" > "run/logs/slurm.$rank.log"; done
echo '{"event":"end","time":1.0,"step":3}' > run/workers/slurm.0.jsonl
echo "srun: error: n1: task 1: Exited with exit code 7" >&2
exit 7
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH."""
    made = tmp_path / "bin"
    made.mkdir()
    monkeypatch.setenv("PATH", f"{made}:/usr/bin:/bin")
    return made


def put_srun(path: Path, text: str) -> None:
    (path / "srun").write_text(text)
    (path / "srun").chmod(0o755)


def test_without_srun_it_says_where_it_should_be(dagrad: Dagrad, path: Path) -> None:
    put_srun(path, "")
    (path / "srun").chmod(0o644)
    ran = dagrad(*RUN, "-n", "2", "true", PATH=str(path))
    assert ran.returncode in {125, 127}
    assert "Traceback" not in ran.stderr


def test_workers_files_are_shown_and_srun_is_believed_about_failures(
    dagrad: Dagrad, path: Path, tmp_path: Path
) -> None:
    put_srun(path, SRUN)
    ran = dagrad(*RUN, "-n", "2", "--srun-arg=--mem=1G", "true", PATH=f"{path}:/usr/bin:/bin")
    assert ran.returncode == 7, ran.stderr
    assert "slurm:0| up 0" in ran.stdout and "slurm:1| up 1" in ran.stdout
    assert "slurm.1 failed: exit 7" in ran.stderr
    given = (tmp_path / "srun-arguments").read_text().splitlines()
    assert {"--no-kill", "--kill-on-bad-exit=0", "--wait=0", "--ntasks=2", "--mem=1G"} <= set(given)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert given[given.index("--run") + 1] == run["run"]
    assert [ended["status"] if "status" in ended else ended["code"] for ended in run["exits"]] == [0, 7]


def test_arguments_that_are_ours_are_refused(dagrad: Dagrad, path: Path) -> None:
    put_srun(path, SRUN)
    ran = dagrad(*RUN, "-n", "2", "--srun-arg=--ntasks=4", "true", PATH=f"{path}:/usr/bin:/bin")
    assert (ran.returncode, "give -n to dagrad run" in ran.stderr) == (2, True)
