"""What a slow worker and a dead one cost the others.

Straggler: ``local.0`` sleeps 0.2 s after each step. The others' median step with exchange is compared with the same
program, processes and sleep under ``--rule local``, which starts the bus and exchanges nothing; a third side exchanges
without a straggler, so that what the straggler adds stands apart from what exchange costs.

Death: ``local.0`` gets SIGKILL half way. The longest time between two steps of any other worker after it, less the
longest before; a run without a kill, cut at the same place, shows what the machine does by itself.

    python benchmarks/bench_faults.py [--rounds 5] [--workers 4] [--pace 0] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from statistics import median

from launching import RunFailed, Running, launched
from spread import Row, Spread, interleave, report, spread_of_ratios

from dagrad_bus.workers.launch.journal import Record

STEP_TARGET = 1.05
GAP_TARGET = 50.0
"""Milliseconds."""
VICTIM = "local.0"
WINDOW = 10
"""Steps between two lines of step times."""
SLEEP = 0.2
LIVELY = 0.02
"""Seconds a step takes at least in runs with a death: quick steps would be over before the journals show half."""


def windows(records: Sequence[Record]) -> list[dict[str, float]]:
    """Return the lines of step times of all workers but the victim, the first one of each left out: it warms up."""
    kept = []
    for record in records:
        lines = [line for line in record.logs if "step_p50_ms" in line]
        if record.name != VICTIM:
            kept += lines[1:]
    if not kept:
        raise RunFailed("no step times in the journals")
    return kept


def program(args: argparse.Namespace, *more: object) -> list[object]:
    """Return the flags of the training program."""
    flags = ["--steps", args.steps, "--eval-every", WINDOW, "--batch", args.batch, "--log-steps", "--linger", 0.1]
    return [*flags, *(("--pace", args.pace) if args.pace else ()), *more]


def step_time(args: argparse.Namespace, rule: str, *, straggler: bool) -> float:
    """Return the others' median step in ms."""
    slow = ["--sleep", f"{VICTIM}:{SLEEP}"] if straggler else []
    with launched(args.workers, {"rule": rule}, [], program(args, *slow)) as run:
        run.wait(lambda: _through(run, args), pause=0.2)
        return median(line["step_p50_ms"] for line in windows(run.records()))


def gap_growth(args: argparse.Namespace, *, kill: bool) -> float:
    """Return the others' longest gap between steps after the kill less the longest before, in ms."""
    with launched(args.workers, {"on-failure": "continue"}, [], program(args, "--pace", max(args.pace, LIVELY))) as run:
        run.wait(lambda: _steps(run) >= args.steps / 2, pause=0.05)
        moment = time.time()
        if kill:
            os.kill(json.loads((run.folder / "peers" / f"{VICTIM}.json").read_text())["pid"], signal.SIGKILL)
        lines = windows(run.finish(codes=(137,) if kill else (0,)))
    before = [line["step_gap_ms"] for line in lines if line["time"] < moment]
    after = [line["step_gap_ms"] for line in lines if line["time"] >= moment]
    if not before or not after:
        raise RunFailed("the kill came before or after all steps: give more --steps")
    return max(after) - max(before)


def _steps(run: Running) -> float:
    return median([float(record.last.get("step", 0)) for record in run.records()] or [0.0])


def _through(run: Running, args: argparse.Namespace) -> bool:
    """Whether all but the victim have written their last step times: journals lag half a second."""
    lasts = [
        max((line["step"] for line in record.logs if "step_p50_ms" in line), default=0)
        for record in run.records()
        if record.name != VICTIM
    ]
    return len(lasts) == args.workers - 1 and bool(min(lasts) >= args.steps)


def measure_straggler(args: argparse.Namespace) -> list[Row]:
    """Return the rows of the slow worker."""
    sides = {
        "local, straggler": partial(step_time, args, "local", straggler=True),
        "state, straggler": partial(step_time, args, "state", straggler=True),
        "state, none": partial(step_time, args, "state", straggler=False),
    }
    found = interleave(sides, args.rounds)
    rows = [Row(f"step p50, {name}", Spread.over(times), "ms") for name, times in found.items()]
    ours = found["state, straggler"]
    against = "rule local, same straggler"
    rows.append(
        Row("step, ratio", spread_of_ratios(ours, found["local, straggler"]), "x", STEP_TARGET, against=against)
    )
    rows.append(Row("step, ratio", spread_of_ratios(ours, found["state, none"]), "x", against="no straggler"))
    return rows


def measure_death(args: argparse.Namespace) -> list[Row]:
    """Return the rows of the killed worker."""
    found = interleave({"killed": partial(gap_growth, args, kill=True), "none": partial(gap_growth, args, kill=False)}, args.rounds)  # fmt: skip
    return [
        Row("longest gap, growth after SIGKILL", Spread.over(found["killed"]), "ms", GAP_TARGET, against="before it"),
        Row("longest gap, growth without", Spread.over(found["none"]), "ms", against="first half of the run"),
    ]


def main() -> int:
    """Measure and print; exit code 2 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each side, default 5")
    parser.add_argument("--workers", type=int, default=4, help="default 4")
    parser.add_argument("--steps", type=int, default=300, help="of each worker, default 300")
    parser.add_argument("--batch", type=int, default=32, help="samples a step, default 32; more make a heavier step")
    parser.add_argument("--pace", type=float, default=0.0, help="a step takes so many seconds at least, default 0")
    parser.add_argument("--only", choices=["straggler", "death"], help="default both")
    parser.add_argument("--quick", action="store_true", help="2 repetitions of 100 steps")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.steps = 2, 100
    rows = []
    try:
        if args.only != "death":
            rows += measure_straggler(args)
        if args.only != "straggler":
            rows += measure_death(args)
    except RunFailed as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2
    facts = {
        "workers": args.workers,
        "steps": args.steps,
        "batch": args.batch,
        "pace": args.pace,
        "rounds": args.rounds,
    }
    report("faults", rows, as_json=args.json, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
