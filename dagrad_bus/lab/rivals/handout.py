"""Deals one trial's problem to its workers: equal data, weights, shards and batches for every system.

What a job's file holds is read by ``task.py`` and ``crew.py``; the data are a ``.npz`` beside it. Both describe the
digits program: the same split, the same initial model, and the batches that its workers draw.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from dagrad_bus.lab.rivals.systems import OWN, System
from dagrad_bus.workers import problem
from dagrad_bus.workers.reference import worker_names
from dagrad_bus.workers.shards import Batches, Kind

Fault = Literal["none", "straggler", "kill"]

WIDTHS = (64, 512, 512, 10)
PORT = 29500
"""Any port will do: the network is private."""
SLEEP = 0.2
"""Seconds that the straggler, worker 0, sleeps after each step."""
VICTIM = 1
"""The worker that is killed: worker 0 holds what some systems need to meet."""
PATIENCE = {"none": 60.0, "straggler": 60.0, "kill": 20.0}
"""Seconds without a step of anybody that count as frozen."""
WARM = 0.1
"""Share of the steps, at the start, that times leave out: buffers are made there, connections opened."""
LIMIT = 240.0
"""Seconds for one trial, start-up included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of one system."""

    system: str
    shards: Kind
    seed: int
    lr: float
    steps: int
    workers: int
    pace: float
    """Seconds that a step computes at least, as if the model were larger."""
    report: Literal["val", "test"]
    """The part of the data that accuracy is of."""
    fault: Fault = "none"
    batch: int = 32

    @property
    def key(self) -> dict[str, Any]:
        """Return what a store of results knows it by."""
        return asdict(self)

    @property
    def warm(self) -> int:
        """Return the number of the first step that times are taken of, from 0."""
        return max(2, int(self.steps * WARM))

    @property
    def awaited(self) -> list[int]:
        """Return the workers whose results are needed."""
        missing = {"none": (), "straggler": (0,), "kill": (VICTIM,)}[self.fault]
        return [rank for rank in range(self.workers) if rank not in missing]

    @property
    def guess(self) -> float:
        """Return about how many seconds it takes."""
        slow = SLEEP if self.fault == "straggler" else 0.0
        hive = 2.5 if self.system == "hivemind" else 1.0
        frozen = PATIENCE["kill"] if self.fault == "kill" else 0.0
        return 6.0 + frozen / 2 + hive * self.steps * (self.pace + slow + 0.02)


def recipe(trial: Trial) -> problem.Recipe:
    """Return the trial's problem as the digits program has it."""
    return problem.Recipe(
        shards=trial.shards, steps=trial.steps, batch=trial.batch, lr=trial.lr, seed=trial.seed, report=trial.report
    )


def deal(trial: Trial, system: System, python: str, folder: Path) -> Path:
    """Write everything that the trial's crew and workers need to ``folder``, which is emptied.

    Args:
        trial: what is run.
        system: the system.
        python: interpreter of its environment.
        folder: absolute.

    Returns:
        The job's file.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "drivers").mkdir(parents=True)
    for file in ("__init__.py", "task.py", f"{system.driver}.py"):
        target = folder / "drivers" / "rivals" / file
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(Path(__file__).with_name(file), target)
    np.savez(folder / "problem.npz", **_arrays(trial))
    job = folder / "job.json"
    facts = _facts(trial, system) | {"problem": str(folder / "problem.npz")}
    facts |= {"commands": _commands(trial, system, python, job), "environ": _environment(system, folder)}
    job.write_text(json.dumps(facts))
    return job


def _facts(trial: Trial, system: System) -> dict[str, Any]:
    wanted = recipe(trial)
    return {
        "workers": trial.workers,
        "steps": trial.steps,
        "warm": trial.warm,
        "batch": trial.batch,
        "lr": wanted.lr,
        "momentum": wanted.momentum,
        "smoothing": wanted.smoothing,
        "settle": problem.SETTLE,
        "widths": WIDTHS,
        "pace": trial.pace,
        "sleep": {"0": SLEEP} if trial.fault == "straggler" else {},
        "kill": [VICTIM, trial.steps // 2] if trial.fault == "kill" else None,
        "options": dict(system.options),
        "port": PORT,
        "awaited": trial.awaited,
        "patience": PATIENCE[trial.fault],
        "limit": LIMIT,
    }


def _arrays(trial: Trial) -> Mapping[str, Any]:
    wanted = recipe(trial)
    data = problem.load(wanted.seed, wanted.report)
    model = problem.build_model("mlp", wanted.seed)
    arrays = {
        "train_x": data.train_x.numpy(), "train_y": data.train_y.numpy(),
        "eval_x": data.test_x.numpy(), "eval_y": data.test_y.numpy(),
        "parameters": nn.utils.parameters_to_vector(model.parameters()).detach().numpy(),
    }  # fmt: skip
    parts = data.shards(wanted, trial.workers)
    for rank, (part, name) in enumerate(zip(parts, worker_names(trial.workers), strict=True)):
        stream = Batches(part, wanted.batch, wanted.seed, name)
        arrays[f"order_{rank}"] = np.stack([stream.next() for _ in range(wanted.steps)])
    return arrays


def _commands(trial: Trial, system: System, python: str, job: Path) -> list[list[str]]:
    if system.name != OWN:
        return [[python, "-m", f"rivals.{system.driver}", str(job), str(rank)] for rank in range(trial.workers)]
    run = [python, "-m", "dagrad_bus.tools.cli", "run", "-n", str(trial.workers), "--dir", str(job.parent / "run")]
    run += ["--no-figures", "--progress", "none", "--on-failure", "continue", "--seed", str(trial.seed)]
    return [[*run, "-m", "dagrad_bus.lab.rivals.own", str(job)]]


def _environment(system: System, folder: Path) -> dict[str, str]:
    """Return what is added to the workers' environment: one thread each, the loopback device for gloo."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    place = {} if system.name == OWN else {"PYTHONPATH": str(folder / "drivers")}
    return {**threads, **place, "GLOO_SOCKET_IFNAME": "lo"}


def crew_command(job: Path) -> list[str]:
    """Return what runs the job inside the private network."""
    return [sys.executable, "-m", "dagrad_bus.lab.rivals.crew", str(job)]
