"""How long 32 workers take to start and how much memory they hold, and how soon ``dagrad --help`` answers.

Started means: every worker has taken its first training step, which the digits program does once it has found the
addresses of all others. Memory is the sum of the proportional set sizes (smaps_rollup) of the launcher and everything
below it at that moment: pages that forks share count once.

    python benchmarks/bench_start.py [--workers 32] [--rounds 3] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from launching import RunFailed, launched
from spread import Row, Spread, report

START_TARGET = 20.0
"""Seconds."""
MEMORY_TARGET = 8.0
"""Gigabytes."""
HELP_TARGET = 0.4
"""Seconds."""


def family(pid: int) -> Iterator[int]:
    """Yield ``pid`` and everything below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:  # it ended
            continue
        for child in children:
            yield from family(int(child))


def proportional_bytes(pid: int) -> int:
    """Return the proportional set size of one process; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def start(workers: int, preload: list[str]) -> tuple[float, float, int]:
    """Return seconds to the first step of the last worker, gigabytes, and processes."""
    words = [word for module in preload for word in ("--preload", module)]
    program = ["--steps", 1_000_000, "--eval-every", 1_000_000, "--pace", 2, "--wait", 120]
    began = time.monotonic()
    with launched(workers, {}, words, program) as run:
        run.wait(lambda: sum(r.last.get("step", 0) >= 1 for r in run.records()) == workers, 180, pause=0.1)
        seconds = time.monotonic() - began
        pids = list(family(run.process.pid))
        return seconds, sum(map(proportional_bytes, pids)) / 1e9, len(pids)


def help_time() -> float:
    """Return the seconds of one ``dagrad --help``."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "dagrad_bus.tools.cli", "--help"], check=True, capture_output=True)
    return time.monotonic() - began


def main() -> int:
    """Measure and print; exit code 2 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=32, help="default 32")
    parser.add_argument("--rounds", type=int, default=3, help="starts, default 3")
    parser.add_argument("--preload", action="append", default=[], metavar="MOD", help="as in dagrad run")
    parser.add_argument("--quick", action="store_true", help="1 start")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    help_time()  # the first one compiles
    helps = [help_time() for _ in range(7)]
    try:
        found = [start(args.workers, args.preload) for _ in range(1 if args.quick else args.rounds)]
    except RunFailed as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2
    seconds, memory, processes = zip(*found, strict=True)
    rows = [
        Row(f"start of {args.workers} workers", Spread.over(seconds), "s", START_TARGET),
        Row(f"memory of {args.workers} workers", Spread.over(memory), "GB", MEMORY_TARGET),
        Row("memory a process", Spread.over([1000 * m / p for m, p in zip(memory, processes, strict=True)]), "MB"),
        Row("dagrad --help", Spread.over(helps), "s", HELP_TARGET),
    ]
    report("start", rows, as_json=args.json, processes=processes[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
