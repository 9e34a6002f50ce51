"""``dagrad report``: a finished run again, as table, summary and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from dagrad_bus.tools.figures import draw_figures
from dagrad_bus.tools.summary import Summary, read_records, summarize
from dagrad_bus.tools.tables import make_console, print_failures, print_summary
from dagrad_bus.workers.launch.folder import RunFolder, write_json
from dagrad_bus.workers.launch.journal import Tail
from dagrad_bus.workers.launch.outcome import Exit

TAIL_LINES = 20


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.option("--figures/--no-figures", default=True, help="Draw DIR/figures/*.png anew.", show_default=True)
def report(directory: Path, as_json: bool, figures: bool) -> None:
    """Show the run in folder DIR again: table, DIR/summary.json and figures.

    \b
    dagrad report runs/20260101-120000-1f2e3d
    dagrad report runs/20260101-120000-1f2e3d --json | jq .accuracy.mean
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    folder = RunFolder(directory.absolute())
    run = folder.read_run()
    summary = write_report(folder, run, figures=figures, notes=make_console(to_stderr=True))
    if as_json:
        click.echo(json.dumps(summary.to_json(), indent=2))
    else:
        print_summary(make_console(), summary)
    show_failures(make_console(to_stderr=True), folder, run)


def write_report(folder: RunFolder, run: Mapping[str, Any], *, figures: bool, notes: Console) -> Summary:
    """Write ``summary.json`` and the figures of a run; return its summary.

    Args:
        folder: of the run.
        run: its ``run.json``.
        figures: draw them too.
        notes: where the names of the files written go, and why one was not.
    """
    records = read_records(folder)
    summary = summarize(run, records)
    write_json(folder.summary, summary.to_json())
    damaged = sum(record.damaged for record in records)
    if damaged:
        notes.print(f"dagrad: {damaged} damaged line{'s' * (damaged > 1)} in the journals skipped", soft_wrap=True)
    if not any(record.start for record in records):
        notes.print("dagrad: no worker wrote a journal: does the script call dagrad_bus.attach?", soft_wrap=True)
    if figures:
        try:
            drawn = draw_figures(folder.figures, summary, records)
        except ImportError as error:
            notes.print(f"dagrad: no figures: {error} (pip install matplotlib)", soft_wrap=True)
        else:
            names = ", ".join(path.name for path in drawn) or "no figures, no numbers for them"
            notes.print(f"dagrad: {folder.path}: summary.json, {names}", soft_wrap=True)
    return summary


def show_failures(console: Console, folder: RunFolder, run: Mapping[str, Any]) -> None:
    """Print the failed workers and the last lines of the first one, if any failed."""
    failures = [
        Exit(ended["name"], ended["pid"], ended["code"], ended["signal"], ended["time"])
        for ended in sorted(run.get("exits", []), key=lambda ended: float(ended["time"]))
        if ended["failed"]
    ]
    if failures:
        first = failures[0].name
        print_failures(
            console, failures, began=float(run["created"]), name=first, tail=last_lines(folder.log(first), TAIL_LINES)
        )


def last_lines(path: Path, count: int) -> Sequence[str]:
    """Return the last lines of a log."""
    lines = [line.decode(errors="replace").rstrip("\r") for line in Tail(path).read_lines(final=True)]
    return lines[-count:]
