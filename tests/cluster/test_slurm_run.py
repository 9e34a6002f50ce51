"""What `dagrad run --on slurm` asks of srun, on real nodes: who dies, who trains on, and what is made of srun's words."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dagrad_bus.faults.engines import plain_environ
from dagrad_bus.faults.slurm import Slurm
from dagrad_bus.workers.launch.slurm import (
    SrunExits,
    find_step,
    signal_command,
    srun_command,
    steps_command,
    worker_name,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(240)]
RUN = "0123456789abcdef"
DIGITS = ("python", "-m", "dagrad_bus.workers.digits", "--pace", "0.05", "--steps")
LOST = 90.0
"""Seconds until Slurm calls a node lost: SlurmdTimeout is 30 in the tests, and it looks now and then."""


def wait_until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Step:
    """srun, started as the launcher would."""

    def __init__(self, slurm: Slurm, folder: Path, *command: str, options: tuple[str, ...] = ()) -> None:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        self.slurm = slurm
        self.folder = folder
        self.environ = slurm.environ(plain_environ())
        self.words = srun_command(3, command, folder=folder, run=RUN, arguments=["--nodes=3", *options])
        self.process = slurm.host.start(*self.words, env=self.environ, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def end(self, seconds: float = 60.0) -> tuple[SrunExits, list[str]]:
        """Wait for srun; return what it has said."""
        text = self.process.communicate(timeout=seconds)[1].decode()
        exits = SrunExits()
        for line in text.splitlines():
            exits.take(line)
        return exits, text.splitlines()

    def log(self, rank: int) -> str:
        """Return what a task has printed."""
        path = self.folder / "logs" / f"{worker_name(rank)}.log"
        return path.read_text() if path.exists() else ""

    def journal(self, rank: int) -> list[dict[str, object]]:
        path = self.folder / "workers" / f"{worker_name(rank)}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()[:-1]] if path.exists() else []

    def step(self, rank: int) -> int:
        """Return the last training step in a worker's journal."""
        return max((int(str(line["step"])) for line in self.journal(rank) if "step" in line), default=0)

    def call(self, words: list[str]) -> str:
        done = self.slurm.host.call(*words, env=self.environ, seconds=20)
        assert done.code == 0, done.text
        return done.out


def test_exits_are_told_apart(slurm: Slurm, shared: Path) -> None:
    script = (
        "import os, signal; r = int(os.environ['DAGRAD_NAME'][-1]); r == 2 and os.kill(os.getpid(), 9); exit(7 * r)"
    )
    folder = shared / "100% run"  # what srun would take for a pattern
    step = Step(slurm, folder, "python", "-c", script)
    exits, lines = step.end()
    assert [end.status for end in exits.judge(3, step.process.returncode, ())] == [0, 7, 137], lines
    assert sorted(path.name for path in (folder / "logs").iterdir()) == [f"slurm.{n}.log" for n in range(3)]


def test_tasks_that_could_not_be_launched_count_though_srun_says_0(slurm: Slurm, shared: Path) -> None:
    step = Step(slurm, shared, "true", options=(f"--chdir={shared}",))
    step.end()
    nowhere = Path("/tmp/dagrad-run")  # each host has its own /tmp: the folder is on none of the nodes
    words = srun_command(3, ["true"], folder=nowhere, run=RUN, arguments=["--nodes=3"])
    done = slurm.host.call(*words, env=step.environ, seconds=30)
    exits = SrunExits()
    for line in done.err.splitlines():
        exits.take(line)
    assert done.code == 0, done.text
    ends = exits.judge(3, 0, ())
    assert [end.status for end in ends] == [126] * 3, done.text
    assert all(end.why.startswith("not launched") for end in ends)


def test_a_stop_lets_the_workers_end_by_themselves(slurm: Slurm, shared: Path) -> None:
    step = Step(slurm, shared, *DIGITS, "100000")
    wait_until(lambda: all(step.step(rank) > 10 for rank in range(3)))
    found = find_step(step.call(steps_command()), RUN)
    assert found is not None
    step.call(signal_command(found, signal.SIGTERM))
    exits, lines = step.end(30)
    ended = {rank for rank in range(3) if any(line.get("event") == "end" for line in whole_journal(step, rank))}
    assert ended == {0, 1, 2}, lines
    assert not exits.lost_nodes


def whole_journal(step: Step, rank: int) -> list[dict[str, object]]:
    path = step.folder / "workers" / f"{worker_name(rank)}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_node_that_fails_leaves_the_others_training(slurm: Slurm, shared: Path) -> None:
    step = Step(slurm, shared, *DIGITS, "500")
    wait_until(lambda: all(step.step(rank) > 20 for rank in range(3)))
    before = [step.step(rank) for rank in range(3)]
    slurm.kill_node("n1")
    exits, lines = step.end(LOST + 60)
    after = [step.step(rank) for rank in range(3)]
    assert exits.lost_nodes == ["n1"], lines
    finished = {rank for rank in range(3) if whole_journal(step, rank)[-1].get("event") == "end"}
    lost = ({0, 1, 2} - finished).pop()
    ends = exits.judge(3, step.process.returncode, finished)
    assert [end.status for end in ends] == [137 if rank == lost else 0 for rank in range(3)], lines
    assert all(after[rank] > before[rank] + 100 for rank in finished)
    assert sys.executable in step.words
