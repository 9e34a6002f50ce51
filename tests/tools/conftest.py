"""Fixtures of the command line's tests: a stand-in worker, the program itself, and a run folder with known numbers."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagrad_bus.workers.launch.folder import RunFolder, create

ROOT = Path(__file__).parents[2]
COUNTERS = {"bytes_sent": 4000, "frames_sent": 200, "frames_accepted": 190, "frames_mixed": 180}

Journal = Callable[..., list[dict[str, Any]]]
MakeRun = Callable[..., RunFolder]
Dagrad = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session", autouse=True)
def warm_fonts() -> None:
    """Draw once first: matplotlib keeps its fonts' files open for the rest of the process."""
    from matplotlib.figure import Figure

    figure = Figure()
    figure.text(0, 0, r"plain $\Vert x_i - \bar{x} \Vert \; / \; \Vert \bar{x} \Vert$")
    figure.text(0, 0, "bold", fontweight="bold")
    figure.savefig(BytesIO())


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a ``dagrad`` process, free of this one's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DAGRAD_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


@pytest.fixture
def program() -> tuple[str, ...]:
    """The words that start the program."""
    return (sys.executable, "-m", "dagrad_bus.tools.cli")


@pytest.fixture
def dagrad(tmp_path: Path, environment: dict[str, str], program: tuple[str, ...]) -> Dagrad:
    """Run the program in a fresh folder."""

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *words],
            cwd=tmp_path,
            env=environment | env,
            capture_output=True,
            text=True,
            timeout=18,
            check=False,
        )

    return run


@pytest.fixture
def start(
    tmp_path: Path, environment: dict[str, str], program: tuple[str, ...]
) -> Generator[Callable[..., subprocess.Popen[str]]]:
    """Start the program in a fresh folder and do not wait; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        with (tmp_path / "errors").open("w") as errors:
            started.append(
                subprocess.Popen(
                    [*program, *words], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
                )
            )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def journal() -> Journal:
    """Make the entries of one worker's journal: 100 steps in 10 s, 40 bytes a step, 1000 parameters."""

    def make(slot: int, *, mixed: int = 180, end: bool = True, drift: float = 0.0) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = [{"event": "start", "time": 0.0, "parameters": 1000, "block": 1}]
        for step in range(0, 101, 5):
            counters = {name: count * step // 100 for name, count in COUNTERS.items()} | {
                "frames_dropped.crc": step // 50
            }
            counters["frames_mixed"] = mixed * step // 100
            ages = {"age_steps": [0, 0, step, 0, step]}
            entries.append({"event": "progress", "time": 1 + step / 10, "step": step, "rate": 10.0, "counters": counters,
                            "gauges": {"peers": 2}, "histograms": ages})  # fmt: skip
            values = np.full(8, 3.0, np.float32)
            values[slot] += 0.5 + drift * step
            entries.append({"event": "sample", "step": step, "values": base64.b64encode(values.tobytes()).decode()})
            entries.append(
                {"event": "log", "time": 1.0, "step": step, "loss": 1.0 / (step + 1), "accuracy": 0.9 + slot / 100}
            )
        last = {**entries[-3], "event": "end", "reason": "closed"}
        return [*entries, last] if end else entries

    return make


@pytest.fixture
def make_run(tmp_path: Path, journal: Journal) -> MakeRun:
    """Make the folder of a finished run."""

    def make(*journals: list[dict[str, Any]], states: tuple[str, ...] = (), rule: str = "state") -> RunFolder:
        names = [f"local.{slot}" for slot in range(len(journals))]
        facts: dict[str, object] = {"created": 0.0, "command": ["train.py"], "settings": {"exchange": {"rule": rule}}}
        folder = create(tmp_path / "run", run="ab12", names=names, facts=facts)
        for name, entries in zip(names, journals, strict=True):
            folder.journal(name).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        exits = [
            {"name": name, "pid": 1, "code": 7 if state.startswith("exit") else 0, "signal": None, "time": 5.0,
             "state": state, "failed": state.startswith("exit")}
            for name, state in zip(names, states, strict=False)
        ]  # fmt: skip
        folder.update_run(exits=exits)
        return folder

    return make
