"""``dagrad bench paper``: tables 1 and 2 and figures 2 and 3 of the paper, for the rules of this project."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.paper.bench import Bench, Findings
from dagrad_bus.lab.paper.cells import RULES, Cell, Request
from dagrad_bus.lab.paper.document import Report, to_json, to_markdown
from dagrad_bus.lab.paper.figures import draw
from dagrad_bus.lab.paper.measuring import describe_counting, measure
from dagrad_bus.lab.paper.rows import make_pair, make_rows
from dagrad_bus.lab.paper.tuning import ProcessTuner, Tuner, VirtualTuner, settings_of
from dagrad_bus.lab.paper.verdicts import judge
from dagrad_bus.lab.paper.workloads import WORKLOADS, find_workload
from dagrad_bus.lab.results import Results
from dagrad_bus.settings import ExchangeSettings
from dagrad_bus.tools.bench_display import BenchDisplay
from dagrad_bus.tools.tables import make_console

LISTS = ("--rules", "--rates", "--seeds", "--pair-seeds", "--tune-seeds", "--extra")
"""Options that take several words."""
QUICK_STEPS = 30


class WordsCommand(click.Command):
    """A command without arguments some of whose options take several words: ``--seeds 0 1 2``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the words of such options by commas before they are parsed."""
        return super().parse_args(ctx, join_words(args, LISTS))


def join_words(args: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return ``args`` with the words behind each option in ``names`` joined by commas, up to the next option."""
    joined: list[str] = []
    taking = False
    for word in args:
        if word.startswith("-"):
            taking = word in names
            joined.append(word)
        elif taking and joined[-1] not in names:
            joined[-1] += f",{word}"
        else:
            joined.append(word)
    return joined


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(word for word in (text or "").split(",") if word)


def _floats(text: str | None, name: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in _split(text))
    except ValueError:
        raise UsageError(f"--{name} {text}: needs numbers, as --{name} 0.05 0.1") from None


def _integers(text: str | None, name: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _split(text))
    except ValueError:
        raise UsageError(f"--{name} {text}: needs whole numbers, as --{name} 0 1 2") from None


def _pairs(text: str | None) -> dict[str, str]:
    pairs = [word.partition("=") for word in _split(text)]
    for name, sign, _ in pairs:
        if not (name and sign):
            raise UsageError(f"--extra {name}: needs key=value, as --extra wire=f16 w0=0.5")
    return {name: value for name, _, value in pairs}


