"""``dagrad soak``: simulated runs by seed, each with its own faults, and what to type to see a failure again."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from typing import Any, cast

import click

from dagrad_bus.errors import UsageError
from dagrad_bus.sim.options import FAULTS, Options, draw
from dagrad_bus.sim.run import Result, run
from dagrad_bus.sim.scale import scale
from dagrad_bus.sim.scenarios import SCENARIOS
from dagrad_bus.sim.shrink import shrink

SCHEMA = "dagrad.soak/1"
NEWS = 2.0
"""Seconds between two lines of progress."""


class Range(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """``A:B``, or ``A`` alone."""

    name = "A:B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return both numbers."""
        if isinstance(value, tuple):
            return cast(tuple[int, int], value)  # the default
        first, _, last = str(value).partition(":")
        if not first.isdigit() or (last and not last.isdigit()):
            self.fail(f"{value!r}: needs a number or two as A:B", param, ctx)
        return int(first), int(last or first)


class Faults(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """Names of fault classes with commas between; ``none`` for none of them."""

    name = "LIST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names."""
        if isinstance(value, tuple):
            return cast(tuple[str, ...], value)
        names = () if value == "none" else tuple(str(value).split(","))
        unknown = [name for name in names if name not in FAULTS]
        if unknown:
            self.fail(f"{', '.join(unknown)}: no such fault; there are {', '.join(FAULTS)}", param, ctx)
        return names


@click.command()
@click.option("--seed", type=click.IntRange(0), help="Play this one and show what happened.")
@click.option("--seeds", type=Range(), default=(0, 100), show_default="0:100", help="Play seeds A to B - 1.")
@click.option("--workers", type=Range(), default=(4, 12), show_default="4:12", help="Least and most workers.")
@click.option(
    "--horizon", type=click.FloatRange(1), default=40.0, show_default=True, help="Most virtual seconds of faults."
)
@click.option("--faults", type=Faults(), help="These fault classes and no others, whatever the seed says.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes.")
@click.option("--shrink/--no-shrink", "wants_shrink", default=True, help="Look for the smallest run that fails alike.")
@click.option("--scenario", type=click.Choice(["all", *SCENARIOS]), help="Play one row of the fault matrix instead.")
@click.option("--scale", "sizes", type=int, multiple=True, help="Measure the cost of N workers instead. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Results as JSON lines on stdout.")
def soak(
    *,
    seed: int | None,
    seeds: tuple[int, int],
    workers: tuple[int, int],
    horizon: float,
    faults: tuple[str, ...] | None,
    jobs: int,
    wants_shrink: bool,
    scenario: str | None,
    sizes: tuple[int, ...],
    as_json: bool,
) -> None:
    """Play simulated runs, each with faults drawn from its seed, and check every promise after every event.

    Exits with 1 if one of them broke a promise; what to type to see that again stands below it.
    """
    if scenario is not None or sizes:
        sys.exit(_figures(scenario, seeds, sizes, as_json))
    wanted = [seed] if seed is not None else range(seeds[0], max(seeds[1], seeds[0] + 1))
    plans = [_plan(one, workers, horizon, faults) for one in wanted]
    failed = _play_all(plans, jobs, as_json)
    for result in failed:
        smallest = shrink(result) if wants_shrink else result
        _show(smallest, workers, as_json)
    sys.exit(1 if failed else 0)


def _plan(seed: int, workers: tuple[int, int], horizon: float, faults: tuple[str, ...] | None) -> Options:
    if workers[0] > workers[1]:
        raise UsageError(f"--workers {workers[0]}:{workers[1]}: the second number is less than the first")
    options = draw(seed, workers, horizon)
    return options if faults is None else replace(options, faults=faults)


def _play_all(plans: list[Options], jobs: int, as_json: bool) -> list[Result]:
    """Play them, with news now and then; return those that failed, by seed."""
    failed: list[Result] = []
    began = said = time.monotonic()
    events = frames = 0
    for done, result in enumerate(_results(plans, jobs), 1):
        events, frames = events + result.events, frames + result.accepted
        if as_json:
            click.echo(json.dumps({"schema": SCHEMA, **asdict(result), "ok": result.ok}))
        if not result.ok:
            failed.append(result)
            click.echo(f"seed {result.options.seed}: {result.violation}: {result.text}", err=True)
        elif len(plans) == 1 and not as_json:
            click.echo(_brief(result))
        now = time.monotonic()
        if now - said > NEWS or done == len(plans):
            said = now
            rate = events / max(now - began, 1e-9)
            click.echo(
                f"{done} of {len(plans)} runs, {len(failed)} failed, {events} events, {frames} frames accepted, "
                f"{rate:.0f} events/s",
                err=True,
            )
    return sorted(failed, key=lambda result: result.options.seed)


def _results(plans: list[Options], jobs: int) -> Iterator[Result]:
    if jobs == 1:
        yield from map(run, plans)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run, plans, chunksize=max(1, min(8, len(plans) // (4 * jobs))))


def _brief(result: Result) -> str:
    felt = ", ".join(f"{name} {count}" for name, count in sorted(result.felt.items())) or "none"
    return f"{result.told()}\nevents {result.events}, trace {result.trace:016x}, faults felt: {felt}"


def _show(result: Result, workers: tuple[int, int], as_json: bool) -> None:
    """Print a failure and how to see it again."""
    click.echo(result.told(), err=as_json)
    click.echo(f"\nAgain: {replay(result.options)}", err=as_json)
    if result.options.workers not in range(workers[0], workers[1] + 1):
        click.echo("(fewer workers than were asked for: the failure was made smaller)", err=as_json)


def replay(options: Options) -> str:
    """Return the command that plays a run again."""
    drawn = draw(options.seed, (options.workers, options.workers))
    horizon = 40.0 * options.horizon / drawn.horizon
    return (
        f"dagrad soak --seed {options.seed} --workers {options.workers} --horizon {horizon!r} "
        f"--faults {','.join(options.faults) or 'none'}"
    )


def _figures(scenario: str | None, seeds: tuple[int, int], sizes: Iterable[int], as_json: bool) -> int:
    """Print the figures of rows of the fault matrix, and of sizes."""
    worst = 0
    names = () if scenario is None else SCENARIOS if scenario == "all" else (scenario,)
    for name in names:
        found = SCENARIOS[name](seeds[0])
        worst = max(worst, int(not found.ok))
        click.echo(json.dumps(asdict(found)) if as_json else found.told())
    for cost in map(scale, sizes):
        click.echo(json.dumps(asdict(cost)) if as_json else cost.told())
    return worst
