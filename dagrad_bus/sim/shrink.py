"""The smallest run that still fails the same check: fewer fault classes, then a shorter horizon, then fewer workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dagrad_bus.sim.options import Options
from dagrad_bus.sim.run import Result, run

FEWEST = 2
SHORTEST = 2.0
"""Virtual seconds of phase 1."""


def shrink(failed: Result, runs: int = 40, play: Callable[[Options], Result] = run) -> Result:
    """Return a run that fails the same check and is as small as ``runs`` attempts make it.

    Args:
        failed: a run with a violation.
        runs: attempts.
        play: plays a run; for tests.
    """
    best, left = failed, runs
    while left > 0:
        for options in candidates(best.options):
            if left <= 0:
                break
            left -= 1
            found = play(options)
            if found.violation == failed.violation:
                best = found
                break
        else:
            break
    return best


def candidates(options: Options) -> list[Options]:
    """Return what might fail as well, the smallest step towards less first in each of the three directions."""
    fewer = [replace(options, faults=tuple(f for f in options.faults if f != fault)) for fault in options.faults]
    shorter = [replace(options, horizon=options.horizon / 2)] if options.horizon / 2 >= SHORTEST else []
    sizes = sorted({max(FEWEST, options.workers // 2), options.workers - 1} - {options.workers})
    smaller = [replace(options, workers=size) for size in sizes if size >= FEWEST]
    return [*fewer, *shorter, *smaller]
