"""What follows a launch: run it under a watcher, write how it ended, show summary and failures."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from dagrad_bus.tools.live import watching
from dagrad_bus.tools.report import show_failures, write_report
from dagrad_bus.tools.tables import make_console, print_summary
from dagrad_bus.workers.launch.brief import Launch
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.launcher import run_launch
from dagrad_bus.workers.launch.outcome import Outcome


def train_and_report(launch: Launch, names: Sequence[str], options: Mapping[str, Any]) -> int:
    """Run a launch to its end, show it, and return the exit code of the run.

    Args:
        launch: what to run.
        names: of the workers, for the table.
        options: ``progress``, ``as_json`` and ``figures`` of the command line.
    """
    console = make_console(to_stderr=options["as_json"])
    path = launch.folder.path
    click.echo(f"dagrad: {len(names)} workers, run folder {path}", err=True)
    with watching(options["progress"], console, names) as watcher:
        outcome = run_launch(launch, watcher)
    if outcome.left:
        click.echo(
            f"dagrad: the workers go on by themselves; dagrad status {path}, dagrad attach {path}, dagrad stop {path}",
            err=True,
        )
        return 0
    return report_end(launch.folder, outcome, options)


def report_end(folder: RunFolder, outcome: Outcome, options: Mapping[str, Any]) -> int:
    """Write and show how a run ended; return its exit code."""
    console, notes = make_console(to_stderr=options["as_json"]), make_console(to_stderr=True)
    exits = _merge(folder.read_run().get("exits", ()), outcome.describe_exits())
    folder.update_run(ended=time.time(), start_seconds=outcome.start_seconds, exits=exits)
    if outcome.unreachable:
        return outcome.exit_code
    run = folder.read_run()
    summary = write_report(folder, run, figures=options["figures"], notes=notes)
    print_summary(console, summary)
    if options["as_json"]:
        click.echo(json.dumps(summary.to_json(), indent=2))
    show_failures(notes, folder, run)
    return outcome.exit_code


def _merge(before: Sequence[Mapping[str, object]], now: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """Return how workers ended; what an earlier launcher has seen is not replaced by the news that one is gone."""
    seen = {str(ended["name"]): ended for ended in before if not ended.get("lost")}
    news = {str(ended["name"]): ended for ended in now}
    return list((news | {name: seen[name] for name in seen if news.get(name, {"lost": True}).get("lost")}).values())
