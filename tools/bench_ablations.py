"""``dagrad bench ablations``: one setting at a time, in virtual time with real training, with figures."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import click
from rich.console import Console

from dagrad_bus.lab.ablation_figures import draw
from dagrad_bus.lab.ablation_pages import SCHEMA, Report, make_report, to_json, to_markdown
from dagrad_bus.lab.ablations import STUDIES, Scale, Study, make_study
from dagrad_bus.lab.experiment import Experiment
from dagrad_bus.lab.pool import Found, Pool, Runner, fill, missing
from dagrad_bus.lab.results import Results
from dagrad_bus.lab.task import MODELS
from dagrad_bus.tools.bench_display import BenchDisplay
from dagrad_bus.tools.tables import make_console
from dagrad_bus.workers import problem


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--study", "names", multiple=True, type=click.Choice(list(STUDIES)), help="Again for several.  [all]")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Seeds of each cell, from 0.")
@click.option(
    "--report", type=click.Choice(get_args(problem.Report)), default="val", show_default=True,
    help="Part of the data that accuracy is of: val to choose by, test to publish.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(2, 256), default=8, show_default=True, help="Workers of a run.")
@click.option("--steps", type=click.IntRange(1), default=150, show_default=True, help="Steps of each worker.")
@click.option("--task", type=click.Choice(list(MODELS)), default="digits-mlp", show_default=True)
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Runs at a time.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/bench-ablations"), show_default=True,
    help="Folder of the results.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print data instead of the page.")
@click.option("--list", "only_list", is_flag=True, help="Say what there is, and run nothing.")
def ablations(
    names: tuple[str, ...], seeds: int, report: problem.Report, workers: int, steps: int, task: str, jobs: int,
    out: Path, *, as_json: bool, only_list: bool,
) -> None:  # fmt: skip
    """Vary one setting at a time and see what it does to accuracy, at equal bytes where that can be.

    All workers of a run train for real in one process; only time and the network are virtual. Writes ablations.md to
    --out, and for each study a PNG and a JSON file, after each study. Runs that two studies share are made once.

    \b
    dagrad bench ablations --list
    dagrad bench ablations                              # all studies: several hundred runs
    dagrad bench ablations --study w0 --study wire
    dagrad bench ablations --report test --out runs/ablations-test

    Stopped with Ctrl-C and called again, it goes on where it was.

    Exit code: 0 done; 2 bad option; 130 stopped.
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    scale = Scale(task=task, workers=workers, steps=steps, report=report)
    studies = [make_study(name, scale) for name in dict.fromkeys(names or STUDIES)]
    if only_list:
        click.echo(list_studies(studies, seeds, as_json=as_json))
        return
    began = time.monotonic()
    try:
        with Pool(jobs) as pool, Display(make_console(to_stderr=True)) as display:
            reports = run_studies(studies, scale, seeds, out, pool, display)
    except KeyboardInterrupt:
        click.echo(f"\ndagrad: stopped; results so far are in {out}: call it again to go on", err=True)
        sys.exit(130)
    click.echo(f"dagrad: took {(time.monotonic() - began) / 60:.1f} minutes; results in {out}", err=True)
    found = {"schema": SCHEMA, "studies": [to_json(report) for report in reports]}
    click.echo(json.dumps(found, indent=1) if as_json else to_markdown(reports))


def list_studies(studies: Sequence[Study], seeds: int, *, as_json: bool) -> str:
    """Return what there is: names, sizes and questions."""
    found = [
        {"study": study.name, "cells": len(study.cells), "runs": len(study.cells) * seeds, "question": study.question}
        for study in studies
    ]
    if as_json:
        return json.dumps(found, indent=1)
    return "\n".join(
        f"{row['study']:<10}{row['cells']:>3} cells {row['runs']:>4} runs  {row['question']}" for row in found
    )


def run_studies(
    studies: Sequence[Study], scale: Scale, seeds: int, out: Path, runner: Runner, display: Display
) -> list[Report]:
    """Make what is missing, study by study; write figures and pages after each; return all reports."""
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out / "cells.jsonl")
    wanted = {study.name: [run for cell in study.cells for run in cell.runs(seeds)] for study in studies}
    every = [run for runs in wanted.values() for run in runs]
    display.plan(len(missing(every, results)))
    for study in studies:
        _run_study(study.name, wanted[study.name], results, runner, display)
        report = make_report(study, scale, seeds, results)
        (out / f"{study.name}.json").write_text(json.dumps(to_json(report), indent=1) + "\n")
        draw(report, out / f"{study.name}.png")
        reports = [make_report(other, scale, seeds, results) for other in studies]
        (out / "ablations.md").write_text(to_markdown(reports))
    return [make_report(study, scale, seeds, results) for study in studies]


def _run_study(
    name: str, experiments: Sequence[Experiment], results: Results, runner: Runner, display: Display
) -> None:
    def told(found: Found) -> None:
        display.done(name, f"accuracy {found['accuracy']:.4f}  {found['bytes_per_step']:.0f} bytes/step")

    fill(experiments, results, runner, told)


class Display(BenchDisplay):
    """Progress through runs that take about equally long."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._runs = self._number = 0

    def plan(self, runs: int) -> None:
        """Begin: so many runs are missing."""
        self._runs, self._number = runs, 0
        self.begin("ablations", runs)

    def done(self, study: str, found: str) -> None:
        """Say what a run gave, and how long the rest will take."""
        self._number += 1
        self.advance(f"[{self._number}/{self._runs}] {study}  {found}", 1.0)
