"""One run for real, and the numbers that it leaves: bytes at the interface, accuracies, speeds, ages.

Speeds are taken between a worker's first and last evaluation while it trains: start-up is in none of them, nor is the
time in which a worker that is through goes on mixing. Bytes are those of the whole run over the steps trained, start,
heartbeats and mixing at the end included: they are part of the price.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.errors import BusError
from dagrad_bus.lab.interface import Ran, Traffic, run_inside, why_not
from dagrad_bus.lab.paper.cells import Cell
from dagrad_bus.workers.launch.journal import Record, read_record

PACKET = 52
"""Bytes of IP and TCP (with time stamps) around what a packet carries; Linux does not count Ethernet's on loopback."""
TOLERANCE = (0.98, 1.05)
"""Bounds of the ratio of bytes at the interface, packet headers taken off, to bytes that ZeroMQ was handed. Below: not
all left, or some were not seen. Above: the framing of ZMTP does not explain it."""
SLACK, SLACK_PER_PEER = 2000, 500
"""Bytes a worker, and more for each of its peers, by which the two may differ besides: ZMTP's handshakes (four connections
a pair; 3400 to 4100 in all with seven peers), and goodbyes to those who have left."""
POINTS = 15
"""Points of a curve."""
_STEP = re.compile(r"step (?P<step>\d+) .*accuracy (?P<accuracy>[0-9.]+)")
"""What a program says after each evaluation."""


class RunFailed(BusError):
    """A run that gives no numbers; the message has the end of what it said."""

    code = 3
    """Exit code of the program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run. Accuracies are shares, of each worker's own replica after its last step."""

    workers: int
    steps: int
    """Of each worker."""
    parameters: int
    """Size of the model; 0 for a worker alone, which does not tell it."""
    accuracies: tuple[float, ...]
    mean_model: float | None
    """Accuracy of the mean of all replicas."""
    consensus: float | None
    """Mean over workers of ||x_i - mean|| / ||mean||, of the replicas that were evaluated."""
    interface_bytes: int | None
    """Sent at the interface by all workers; None where no network namespace could be made."""
    packets: int | None
    socket_bytes: int
    """Handed to ZeroMQ by all workers."""
    rates: tuple[float, ...]
    """Steps a second of each worker while it trains; 0 where it was not seen to train."""
    median_age: float | None
    mixing: str
    """Verdict of the run's summary."""
    curve: tuple[tuple[int, float], ...]
    """(step, bytes sent a step since the point before, mean over the workers)."""
    seconds: float

    @property
    def bytes_per_step(self) -> float:
        """Return the bytes that a worker sends per step, at the interface if it was read there."""
        sent = self.socket_bytes if self.interface_bytes is None else self.interface_bytes
        return sent / (self.workers * self.steps)

    @property
    def dense_share(self) -> float:
        """Return the same as a share of synchronous dense training, 2 * 4 * P bytes."""
        return self.bytes_per_step / (8 * self.parameters)

    @property
    def agreement(self) -> float | None:
        """Return what left the interface, packet headers taken off, by what ZeroMQ was handed; None if unknown."""
        if self.interface_bytes is None or self.packets is None or not self.socket_bytes:
            return None
        return (self.interface_bytes - PACKET * self.packets) / self.socket_bytes

    @property
    def agrees(self) -> bool | None:
        """Return whether interface and sockets tell the same story; None where only one spoke."""
        if self.agreement is None:
            return None
        allowed = self.workers * (SLACK + SLACK_PER_PEER * (self.workers - 1))
        (low, high), slack = TOLERANCE, allowed / self.socket_bytes
        return low - slack <= self.agreement <= high + slack

    @property
    def rate(self) -> float:
        """Return the steps a second of all workers together."""
        return sum(self.rates)

    def to_json(self) -> dict[str, Any]:
        """Return it as the store of results keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Measured:
        """Return what :meth:`to_json` gave."""
        values: dict[str, Any] = {name: tuple(found[name]) for name in ("accuracies", "rates")}
        values["curve"] = tuple((int(step), float(size)) for step, size in found["curve"])
        return cls(**{**found, **values})


Measure = Callable[[Cell, Path], Measured]
"""Makes one run in a folder of its own."""


def measure(cell: Cell, folder: Path) -> Measured:
    """Run a cell in a network namespace of its own, where one can be made, and read what it left.

    Args:
        cell: what runs.
        folder: of the run; what stands there is removed first.

    Raises:
        RunFailed: it failed, or took too long.
    """
    if cell.purpose == "alone":
        return measure_alone(cell)
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    command, limit, environ = cell.command(folder), 10 * cell.guess + 60, environment(cell)
    ran = _run_outside(command, limit, environ) if why_not() else run_inside(command, timeout=limit, environ=environ)
    if ran.returncode:
        how = f"took over {limit:.0f} s" if ran.timed_out else f"exit code {ran.returncode}"
        raise RunFailed(f"{cell.name}: {how}: {' '.join(command)}\n{ran.tail.rstrip()}")
    found = read_run(cell, folder, traffic=None if why_not() else ran.traffic, seconds=ran.seconds)
    shutil.rmtree(folder / "final", ignore_errors=True)  # megabytes a worker
    return found


def measure_alone(cell: Cell) -> Measured:
    """Run the program of a cell by itself, without a bus, and time the lines in which it says how far it is.

    Raises:
        RunFailed: it failed, took too long, or said nothing of its steps.
    """
    began, seen, accuracy, said = time.monotonic(), dict[int, float](), 0.0, deque[str](maxlen=20)
    process = subprocess.Popen(
        cell.program(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(cell)
    )
    watch = threading.Timer(10 * cell.guess + 60, process.kill)
    watch.start()
    try:
        with process:
            for line in process.stdout or ():
                said.append(line.rstrip())
                if found := _STEP.search(line):
                    seen.setdefault(int(found["step"]), time.monotonic())
                    accuracy = float(found["accuracy"])
    finally:
        watch.cancel()
        process.kill()
    steps = sorted(seen)
    if process.returncode or len(steps) < 2:
        raise RunFailed(f"{cell.name}: exit code {process.returncode}: {' '.join(cell.program())}\n" + "\n".join(said))
    rate = (steps[-1] - steps[0]) / (seen[steps[-1]] - seen[steps[0]])
    return Measured(
        workers=1, steps=cell.steps, parameters=0, accuracies=(accuracy,), mean_model=None, consensus=None,
        interface_bytes=None, packets=None, socket_bytes=0, rates=(rate,), median_age=None, mixing="not asked",
        curve=(), seconds=time.monotonic() - began,
    )  # fmt: skip


def _run_outside(command: Sequence[str], limit: float, environ: Mapping[str, str]) -> Ran:
    """Run a command where no namespace can be made; its traffic is not known."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(environ), start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return Ran(process.returncode or -signal.SIGKILL, Traffic(0, 0), limit, "", timed_out=True)
    finally:
        if process.poll() is None:  # out of time, or Ctrl-C: the launcher and all its workers
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return Ran(process.returncode, Traffic(0, 0), time.monotonic() - began, said[-2000:])


