"""``dagrad bench``: comparisons that a reader can repeat. Each subcommand is imported when it is called."""

from __future__ import annotations

import click

from dagrad_bus.tools.lazy_group import LazyGroup

COMMANDS = {
    "paper": ("dagrad_bus.tools.bench_paper:paper", "The paper's tables and figures, for all rules, on this machine."),
    "peers": ("dagrad_bus.tools.bench_peers:peers", "Other systems beside this one, each really run."),
    "ablations": (
        "dagrad_bus.tools.bench_ablations:ablations",
        "One setting at a time, in virtual time, with figures.",
    ),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def bench() -> None:
    """Compare rules, peers and settings. Stopped and called again, a comparison goes on where it was."""
