"""The reference training program: small, real, nothing to download.

Alone it is a plain training loop; under a launcher the one line ``dagrad_bus.attach`` makes it one of many::

    python -m dagrad_bus.workers.digits
    dagrad run -n 8 -- python -m dagrad_bus.workers.digits --shards sorted

Each worker trains on its own shard (see :mod:`dagrad_bus.workers.shards`) and evaluates its own replica on the whole
test set. At the start it waits, for a bounded time, until the others have published their addresses, as 150 steps would
otherwise be over before the last process is up. At the end it lingers likewise: it trains no more, but goes on mixing
until the others are through, or the slowest would learn its last steps alone. Then it leaves its parameters in
``RUN_DIR/final``; whoever finds the files of all members there evaluates their mean as well.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import dagrad_bus
from dagrad_bus.errors import BusError
from dagrad_bus.rendezvous import look_up
from dagrad_bus.settings import Settings, from_environment
from dagrad_bus.workers.problem import (
    Digits,
    Evaluation,
    Recipe,
    add_flags,
    build_model,
    build_optimizer,
    evaluate,
    from_flags,
    load,
)
from dagrad_bus.workers.shards import Batches

MIX_PAUSE = 0.05
"""Seconds between two exchanges of a worker that trains no more: about a step under load; it must not crowd others."""
CRASH = 70
"""Exit code of an injected crash."""


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
        self._gaps: list[float] = []
        self._since: float | None = None

    def note(self, began: float, ended: float) -> None:
        """Take one step, in ``time.monotonic()``."""
        self._steps.append(ended - began)
        if self._since is not None:
            self._gaps.append(ended - self._since)
        self._since = ended

    def take(self) -> dict[str, float]:
        """Return what the steps since the last call took, in ms.

        Median and 99th percentile of a step, and the longest time from one's end to the next one's, pauses included.
        """
        p50, p99 = (float(np.percentile(self._steps, share)) * 1000 for share in (50, 99))
        found = {"step_p50_ms": p50, "step_p99_ms": p99, "step_gap_ms": max(self._gaps, default=0.0) * 1000}
        self._steps, self._gaps, self._since = [], [], None
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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dagrad_bus.workers.digits", description="Train on handwritten digits, alone or with peers."
    )
    add_flags(parser)
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch, default 1")
    parser.add_argument(
        "--wait", type=float, default=30.0, metavar="S", help="seconds to wait for the others at the start, default 30"
    )
    parser.add_argument(
        "--linger", type=float, default=5.0, metavar="S", help="seconds to go on mixing at the end, at most; default 5"
    )
    parser.add_argument("--pace", type=float, default=0.0, metavar="S", help="a step takes S s at least; default 0")
    parser.add_argument(
        "--sleep", type=parse_fault, action="append", default=[], metavar="W:S", help="worker W sleeps S s each step"
    )
    parser.add_argument(
        "--fail", type=parse_fault, action="append", default=[], metavar="W:STEP", help="worker W crashes at STEP, once"
    )
    parser.add_argument("--log-steps", action="store_true", help="log how long steps took, at each evaluation")
    return parser.parse_args(argv)


def train(
    recipe: Recipe,
    faults: Faults,
    settings: Settings,
    *,
    wait: float,
    linger: float,
    is_back: bool = False,
    log_steps: bool = False,
) -> None:
    """Train one worker's replica, with its peers if there are any.

    Args:
        recipe: what is learned, equal on all workers.
        faults: what goes wrong on purpose.
        settings: the run's; ``attach`` reads the same environment.
        wait: seconds to wait at most for the others at the start.
        linger: seconds to go on mixing at most at the end.
        is_back: it was started again, or joins a run that goes on: it copies its neighbours' model first.
        log_steps: whether step times are logged at each evaluation.
    """
    times = StepTimes()
    digits = load(recipe.seed, recipe.report)
    model = build_model(recipe.model, recipe.seed)
    optimizer, follow_schedule = build_optimizer(model, recipe)
    with dagrad_bus.attach(model, optimizer) as bus:
        shard = digits.shards(recipe, bus.count)[bus.index]
        batches = Batches(shard, recipe.batch, recipe.seed, bus.name)
        if not ((settings.joins or is_back) and bus.sync()):
            wait_for_all(settings, 0.0 if is_back else wait)
        while bus.step_count < recipe.steps:  # not a plain count: one that fell behind goes on at its peers' step
            began = time.monotonic()
            follow_schedule(bus.step_count)
            optimizer.zero_grad()
            recipe.loss(model, *digits.batch(batches.next())).backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
            times.note(began, time.monotonic())
            step = bus.step_count
            if recipe.evaluates(step):
                report(bus, evaluate(model, digits, step))
                if log_steps:
                    bus.log(**times.take())
            faults.strike(bus.name, step, began)
        if settings.directory is not None:
            optimizer.zero_grad()
            if mix_until_all_are_done(settings.directory, settings, optimizer.step, linger):
                report(bus, evaluate(model, digits, recipe.steps))
            leave_final(settings.directory, bus.name, model)
            log_mean_model(bus, recipe, digits, settings)


def log_mean_model(bus: dagrad_bus.Attachment, recipe: Recipe, digits: Digits, settings: Settings) -> None:
    """Evaluate the mean of all members' final parameters, if this worker is the last to leave its own."""
    if settings.directory is None or (mean := mean_of_finals(settings.directory, settings.members)) is None:
        return
    twin = build_model(recipe.model, recipe.seed)
    nn.utils.vector_to_parameters(mean, twin.parameters())
    bus.log(mean_model_accuracy=evaluate(twin, digits, recipe.steps).accuracy)


