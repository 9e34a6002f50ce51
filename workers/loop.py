"""The training loop that all programs of this folder share: what is learned is a :class:`Task`, the rest is here.

Alone it is a plain loop; under a launcher the one line ``dagrad_bus.attach`` makes it one of many. At the start a worker
waits, for a bounded time, until the others have published their addresses: a short run would otherwise be over before
the last process is up. At the end it lingers likewise: it trains no more, but goes on mixing until the others are
through, or the slowest would learn its last steps alone. Then it leaves its parameters in ``RUN_DIR/final``; whoever
finds the files of all members there evaluates their mean as well.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

import dagrad_bus
from dagrad_bus.errors import BusError
from dagrad_bus.rendezvous import look_up
from dagrad_bus.settings import Settings, from_environment
from dagrad_bus.workers.problem import Evaluation

MIX_PAUSE = 0.05
"""Seconds between two exchanges of a worker that trains no more: about a step under load; it must not crowd others."""
CRASH = 70
"""Exit code of an injected crash."""
NextLoss = Callable[[], Tensor]
"""Draws the worker's next batch and returns its scalar training loss."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """What one worker learns."""

    model: nn.Module
    """This worker's replica: the same initial weights on all workers."""
    optimizer: Optimizer
    """Of the model."""
    steps: int
    """Steps of each worker."""
    eval_every: int
    """Steps between two evaluations; the last step is always evaluated."""
    follow: Callable[[int], None]
    """Is told the number of steps taken, any number, and sets the learning rate."""
    deal: Callable[[int, int, str], NextLoss]
    """Takes index, count and name of this worker: gives it its shard."""
    evaluate: Callable[[nn.Module, int], Evaluation]
    """Evaluates a model after so many steps on the held-out samples."""
    build: Callable[[], nn.Module]
    """Returns another model of the same shape: it takes the mean of all replicas."""

    def evaluates(self, step: int) -> bool:
        """Return whether the model is evaluated after ``step`` steps."""
        return step % self.eval_every == 0 or step == self.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong on purpose, by worker name."""

    sleep: Mapping[str, float] = field(default_factory=dict[str, float])
    """Seconds that a worker sleeps after each of its steps: a straggler."""
    pace: float = 0.0
    """Seconds that a step of any worker takes at least, as if its model were larger: more workers than cores then go
    side by side, and exchange at each step, instead of in turns."""
    fail: Mapping[str, int] = field(default_factory=dict[str, int])
    """Step at which a worker's process ends at once, without a word to anybody."""

    def strike(self, name: str, step: int, began: float) -> None:
        """Do to worker ``name`` what is due after its step number ``step``, begun at ``time.monotonic() == began``."""
        if self.fail.get(name) == step:
            print(f"{name} crashes at step {step}, as asked", flush=True)
            os._exit(CRASH)
        pause = max(0.0, began + self.pace - time.monotonic()) + self.sleep.get(name, 0.0)
        if pause:
            time.sleep(pause)


class StepTimes:
    """How long steps took, for programs that measure: evaluations and pauses are no part of a step."""

    def __init__(self) -> None:
        self._steps: list[float] = []
        self._exchanges: list[float] = []
        self._opened = 0.0
        self._gaps: list[float] = []
        self._since: float | None = None

    def note(self, began: float, ended: float) -> None:
        """Take one step, in ``time.monotonic()``."""
        self._steps.append(ended - began)
        if self._since is not None:
            self._gaps.append(ended - self._since)
        self._since = ended

    def open_exchange(self, *_: object) -> None:
        """Be the optimizer's hook that runs just before the exchange's own."""
        self._opened = time.monotonic()

    def close_exchange(self, *_: object) -> None:
        """Be the one that runs just after it."""
        self._exchanges.append(time.monotonic() - self._opened)

    def take(self) -> dict[str, float]:
        """Return what the steps since the last call took, in ms.

        Median and 99th percentile of a step, the longest time from one's end to the next one's, pauses included, and if
        the hooks were registered the time inside exchanges, as a share of all steps.
        """
        p50, p99 = (float(np.percentile(self._steps, share)) * 1000 for share in (50, 99))
        found = {"step_p50_ms": p50, "step_p99_ms": p99, "step_gap_ms": max(self._gaps, default=0.0) * 1000}
        if self._exchanges:
            found["exchange_ms"] = float(np.mean(self._exchanges)) * 1000
            found["exchange_share"] = sum(self._exchanges) / sum(self._steps)
        self._steps, self._gaps, self._since, self._exchanges = [], [], None, []
        return found


