"""The programs of the README run as they stand there."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS: dict[str, str] = dict(BLOCK.findall(README))


@pytest.fixture
def program(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the program that the test names into an empty folder, with no setting in the environment."""
    for given in [given for given in os.environ if given.startswith("DAGRAD_") and "TEST" not in given]:
        monkeypatch.delenv(given)
    name = str(request.param)
    path = tmp_path / name
    path.write_text(PROGRAMS[name])
    return path


def _lines(text: str) -> int:
    return len([line for line in text.splitlines() if line.strip()])


def test_the_programs_are_as_short_as_the_readme_says() -> None:
    assert set(PROGRAMS) == {"train.py", "two_peers.py"}
    assert _lines(PROGRAMS["train.py"]) <= 20
    assert _lines(PROGRAMS["two_peers.py"]) <= 20


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train.py"], indirect=True)
def test_the_script_trains_alone(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            runpy.run_path(str(program), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    said = re.fullmatch(r"local\.0, one of 1: loss (\d\.\d+)\n", capsys.readouterr().out)
    assert said is not None
    assert float(said[1]) < 0.02


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("program", ["train.py"], indirect=True)
def test_the_same_script_trains_with_peers_and_they_mix(program: Path, timeout_factor: float) -> None:
    launcher = [sys.executable, "-c", "from dagrad_bus.tools.cli import main; main()"]
    words = [*launcher, "run", "-n", "4", "--dir", "run", "--json", "--progress", "none", "--no-figures", program.name]
    answer = subprocess.run(
        words,
        cwd=program.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110 * timeout_factor,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    summary = json.loads((program.parent / "run" / "summary.json").read_text())
    assert summary == json.loads(answer.stdout)
    assert summary["mixing"] == {"verdict": "mixed", "reasons": []}
    # One that starts late copies its neighbours' state, their count of steps included, and goes on from there.
    assert all(worker["steps"] >= 600 and worker["frames_mixed"] > 0 for worker in summary["workers"])


@pytest.mark.parametrize("program", ["two_peers.py"], indirect=True)
def test_the_two_peers_print_what_the_readme_says(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(program), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["{'ben': True}", "[  3  14 159] [0.5 0.5 0.5]"]
    assert all(f"`{line}`" in README for line in printed)