def environment(cell: Cell) -> dict[str, str]:
    """Return the environment of a run: this one, one thread a worker, and no settings but the cell's."""
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("DAGRAD_")}
    return {**foreign, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **cell.environment()}


def read_run(cell: Cell, folder: Path, *, traffic: Traffic | None, seconds: float) -> Measured:
    """Return the numbers of a finished run.

    Args:
        cell: what ran.
        folder: of the run.
        traffic: what was sent at the interface; None if it was not read.
        seconds: how long it took.

    Raises:
        RunFailed: a worker left no accuracy, or no summary was written.
    """
    try:
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
        records = [read_record(folder / "workers" / f"{w['name']}.jsonl", w["name"]) for w in summary["workers"]]
        accuracies = tuple(float(worker["accuracy"]) for worker in summary["workers"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFailed(f"{cell.name}: the run left no usable summary in {folder}: {error}") from None
    rates = tuple(training_rate(record, cell.steps) for record in records)
    return Measured(
        workers=cell.workers,
        steps=cell.steps,
        parameters=int(summary["parameters"]),
        accuracies=accuracies,
        mean_model=_mean_model(records),
        consensus=final_distance(folder / "final"),
        interface_bytes=traffic.sent if traffic else None,
        packets=traffic.packets if traffic else None,
        socket_bytes=sum(record.counter("bytes_sent") for record in records),
        rates=rates,
        median_age=summary["median_age"],
        mixing=summary["mixing"]["verdict"],
        curve=bytes_curve(records, cell.steps),
        seconds=seconds,
    )


def training_rate(record: Record, steps: int) -> float:
    """Return a worker's steps a second between its first and its last evaluation up to ``steps``; 0 if unknown."""
    seen = [(int(entry["step"]), float(entry["time"])) for entry in record.logs if entry["step"] <= steps]
    if not seen:
        return 0.0
    first, last = min(seen), max(seen)
    last = min(entry for entry in seen if entry[0] == last[0])  # the first log of that step ends it
    return (last[0] - first[0]) / (last[1] - first[1]) if last[1] > first[1] else 0.0


def _mean_model(records: Sequence[Record]) -> float | None:
    found = [record.latest["mean_model_accuracy"] for record in records if "mean_model_accuracy" in record.latest]
    return found[-1] if found else None


def final_distance(folder: Path) -> float | None:
    """Return the mean over workers of ||x_i - mean|| / ||mean|| of the replicas left in ``folder``."""
    files = sorted(folder.glob("*.npy"))
    if len(files) < 2:
        return None
    replicas: NDArray[np.float64] = np.stack([np.load(file, allow_pickle=False) for file in files]).astype(np.float64)
    mean = replicas.mean(axis=0)
    norm = float(np.linalg.norm(mean))
    spread = float(np.linalg.norm(replicas - mean, axis=1).mean())
    return spread / norm if norm and np.isfinite(spread) else None


def bytes_curve(records: Sequence[Record], steps: int) -> tuple[tuple[int, float], ...]:
    """Return the bytes a step that workers sent over training, from the totals in their progress lines.

    Totals between two lines are interpolated by step, so the area below the curve is what was sent.
    """
    grid = np.unique(np.linspace(0, steps, POINTS + 1).astype(int))
    sizes: list[NDArray[np.float64]] = []
    for record in records:
        points = {int(line["step"]): float(line["counters"].get("bytes_sent", 0)) for line in record.progress}
        if len(points) > 1:
            at = sorted(points)
            totals = np.interp(grid, at, [points[step] for step in at])
            sizes.append(np.diff(totals) / np.diff(grid))
    if not sizes:
        return ()
    return tuple((int(step), fmean(column)) for step, column in zip(grid[1:], np.stack(sizes).T, strict=True))


def describe_counting() -> str:
    """Return where bytes are counted on this machine, in one line."""
    if why := why_not():
        return f"handed to ZeroMQ; not read at an interface: {why}"
    return "sent at the network interface of a namespace of each run's own"
