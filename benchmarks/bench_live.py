"""What becomes of a live run that is rewired, and of one that loses workers and gets some back.

Rewire: 16 workers on a ring, each with its own classes of digits, at a constant rate, so that their replicas keep
apart. Half way ``dagrad topology rewire`` gives them hash-rings, as it would from another terminal. The consensus
distance ||x_i - mean|| / ||mean|| before and after tells what the graph does.

Churn: 4 of 16 workers get SIGKILL, two of them come back by ``dagrad join``, and the mean accuracy of the 14 that reach
the end is compared with an undisturbed run of the same seed.

    python benchmarks/bench_live.py rewire [--figure docs/figures/rewire.png]
    python benchmarks/bench_live.py churn [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from launching import RunFailed, Running, launched

DAGRAD = [sys.executable, "-m", "dagrad_bus.tools.cli"]
VICTIMS = (3, 6, 9, 12)
BACK = VICTIMS[:2]
KILLED = 137
SETTLE = 0.2
"""Share of a rewired run's steps, after the change, that is left out of the later mean."""


@dataclass(frozen=True, slots=True)
class Rewired:
    """One rewired run."""

    at_step: float
    seconds: float
    """From the command to the last worker's adoption, by the workers' own heartbeats."""
    points: list[tuple[int, float]]
    """Step and consensus distance."""
    steps_lost: int
    """Workers that took fewer steps than asked for."""

    def level(self, steps: int, *, after: bool) -> float:
        """Return the mean distance of the later half before the change, or after it had time to work."""
        low, high = (self.at_step + SETTLE * steps, steps) if after else (self.at_step / 2, self.at_step)
        found = [distance for step, distance in self.points if low <= step <= high]
        if not found:
            raise RunFailed("the run has too few samples: give more --steps")
        return mean(found)


def program(args: argparse.Namespace, *more: object) -> list[object]:
    """Return the flags of the training program."""
    return ["--steps", args.steps, "--pace", args.pace, "--eval-every", 25, *more]


def step_of(run: Running) -> float:
    """Return the mean of the workers' steps as their journals say."""
    steps = [float(record.last.get("step", 0)) for record in run.records()]
    return mean(steps) if len(steps) > 1 else 0.0


def dagrad(*words: str) -> subprocess.Popen[str]:
    """Start ``dagrad`` with these words, as another terminal would; complaints go where ours go."""
    return subprocess.Popen([*DAGRAD, *words], stdout=subprocess.PIPE, text=True)


def summary(folder: Path) -> dict[str, Any]:
    """Return the summary of a run that has ended."""
    said, _ = dagrad("report", "--no-figures", "--json", str(folder)).communicate(timeout=60)
    found: dict[str, Any] = json.loads(said)
    return found


def rewire(args: argparse.Namespace) -> Rewired:
    """Run once."""
    options = {"topology": "ring"}
    flags = program(args, "--shards", "sorted", "--schedule", "none", "--lr", args.lr)
    with launched(args.workers, options, [], flags) as run:
        run.wait(lambda: step_of(run) >= args.steps / 2, pause=0.2)
        at = step_of(run)
        order = dagrad("topology", "rewire", str(run.folder), "--kind", "hash-rings", "--json")
        said, _ = order.communicate(timeout=60)
        if order.returncode:
            raise RunFailed(f"rewire: exit {order.returncode}: {said}")
        run.finish()
        found = summary(run.folder)
    seconds = float(json.loads(said)["seconds"])
    lost = sum(worker["steps"] < args.steps for worker in found["workers"])
    return Rewired(at, seconds, [(int(step), float(distance)) for step, distance in found["consensus"]], lost)


def churn(args: argparse.Namespace, *, disturbed: bool) -> dict[str, Any]:
    """Run once, with deaths and returns or without, and return its summary."""
    joined: list[subprocess.Popen[str]] = []
    flags = program(args, "--linger", 10)
    with launched(args.workers, {"on-failure": "continue"}, [], flags) as run:
        if disturbed:
            run.wait(lambda: step_of(run) >= args.steps / 4, pause=0.2)
            for victim in VICTIMS:
                os.kill(_pid(run.folder, victim), signal.SIGKILL)
            time.sleep(args.absent)
            words = ("-m", "--", str(run.folder), "dagrad_bus.workers.digits", *map(str, flags))
            joined = [dagrad("join", "--name", f"local.{n}", *words) for n in BACK]
        run.finish(codes=(KILLED,) if disturbed else (0,))
        for process in joined:
            said, _ = process.communicate(timeout=60)
            if process.returncode:
                raise RunFailed(f"one that came back ended with {process.returncode}: {said[-1000:]}")
        return summary(run.folder)


def _pid(folder: Path, number: int) -> int:
    return int(json.loads((folder / "peers" / f"local.{number}.json").read_text())["pid"])


def ended(found: dict[str, Any], steps: int) -> list[float]:
    """Return the last accuracies of the workers that took all steps."""
    return [worker["accuracy"] for worker in found["workers"] if worker["steps"] >= steps and worker["accuracy"]]


def draw(found: Rewired, args: argparse.Namespace) -> None:
    """Draw the distance over the steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.plot(*zip(*found.points, strict=True), color="#1f5fa8", linewidth=1.8)
    axes.axvline(found.at_step, color="#b03030", linestyle="--", linewidth=1.2)
    axes.annotate("  dagrad topology rewire:\n  ring to hash-rings", (found.at_step, axes.get_ylim()[1]), va="top")
    axes.set_xlabel("step")
    axes.set_ylabel("consensus distance")
    axes.set_ylim(0)
    axes.set_title(f"{args.workers} workers, label-sorted digits, rewired while they train", fontsize=11)
    axes.grid(alpha=0.3)
    figure.savefig(args.figure, dpi=110)


def show_rewire(args: argparse.Namespace) -> bool:
    """Run, print; whether the distance fell and no step was lost."""
    found = rewire(args)
    before, after = found.level(args.steps, after=False), found.level(args.steps, after=True)
    print(f"rewired at step {found.at_step:.0f}, adopted by all within {found.seconds:.2f} s")
    print(f"consensus distance  ring {before:.4f}   hash-rings {after:.4f}   ratio {after / before:.2f}")
    print(f"workers that lost steps: {found.steps_lost}")
    if args.figure:
        draw(found, args)
    return after < before and not found.steps_lost


def show_churn(args: argparse.Namespace) -> bool:
    """Run, print; whether 14 workers end within a point."""
    good = True
    for number in range(args.rounds):
        plain, hurt = (ended(churn(args, disturbed=disturbed), args.steps) for disturbed in (False, True))
        apart = 100 * (mean(plain) - mean(hurt))
        expected = args.workers - len(VICTIMS) + len(BACK)
        print(
            f"round {number}: undisturbed {100 * mean(plain):.2f} % of {len(plain)} workers,"
            f" disturbed {100 * mean(hurt):.2f} % of {len(hurt)} (worst {100 * min(hurt):.2f}), {apart:.2f} points apart",
            flush=True,
        )
        good &= apart <= 1.0 and len(hurt) == expected
    return good


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the two; exit 1 if the promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rewire", "churn"])
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pace", type=float, default=0.2, help="seconds a step takes at least")
    parser.add_argument("--lr", type=float, default=0.05, help="of the rewired run, constant")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--absent", type=float, default=6.0, help="seconds until two of the dead come back")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args(argv)
    return 0 if (show_rewire if args.what == "rewire" else show_churn)(args) else 1


if __name__ == "__main__":
    sys.exit(main())
