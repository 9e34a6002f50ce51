"""The half of a worker that is the same for all systems: model, data, step times, samples of the replica.

This file is copied into environments where the package is not installed: it needs numpy and torch alone. A worker is
started as ``python -m rivals.<driver> JOB RANK``; the job is a JSON file that ``handout.py`` writes. In its folder the
worker leaves ``times.R`` (float64 pairs: when a step began and ended, in the system's monotonic clock, written as it
goes, so that a killed worker leaves them too), ``samples.R.npy`` and, at its end, ``worker.R.json``.
"""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

COORDINATES = 4096
"""Parameters, evenly spread, that are sampled to see whether replicas move together."""
SAMPLES = 10
"""How often, over the run."""
GATHERING = 60.0
"""Seconds to wait for the others at the start, at most."""


class Course:
    """One worker's course: takes the job's problem, counts its steps, and leaves what it found.

    Args:
        job: the job's file.
        rank: this worker, from 0.
    """

    def __init__(self, job: Path, rank: int) -> None:
        self.rank = rank
        self.job: dict[str, Any] = json.loads(job.read_text())
        self.folder = job.parent
        self.workers, self.total = int(self.job["workers"]), int(self.job["steps"])
        self.options: dict[str, Any] = self.job["options"]
        with np.load(self.job["problem"]) as problem:
            parts = {name: problem[name] for name in ("train_x", "train_y", "eval_x", "eval_y", f"order_{rank}")}
            self._start = torch.from_numpy(problem["parameters"])
        self._train = torch.from_numpy(parts["train_x"]), torch.from_numpy(parts["train_y"])
        self._eval = torch.from_numpy(parts["eval_x"]), torch.from_numpy(parts["eval_y"])
        self._order = torch.from_numpy(parts[f"order_{rank}"])
        self._samples: list[np.ndarray[Any, np.dtype[np.float32]]] = []
        self._began = 0.0
        self._model: nn.Module | None = None

    @classmethod
    def from_arguments(cls) -> Course:
        """Return the course of this process's command line, ``JOB RANK``; torch is set to one thread."""
        torch.set_num_threads(1)
        return cls(Path(sys.argv[1]), int(sys.argv[2]))

    def model(self) -> nn.Module:
        """Return the model with the weights that all workers of all systems begin with."""
        sizes = self.job["widths"]
        layers: list[nn.Module] = []
        for left, right in pairwise(sizes):
            layers += [nn.Linear(left, right), nn.ReLU()]
        model = nn.Sequential(*layers[:-1])
        nn.utils.vector_to_parameters(self._start.clone(), model.parameters())
        self._model = model
        return model

    def optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """Return the job's optimizer over ``parameters``."""
        return torch.optim.SGD(parameters, lr=self.rate(0), momentum=self.job["momentum"])

    def rate(self, step: int) -> float:
        """Return the learning rate of step number ``step``, from 0: a cosine down to 0 before the last steps."""
        share = min(1.0, step / (self.total * (1 - self.job["settle"])))
        return float(self.job["lr"]) * (1 + math.cos(math.pi * share)) / 2

    def loss(self, net: nn.Module, step: int) -> Tensor:
        """Return the loss of ``net`` on the batch of ``step``; the pace, if there is one, is spent here."""
        images, labels = (part[self._order[step]] for part in self._train)
        loss = nn.functional.cross_entropy(net(images), labels, label_smoothing=self.job["smoothing"])
        rest = self._began + self.job["pace"] - time.monotonic()
        if rest > 0:
            time.sleep(rest)  # before backward(): what a larger model would compute, and others may send meanwhile
        return loss

    def steps(self, optimizers: Iterable[Any]) -> Iterator[int]:
        """Yield the numbers of the steps; the caller takes the step that was yielded.

        Args:
            optimizers: whose ``param_groups`` get each step's rate. Asked anew for each step: some systems make
                theirs late.
        """
        self._gather()
        pause = float(self.job["sleep"].get(str(self.rank), 0.0))
        every = max(1, self.total // SAMPLES)
        self._sample()
        (self.folder / f"start.{self.rank}.json").write_text(json.dumps({"sent": sent_on_loopback()}))
        warm, before = int(self.job["warm"]), cpu_seconds()
        with (self.folder / f"times.{self.rank}").open("wb", buffering=0) as times:
            for step in range(self.total):
                before = cpu_seconds() if step == warm else before
                self._began = time.monotonic()
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = self.rate(step)
                yield step
                times.write(struct.pack("dd", self._began, time.monotonic()))
                if (step + 1) % every == 0:
                    self._sample()
                if self.job["kill"] == [self.rank, step + 1]:
                    os.kill(os.getpid(), signal.SIGKILL)
                if pause:
                    time.sleep(pause)
        self._spent = (cpu_seconds() - before) / max(1, self.total - warm)

    def _gather(self) -> None:
        """Wait, for a bounded time, until all workers are ready to begin: nobody trains alone meanwhile."""
        (self.folder / f"ready.{self.rank}").touch()
        deadline = time.monotonic() + GATHERING
        while len(list(self.folder.glob("ready.*"))) < self.workers and time.monotonic() < deadline:
            time.sleep(0.01)

    def _flat(self) -> Tensor:
        assert self._model is not None
        return torch.cat([value.detach().reshape(-1) for value in self._model.parameters()])

    def _sample(self) -> None:
        flat = self._flat()
        places = torch.linspace(0, len(flat) - 1, min(COORDINATES, len(flat)), dtype=torch.float64).long()
        self._samples.append(flat[places].numpy().copy())

    @torch.no_grad()
    def finish(self, **notes: Any) -> None:
        """Evaluate the own replica and leave the results.

        Args:
            notes: what the driver has to say, in values that JSON has.
        """
        assert self._model is not None
        self._sample()
        logits = self._model(self._eval[0])
        right = float((logits.argmax(dim=1) == self._eval[1]).double().mean())
        np.save(self.folder / f"samples.{self.rank}.npy", np.stack(self._samples))
        found: dict[str, Any] = {
            "accuracy": right,
            "cpu": self._spent,
            "peak": peak_bytes(),
            "steps": self.total,
            "notes": notes,
        }
        file = self.folder / f"worker.{self.rank}.json"
        scratch = file.with_suffix(".new")
        scratch.write_text(json.dumps(found))
        scratch.replace(file)  # readers see the whole file or none


def family() -> list[int]:
    """Return this process and all processes below it: some systems work in children."""
    found, new = [os.getpid()], [os.getpid()]
    while new:
        children: list[int] = []
        for pid in new:
            for file in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    children += [int(word) for word in file.read_text().split()]
                except OSError:
                    continue  # ended meanwhile
        found, new = found + children, children
    return found


def cpu_seconds() -> float:
    """Return the seconds of processor that this process and those below it have used."""
    ticks = 0
    for pid in family():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_bytes() -> int:
    """Return the sum of the largest resident sizes of this process and those below it."""
    total = 0
    for pid in family():
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return total


def sent_on_loopback() -> int:
    """Return the bytes that the loopback device of this network has sent."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return 0