@click.command(cls=WordsCommand, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--workload", default="digits", show_default=True, help=f"What is trained: {', '.join(WORKLOADS)}.")
@click.option("--model", default="", metavar="NAME", help="Size of the model.  [the workload's first]")
@click.option("-n", "--workers", type=click.IntRange(2, 64), default=8, show_default=True, help="Workers of a run.")
@click.option("--data-dir", default="", metavar="DIR", help="Folder of the workload's data, where it needs one.")
@click.option(
    "--shards", default="iid", show_default=True, metavar="KIND", help="iid, dirichlet, sorted; spam: groups."
)
@click.option("--rules", metavar="RULE ...", help="Exchange rules.  [all]")
@click.option("--rates", metavar="LR ...", help="Learning rates to choose from; one: no choice.  [the workload's]")
@click.option("--seeds", metavar="N ...", help="Seeds of the measurement.  [0 1 2]")
@click.option(
    "--pair-seeds",
    metavar="N ...",
    help="Further seeds for sync-ps and state, whose accuracies are judged.  [the workload's; none with --seeds]",
)
@click.option("--tune-seeds", metavar="N ...", help="Seeds that rates are chosen over.  [those of --seeds]")
@click.option(
    "--tune",
    type=click.Choice(["virtual", "process"]),
    help="Choose rates in virtual time, or on real processes (slow).  [virtual, where it knows the model]",
)
@click.option("--steps", type=click.IntRange(5), help="Steps of each worker.  [the workload's]")
@click.option("--pace", type=click.FloatRange(0), help="Seconds a step takes at least.  [the workload's]")
@click.option(
    "--density",
    type=float,
    default=ExchangeSettings().density,
    show_default=True,
    help="Share of the model in one sparse frame.",
)
@click.option("--extra", metavar="KEY=VALUE ...", help="Further settings, as wire=f16 (DAGRAD_WIRE).")
@click.option("--quick", is_flag=True, help=f"A look: {QUICK_STEPS} steps, one seed, one rate; no target is judged.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/bench-paper"),
    show_default=True,
    help="Folder of the results.",
)
@click.option("--json", "as_json", is_flag=True, help="Print paper.json instead of paper.md.")
def paper(out: Path, tune: str | None, as_json: bool, **options: Any) -> None:
    """Reproduce the paper's tables 1 and 2 and figures 2 and 3 on real processes.

    Each rule's learning rate is chosen on a validation part; then every rule trains with every seed, once more with a
    straggler, and one worker trains alone. Bytes are read at the network interface of a namespace of the run's own
    (root), beside what the sockets were handed. Writes paper.md, paper.json, figure2.png and figure3.png to --out.

    \b
    dagrad bench paper                                           # about a quarter of an hour on two cores
    dagrad bench paper --quick --rules state local -n 2          # a look
    dagrad bench paper --shards sorted --rules sync-ps state
    dagrad bench paper --workload spam --data-dir data/spam --shards groups -n 5

    Stopped with Ctrl-C and called again, it goes on where it was.

    Exit code: 0 all targets met, or not judged; 1 one missed; 2 bad option; 3 a run failed; 130 stopped.
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    request = make_request(options)
    tune = tune or ("virtual" if request.model in find_workload(request.workload).virtual else "process")
    check(request, tune)
    began = time.monotonic()
    try:
        report = run_bench(request, out, tune)
    except KeyboardInterrupt:
        click.echo(f"\ndagrad: stopped; results so far are in {out}: call it again to go on", err=True)
        sys.exit(130)
    click.echo(f"dagrad: took {(time.monotonic() - began) / 60:.1f} minutes; results in {out}", err=True)
    click.echo(json.dumps(to_json(report), indent=1) if as_json else to_markdown(report))
    sys.exit(1 if any(verdict.met is False for verdict in report.verdicts) else 0)


def make_request(options: Mapping[str, Any]) -> Request:
    """Return what the options ask for, the workload's own values filled in.

    Raises:
        UsageError: an option out of range.
    """
    quick: bool = options["quick"]
    workload = find_workload(options["workload"])
    rates = _floats(options["rates"], "rates")
    seeds = _integers(options["seeds"], "seeds")
    further = _integers(options["pair_seeds"], "pair-seeds")
    middle = workload.rates[(len(workload.rates) - 1) // 2]
    return Request(
        workload=options["workload"],
        model=options["model"],
        workers=options["workers"],
        rules=_split(options["rules"]) or RULES,
        rates=tuple(sorted(rates)) or ((middle,) if quick else ()),
        seeds=seeds or ((0,) if quick else (0, 1, 2)),
        pair_seeds=further or (() if seeds or quick else workload.pair_seeds),
        tune_seeds=_integers(options["tune_seeds"], "tune-seeds"),
        steps=options["steps"] or (QUICK_STEPS if quick else 0),
        pace=-1.0 if options["pace"] is None else options["pace"],
        density=options["density"],
        shards=options["shards"],
        data_dir=options["data_dir"] and str(Path(options["data_dir"]).absolute()),
        extra=_pairs(options["extra"]),
        judged=not quick,
    ).filled()


def check(request: Request, tune: str) -> None:
    """Refuse before the first run what would fail in it.

    Raises:
        UsageError: a setting that no worker would take, or a model that virtual time does not know.
    """
    for rule in request.rules:
        settings_of(request.cell("measure", rule, request.rates[0], 0))
    if tune == "virtual" and len(request.rates) > 1 and request.model not in find_workload(request.workload).virtual:
        raise UsageError(f"{request.workload} {request.model} cannot be trained in virtual time: --tune process")


def run_bench(request: Request, out: Path, tune: str) -> Report:
    """Make what is missing, write tables and figures to ``out``, and return the report."""
    out.mkdir(parents=True, exist_ok=True)
    tuner: Tuner = VirtualTuner() if tune == "virtual" else ProcessTuner(measure, out / "runs")
    with Display(make_console(to_stderr=True)) as display:
        bench = Bench(request, Results(out / "results.jsonl"), out / "runs", tuner, measure, display)
        findings = bench.run()
    return write_report(findings, out)


def write_report(findings: Findings, out: Path) -> Report:
    """Judge the findings and write ``paper.json``, ``paper.md`` and the figures."""
    rows, pair = make_rows(findings), make_pair(findings)
    verdicts = judge(rows, pair, judged=findings.request.judged)
    report = Report(findings, rows, pair, verdicts, describe_counting())
    (out / "paper.json").write_text(json.dumps(to_json(report), indent=1) + "\n")
    (out / "paper.md").write_text(to_markdown(report))
    draw(findings, rows, out)
    return report


class Display(BenchDisplay):
    """Progress through cells, by the seconds that each is guessed to take."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._cells = self._number = 0

    def plan(self, phase: str, cells: int, missing: Sequence[Cell]) -> None:
        """Begin a phase."""
        self._cells, self._number = cells, 0
        self.begin(phase, sum(cell.guess for cell in missing))

    def done(self, cell: Cell, found: str, *, fresh: bool) -> None:
        """Say what a run gave, and how long the phase will still take."""
        self._number += 1
        what = f"{cell.purpose} {cell.rule} lr {cell.lr:g} seed {cell.seed}"
        self.advance(f"[{self._number}/{self._cells}] {what}  {found}", cell.guess if fresh else 0.0)