def parse_fault(text: str) -> tuple[str, float]:
    """Return worker and number of ``W:NUMBER``.

    Raises:
        argparse.ArgumentTypeError: another form, or a number not over 0.
    """
    name, colon, number = text.rpartition(":")
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not (name and colon and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: needs WORKER:NUMBER with a number over 0, as local.0:0.2")
    return name, value


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give a program the loop's own flags; :func:`run` reads them."""
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch, default 1")
    parser.add_argument(
        "--wait", type=float, default=30.0, metavar="S", help="seconds to wait for the others at the start, default 30"
    )
    parser.add_argument(
        "--linger", type=float, default=5.0, metavar="S", help="seconds to go on mixing at the end, at most; default 5"
    )
    parser.add_argument(
        "--settle", type=float, default=1.0, metavar="X",
        help="once the rate is 0, frames hold X times their share of the model; default 1",
    )  # fmt: skip
    parser.add_argument("--pace", type=float, default=0.0, metavar="S", help="a step takes S s at least; default 0")
    parser.add_argument(
        "--sleep", type=parse_fault, action="append", default=[], metavar="W:S", help="worker W sleeps S s each step"
    )
    parser.add_argument(
        "--fail", type=parse_fault, action="append", default=[], metavar="W:STEP", help="worker W crashes at STEP, once"
    )
    parser.add_argument("--no-finals", action="store_true", help="leave no parameters in the run folder at the end")
    parser.add_argument("--log-steps", action="store_true", help="log how long steps took, at each evaluation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a worker goes about its task; :func:`run` makes it from the flags."""

    faults: Faults = field(default_factory=Faults)
    """What goes wrong on purpose."""
    wait: float = 30.0
    """Seconds to wait at most for the others at the start."""
    linger: float = 5.0
    """Seconds to go on mixing at most at the end."""
    settle: float = 1.0
    """Times its share of the model that a frame holds once the rate is 0 and steps only mix."""
    finals: bool = True
    """Whether the final parameters are left in the run folder."""
    is_back: bool = False
    """It was started again: it copies its neighbours' model first."""
    log_steps: bool = False
    """Whether step times and peak memory are logged at each evaluation."""


def train(task: Task, settings: Settings, habits: Habits) -> None:
    """Train one worker's replica, with its peers if there are any; ``attach`` reads the same environment."""
    times, model, optimizer = StepTimes(), task.model, task.optimizer
    if habits.log_steps:
        optimizer.register_step_post_hook(times.open_exchange)
    with dagrad_bus.attach(model, optimizer) as bus:
        if habits.log_steps:
            optimizer.register_step_post_hook(times.close_exchange)
        next_loss = task.deal(bus.index, bus.count, bus.name)
        if not ((settings.joins or habits.is_back) and bus.sync()):
            wait_for_all(settings, 0.0 if habits.is_back else habits.wait)
        while bus.step_count < task.steps:  # not a plain count: one that fell behind goes on at its peers' step
            began = time.monotonic()
            task.follow(bus.step_count)
            if habits.settle != 1 and not any(group["lr"] for group in optimizer.param_groups):
                bus.set_density(min(1.0, habits.settle * settings.exchange.density))
            optimizer.zero_grad()
            next_loss().backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
            times.note(began, time.monotonic())
            step = bus.step_count
            if task.evaluates(step):
                report(bus, task.evaluate(model, step))
                if habits.log_steps:
                    bus.log(**times.take(), peak_mb=peak_memory() / 1e6)
            habits.faults.strike(bus.name, step, began)
        if settings.directory is not None:
            _finish(bus, task, settings.directory, settings, habits)


def _finish(bus: dagrad_bus.Attachment, task: Task, directory: Path, settings: Settings, habits: Habits) -> None:
    task.optimizer.zero_grad()
    if mix_until_all_are_done(directory, settings, task.optimizer.step, habits.linger):
        report(bus, task.evaluate(task.model, task.steps))
    if habits.finals:
        leave_final(directory, bus.name, task.model)
        log_mean_model(bus, task, directory, settings.members)


def log_mean_model(bus: dagrad_bus.Attachment, task: Task, directory: Path, members: Sequence[str]) -> None:
    """Evaluate the mean of all members' final replicas, if this worker is the last to leave its own."""
    if (mean := mean_of_finals(directory, members)) is None:
        return
    twin = task.build()
    load_flat(twin, mean)
    bus.log(mean_model_accuracy=task.evaluate(twin, task.steps).accuracy)


def report(bus: dagrad_bus.Attachment, found: Evaluation) -> None:
    """Log one evaluation of the own replica, and say it."""
    bus.log(loss=found.loss, accuracy=found.accuracy)
    print(f"{bus.name} step {found.step} loss {found.loss:.4f} accuracy {found.accuracy:.4f}", flush=True)


def peak_memory() -> int:
    """Return the most memory, in bytes, that this process has had at once (``ru_maxrss``)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def mix_until_all_are_done(directory: Path, settings: Settings, step: Callable[[], object], seconds: float) -> int:
    """Say that this worker is done, then take steps until all members have said so.

    Args:
        directory: the run folder; ``done/<name>`` stands there for a worker that trains no more.
        settings: name this worker and the members.
        step: an optimizer's step; without gradients it changes nothing, but exchanges.
        seconds: after so many the others are left alone: one may have crashed.

    Returns:
        How many steps it took.
    """
    marks = directory / "done"
    marks.mkdir(parents=True, exist_ok=True)
    (marks / settings.name).touch()
    deadline, steps = time.monotonic() + seconds, 0
    while time.monotonic() < deadline and not all((marks / name).exists() for name in settings.members):
        step()
        steps += 1
        time.sleep(MIX_PAUSE)
    return steps


def wait_for_all(settings: Settings, seconds: float) -> bool:
    """Wait until all other members have published their addresses; return whether they have."""
    if settings.directory is None:
        return True
    deadline = time.monotonic() + seconds
    others = [name for name in settings.members if name != settings.name]  # a member without others has no address
    while any(look_up(settings.directory, name) is None for name in others):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _floats(model: nn.Module) -> list[Tensor]:
    """Return parameters and floating buffers (BatchNorm's statistics): what replicas have and mix."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    return [*(parameter.detach() for parameter in model.parameters()), *buffers]


def load_flat(model: nn.Module, values: Tensor) -> None:
    """Put ``values``, float32[P], into a model's parameters and floating buffers, in :func:`leave_final`'s order."""
    place = 0
    for tensor in _floats(model):
        tensor.copy_(values[place : place + tensor.numel()].view_as(tensor))
        place += tensor.numel()


def leave_final(directory: Path, name: str, model: nn.Module) -> Path:
    """Write parameters and floating buffers, float32[P], to ``final/<name>.npy``; readers see the whole file or none."""
    target = directory / "final" / f"{name}.npy"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(f".{os.getpid()}")
    flat = torch.cat([tensor.reshape(-1).float() for tensor in _floats(model)])
    with temporary.open("wb") as file:
        np.save(file, flat.cpu().numpy())
    return temporary.replace(target)


def mean_of_finals(directory: Path, members: Sequence[str]) -> Tensor | None:
    """Return the mean, float32[P], of all members' final replicas; None while one is missing.

    Whoever writes last finds all files. Two that finish together may both: they find the same mean.
    """
    files = [directory / "final" / f"{name}.npy" for name in members]
    if not files or not all(file.exists() for file in files):
        return None
    total: NDArray[np.float64] | None = None
    for file in files:  # one after the other: a large model times all members would not fit
        final: NDArray[np.float32] = np.load(file, allow_pickle=False)
        total = final.astype(np.float64) if total is None else np.add(total, final, out=total)
    assert total is not None
    return torch.from_numpy((total / len(files)).astype(np.float32))


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def prepare(work: Callable[[], str]) -> int:
    """Do what a program was asked for instead of training, and say what came of it; a known error is one line."""
    try:
        print(work())
    except BusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(flags: argparse.Namespace, make: Callable[[], Task]) -> int:
    """Be a training program's main part: train and return the exit code; a known error is one line.

    Args:
        flags: those of :func:`add_flags`.
        make: loads the data and builds the model; what it raises as ``BusError`` is told in one line too.
    """
    torch.set_num_threads(flags.threads)
    signal.signal(signal.SIGTERM, _end)  # through the context manager: the others hear that this worker leaves
    first = os.environ.get("DAGRAD_ATTEMPT", "0") == "0"  # a restarted worker does not crash again
    fail = {name: int(step) for name, step in flags.fail} if first else {}
    habits = Habits(
        faults=Faults(pace=flags.pace, sleep=dict(flags.sleep), fail=fail),
        wait=flags.wait,
        linger=flags.linger,
        settle=flags.settle,
        finals=not flags.no_finals,
        is_back=not first,
        log_steps=flags.log_steps,
    )
    try:
        settings = from_environment(os.environ)
        train(make(), settings, habits)
    except BusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
