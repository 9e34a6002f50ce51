"""Fixtures of the command line's tests: a stand-in worker, the program itself, and a run folder with known numbers."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagrad_bus.rendezvous import names_in
from dagrad_bus.workers.launch.folder import RunFolder, create

ROOT = Path(__file__).parents[2]
COUNTERS = {"bytes_sent": 4000, "frames_sent": 200, "frames_accepted": 190, "frames_mixed": 180}

LIVE_WORKER = """
import asyncio, os, signal
import numpy as np
import dagrad_bus

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with dagrad_bus.Bus(dagrad_bus.from_environment(os.environ), 256) as bus, asyncio.TaskGroup() as group:
        async def take():
            async for _ in bus.frames():
                pass
        taking = group.create_task(take())
        step = 0
        print("started", flush=True)
        while not stop.is_set():
            step += 1
            bus._engine.outlook.progress = (step, 20.0, asyncio.get_running_loop().time())
            await bus.publish(np.arange(4), np.full((4, 1), step, np.float32), step=step, rate=20.0)
            await asyncio.sleep(0.05)
        taking.cancel()

asyncio.run(main())
"""
"""A worker that trains nothing: it publishes 20 times a second, and leaves at SIGTERM."""

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


LiveRun = tuple[RunFolder, list["subprocess.Popen[bytes]"]]


@pytest.fixture
def live_run(tmp_path: Path, environment: dict[str, str]) -> Generator[Callable[[int], LiveRun]]:
    """Start real workers, by hand and without torch; those that still run at the end are killed."""
    started: list[subprocess.Popen[bytes]] = []

    def run(count: int) -> LiveRun:
        names = [f"local.{slot}" for slot in range(count)]
        facts: dict[str, object] = {"settings": {"degree": 4, "topology": "hash-rings"}, "launcher": os.getpid()}
        folder = create(tmp_path / "runs" / "live", run="ab12", names=names, facts=facts)
        for name in names:
            ours = {
                "RUN": "ab12",
                "NAME": name,
                "RUN_DIR": folder.path,
                "ROSTER": folder.roster,
                "KEY_FILE": folder.key,
            }
            env = environment | {f"DAGRAD_{key}": str(value) for key, value in ours.items()}
            with folder.log(name).open("wb") as log:
                words = [sys.executable, "-c", LIVE_WORKER]
                started.append(subprocess.Popen(words, env=env, stdout=log, stderr=subprocess.STDOUT))
        deadline = time.monotonic() + 15
        while len(names_in(folder.path)) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        return folder, started

    yield run
    for process in started:
        process.kill()
        process.wait()
