"""``dagrad bench peers``: the systems that a user might pick instead, each really run, beside this one."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.interface import why_not
from dagrad_bus.lab.results import Results
from dagrad_bus.lab.rivals.document import to_json, to_markdown
from dagrad_bus.lab.rivals.environments import DEFAULT_FOLDER, Installed, ensure, ensure_own
from dagrad_bus.lab.rivals.figure import draw
from dagrad_bus.lab.rivals.handout import Trial
from dagrad_bus.lab.rivals.outcome import Outcome
from dagrad_bus.lab.rivals.rows import Row, make_rows, own_failed
from dagrad_bus.lab.rivals.scoreboard import Request, Scoreboard
from dagrad_bus.lab.rivals.systems import OWN, RATES, SYSTEMS, System, find_systems
from dagrad_bus.lab.rivals.trial import run_trial
from dagrad_bus.tools.bench_display import BenchDisplay, clock
from dagrad_bus.tools.bench_paper import join_words
from dagrad_bus.tools.tables import make_console

LISTS = ("--systems", "--seeds", "--rates")
"""Options that take several words."""
QUICK_STEPS = 60
_REASON = 80
"""Characters of a failure's reason in a line of progress; the page has more."""


class ListCommand(click.Command):
    """A command some of whose options take several words: ``--seeds 0 1 2``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the words of such options by commas before they are parsed."""
        return super().parse_args(ctx, join_words(args, LISTS))


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """Numbers with commas between."""

    def __init__(self, kind: type[int | float]) -> None:
        self.kind = kind
        self.name = "N ..." if kind is int else "LR ..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return them."""
        try:
            found = tuple(self.kind(word) for word in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: needs numbers, as 1 2 3", param, ctx)
        bad = [number for number in found if number < 0 or (self.kind is float and number == 0)]
        if bad:
            self.fail(f"{bad[0]}: out of range", param, ctx)
        return tuple(dict.fromkeys(found))


@click.command(cls=ListCommand, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--systems", metavar="NAME ...", default="", help=f"Of {', '.join(SYSTEMS)}.  [all]")
@click.option("-n", "--workers", type=click.IntRange(2, 16), default=4, show_default=True, help="Workers of a run.")
@click.option("--steps", type=click.IntRange(20), help="Steps of each worker.  [150; 60 with --quick]")
@click.option("--seeds", type=Numbers(int), help="Seeds of the measured rows.  [0 1 2; 0 with --quick]")
@click.option(
    "--rates",
    type=Numbers(float),
    help="Learning rates to choose from, for each system.  [0.05 0.1 0.2; 0.05 with --quick]",
)
@click.option(
    "--pace", type=click.FloatRange(0), default=0.05, show_default=True, help="Seconds that a step computes at least."
)
@click.option("--quick", is_flag=True, help="A look: one seed, one rate, 60 steps.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/bench-peers"),
    show_default=True,
    help="Folder of the results.",
)
@click.option(
    "--venvs",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Folder of the systems' environments, about 1 GB each.",
)
@click.option("--json", "as_json", is_flag=True, help="Print scoreboard.json instead of scoreboard.md.")
def peers(systems: str, out: Path, venvs: Path, as_json: bool, **options: Any) -> None:
    """Run the systems that one might pick instead, and print what each reaches and costs.

    Each is installed by pip into an environment of its own (once), started as its documentation says, and given the same
    data, weights, shards, batches and steps. Every run has a network of its own, so that bytes are read at the interface:
    that needs root, or user namespaces. Rates are chosen for each system on a validation part; the rows are of the test
    part. One run has a straggler, one loses a worker by kill -9. Whether replicas were really averaged is measured, not
    believed. Writes scoreboard.md, scoreboard.json and scoreboard.png to --out.

    \b
    dagrad bench peers                                  # about 40 minutes on two quiet cores
    dagrad bench peers --quick                          # a look, about 8 minutes
    dagrad bench peers --quick --systems dagrad ddp     # these two, and the reference without exchange

    Stopped with Ctrl-C and called again, it goes on where it was. Results do not know when this package's code changed:
    take another --out then. pip reads its own configuration: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
    keeps it from fetching CUDA.

    Exit code: 0 done; 1 a run of this system failed or did not average; 2 bad option, or no private network;
    130 stopped.
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    request = make_request(systems, options)
    if reason := why_not():
        raise UsageError(f"bytes are read in a private network: {reason}")
    try:
        rows, page, data = compare(request, out, venvs)
    except KeyboardInterrupt:
        click.echo(f"\ndagrad: stopped; results so far are in {out}: call it again to go on", err=True)
        sys.exit(130)
    click.echo(json.dumps(data, indent=1) if as_json else page)
    sys.exit(1 if own_failed(rows) else 0)


def make_request(systems: str, options: Mapping[str, Any]) -> Request:
    """Return what the options ask for.

    Raises:
        UsageError: a system that there is not.
    """
    quick: bool = options["quick"]
    return Request(
        systems=tuple(find_systems([word for word in systems.split(",") if word])),
        workers=options["workers"],
        steps=options["steps"] or (QUICK_STEPS if quick else 150),
        seeds=options["seeds"] or ((0,) if quick else (0, 1, 2)),
        rates=tuple(sorted(options["rates"] or ((0.05,) if quick else RATES))),
        pace=options["pace"],
    )


def compare(request: Request, out: Path, venvs: Path) -> tuple[list[Row], str, dict[str, Any]]:
    """Run what is missing and write the three files; return the rows, the page and the data."""
    out.mkdir(parents=True, exist_ok=True)
    with Display(make_console(to_stderr=True)) as display:

        def install(system: System) -> Installed:
            if system.environment:
                display.say(
                    f"{system.title}: environment {venvs / system.environment}, made once by pip in a minute or two"
                )
            return installed(system, venvs, display)

        board = Scoreboard(request, Results(out / "results.jsonl"), out / "runs", install, run_trial, display)
        found = board.make()
    rows = make_rows(found)
    page, data = to_markdown(request, found, rows), to_json(request, found, rows)
    (out / "scoreboard.json").write_text(json.dumps(data, indent=1) + "\n")
    (out / "scoreboard.md").write_text(page)
    draw(rows, out / "scoreboard.png")
    return rows, page, data


def installed(system: System, venvs: Path, display: Display) -> Installed:
    """Return a system's environment. What installing this package takes is a number, and no condition.

    Raises:
        UsageError: it cannot be installed.
    """
    if system.name != OWN:
        return ensure(system.environment, system.requirements, venvs)
    try:
        return ensure_own(venvs)
    except UsageError as error:
        display.say(f"{system.title}: runs from this Python; installing it was not measured: {error}")
        return Installed(sys.executable)


class Display(BenchDisplay):
    """Progress through trials, by the seconds that each is guessed to take."""

    def plan(self, seconds: float) -> None:
        """Begin: about how many seconds all runs will take."""
        self.begin("runs", seconds)
        self.say(f"about {clock(seconds)} of runs ahead")

    def done(self, trial: Trial, outcome: Outcome, *, fresh: bool) -> None:
        """Say what a run gave, and how long the others will still take."""
        self.advance(f"{describe_trial(trial)}  {describe_outcome(outcome)}", trial.guess if fresh else 0.0)


def describe_trial(trial: Trial) -> str:
    """Return a trial in a few words."""
    what = {"none": "tuning" if trial.report == "val" else "run", "straggler": "straggler", "kill": "kill -9"}[
        trial.fault
    ]
    return f"{trial.system:12} {what:9} {trial.shards:6} lr {trial.lr:<6g} seed {trial.seed}"


def describe_outcome(outcome: Outcome) -> str:
    """Return what a trial gave in a few words."""
    if outcome.ending != "done":
        return f"{outcome.ending} at step {outcome.steps}" + (f": {outcome.reason[:_REASON]}" if outcome.reason else "")
    words = [f"{fmean(outcome.accuracies) * 100:5.1f} %"] if outcome.accuracies else []
    words += [f"{outcome.bytes_per_step / 1000:7.1f} kB/step"] if outcome.bytes_per_step is not None else []
    words += [f"{outcome.step_ms:6.1f} ms/step"] if outcome.step_ms is not None else []
    words += [f"gap {outcome.gap_ms:.0f} ms"] if outcome.gap_ms is not None else []
    return "  ".join(words)