def report(bus: dagrad_bus.Attachment, found: Evaluation) -> None:
    """Log one evaluation of the own replica, and say it."""
    bus.log(loss=found.loss, accuracy=found.accuracy)
    print(f"{bus.name} step {found.step} loss {found.loss:.4f} accuracy {found.accuracy:.4f}", flush=True)


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
    """Wait until all members have published their addresses; return whether they have."""
    if settings.directory is None:
        return True
    deadline = time.monotonic() + seconds
    while any(look_up(settings.directory, name) is None for name in settings.members):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def leave_final(directory: Path, name: str, model: nn.Module) -> Path:
    """Write the flat parameters, float32[P], to ``final/<name>.npy``; readers see the whole file or none."""
    target = directory / "final" / f"{name}.npy"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(f".{os.getpid()}")
    with temporary.open("wb") as file:
        np.save(file, nn.utils.parameters_to_vector(model.parameters()).detach().numpy())
    return temporary.replace(target)


def mean_of_finals(directory: Path, members: Sequence[str]) -> torch.Tensor | None:
    """Return the mean, float32[P], of all members' final parameters; None while one is missing.

    Whoever writes last finds all files. Two that finish together may both: they find the same mean.
    """
    files = [directory / "final" / f"{name}.npy" for name in members]
    if not files or not all(file.exists() for file in files):
        return None
    finals: list[NDArray[np.float32]] = [np.load(file, allow_pickle=False) for file in files]
    return torch.from_numpy(np.mean(finals, axis=0, dtype=np.float64).astype(np.float32))


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Train and return the exit code; a known error is one line."""
    flags = parse(argv)
    torch.set_num_threads(flags.threads)
    signal.signal(signal.SIGTERM, _end)  # through the context manager: the others hear that this worker leaves
    first = os.environ.get("DAGRAD_ATTEMPT", "0") == "0"  # a restarted worker does not crash again
    fail = {name: int(step) for name, step in flags.fail} if first else {}
    try:
        settings = from_environment(os.environ)
        faults = Faults(pace=flags.pace, sleep=dict(flags.sleep), fail=fail)
        train(
            from_flags(flags),
            faults,
            settings,
            wait=flags.wait,
            linger=flags.linger,
            is_back=not first,
            log_steps=flags.log_steps,
        )
    except BusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
