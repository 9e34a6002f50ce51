"""The program ``dagrad``: parse, dispatch, exit code.

Subcommands are imported when they are called: ``dagrad --help`` loads neither torch nor numpy, matplotlib or rich.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata

import click

from dagrad_bus.errors import BusError, UsageError
from dagrad_bus.tools.lazy_group import LazyGroup

COMMANDS = {
    "run": ("dagrad_bus.tools.run:run", "Train with many workers, on this host or on others."),
    "worker": ("dagrad_bus.tools.worker:worker", "Be one worker under srun, mpirun, torchrun or Kubernetes."),
    "attach": ("dagrad_bus.tools.attach:attach", "Take over a run whose launcher has left or died."),
    "stop": ("dagrad_bus.tools.attach:stop", "Stop a run: all its workers, on every host."),
    "join": ("dagrad_bus.tools.join:join", "Add a worker to a live run, or bring one back."),
    "status": ("dagrad_bus.tools.status:status", "Show how a live run is, a line a worker."),
    "peers": ("dagrad_bus.tools.peers:peers", "Show the live graph: what each link carries."),
    "ping": ("dagrad_bus.tools.ping:ping", "Measure round trips to the workers of a live run."),
    "logs": ("dagrad_bus.tools.logs:logs", "Show what workers printed, and follow it."),
    "soak": ("dagrad_bus.tools.soak:soak", "Play simulated runs with faults drawn from seeds."),
    "doctor": ("dagrad_bus.tools.doctor:doctor", "Say what keeps a run from working, and the repair."),
    "plan": ("dagrad_bus.tools.plan:plan", "Say what a run will send and need, before it runs."),
    "simulate": ("dagrad_bus.tools.simulate:simulate", "Predict a run in virtual time: efficiency, bytes, accuracy."),
    "bench": ("dagrad_bus.tools.bench:bench", "Compare rules, peers and settings; tables and figures."),
    "report": ("dagrad_bus.tools.report:report", "Show a finished run again: table, summary, figures."),
    "topology": ("dagrad_bus.tools.topology:topology", "Make, inspect, draw and compare graphs; rewire a run."),
}


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        try:
            version = metadata.version("dagrad-bus")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        click.echo(f"dagrad-bus {version}")
        ctx.exit()


@click.group(
    cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show it.")
def dagrad() -> None:
    """Train one model in many processes that gossip: no server, no barrier, no all-reduce.

    Each worker trains its own replica and exchanges sparse pieces of it with a few neighbours, in the background.

    \b
    Try it (8 processes, one minute, nothing to download):
        dagrad run -n 8 -- python -m dagrad_bus.workers.digits

    \b
    Your own script, with one line added (dagrad_bus.attach(model, optimizer)):
        dagrad run -n 4 train.py --lr 0.1

    \b
    On other hosts, by ssh; under srun, mpirun or torchrun:
        dagrad run -H node1:4,node2:4 train.py
        srun -n 8 dagrad worker -- train.py

    \b
    Look at a live run, and at a finished one:
        dagrad status runs/20260101-120000-1f2e3d
        dagrad report runs/20260101-120000-1f2e3d
    """  # noqa: D301  # the backspace keeps click from filling a paragraph


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        argv: arguments after the program's name; None takes ``sys.argv``.
    """
    try:
        dagrad.main(args=None if argv is None else list(argv), prog_name="dagrad")
    except BusError as error:
        click.echo(f"dagrad: {error}", err=True)
        sys.exit(getattr(error, "code", 2 if isinstance(error, UsageError) else 1))


if __name__ == "__main__":
    main()
