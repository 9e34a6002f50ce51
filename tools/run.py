"""``dagrad run``: train with N workers on this host."""

from __future__ import annotations

import json
import os
import platform
import secrets
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dagrad_bus.errors import BusError, UsageError
from dagrad_bus.settings import PREFIX, Settings, from_environment
from dagrad_bus.tools.live import Progress, watching
from dagrad_bus.tools.report import show_failures, write_report
from dagrad_bus.tools.tables import make_console, print_summary
from dagrad_bus.workers.launch.command import Command, resolve
from dagrad_bus.workers.launch.environment import common_environment
from dagrad_bus.workers.launch.folder import RunFolder, create, default_path
from dagrad_bus.workers.launch.local import DEFAULT_PRELOAD, Launch, run_local

MOST_WORKERS = 512
_EXCHANGE = (
    ("rule", "state|gradient|local", "Exchange rule; local trains without any exchange."),
    ("density", "SHARE", "Share of the model in one frame, (0, 1].  [0.01]"),
    ("block", "N", "Elements a block, a power of two; 0 chooses by model size.  [0]"),
    ("interval", "STEPS", "Local steps between two exchanges.  [1]"),
    ("fanout", "N", "Neighbours that get each frame; 0 means all.  [0]"),
    ("choice", "random|complementary|similar", "How they are drawn: by chance, or by how peers move.  [random]"),
    ("explore", "N", "Members beyond the neighbours to hold a link with, 0 to 2.  [0]"),
    ("w0", "WEIGHT", "Weight of one fresh version against the own value, (0, 1).  [0.65]"),
    ("tau", "STEPS", "Age up to which a version counts fully; 0 tunes it.  [0]"),
    ("age-power", "P", "Beyond tau the weight falls as (tau / age)^P; 0 is off.  [1]"),
    ("clip", "X", "A frame moves values by at most X times their own norm.  [2]"),
    ("refresh", "SHARE", "Share of each frame that goes round robin over all blocks.  [0.0625]"),
    ("dirty", "SHARE", "At most this share of each frame repeats what a link missed.  [0.5]"),
    ("wire", "f32|f16|bf16|int8", "Value type on the wire.  [bf16]"),
    ("degree", "N", "Neighbours of each worker in the graph, even.  [4]"),
    ("topology", "KIND", "Graph to start with: hash-rings, ring or complete.  [hash-rings]"),
    ("seed", "N", "Seed of the exchange's random choices.  [0]"),
    ("codec", "auto|raw|zlib|blosc2", "Compression of frames.  [auto]"),
    ("loop", "uvloop|asyncio", "Event loop of the bus.  [uvloop]"),
)
"""Option, metavar, help. Values are checked by ``dagrad_bus.settings`` and travel as DAGRAD_<OPTION>."""


def _exchange_options(function: Callable[..., None]) -> Callable[..., None]:
    for name, metavar, text in reversed(_EXCHANGE):
        function = click.option(f"--{name}", f"exchange_{name.replace('-', '_')}", metavar=metavar, help=text)(function)
    return function


@click.command(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "allow_interspersed_args": False,  # all after the command's first word is the command's
        "max_content_width": 100,
    },
    options_metavar="[OPTIONS]",
)
@click.option("-n", "--workers", type=click.IntRange(1, MOST_WORKERS), default=2, show_default=True, help="Processes.")
@click.option("-m", "as_module", is_flag=True, help="The command is a module of Python, as in python -m.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="Run folder.  [runs/<time>-<id>]")
@_exchange_options
@click.option("--grace", type=click.FloatRange(0, 3600), default=10.0, show_default=True, metavar="S",
              help="Seconds a worker has to stop before it is killed.")  # fmt: skip
@click.option("--progress", type=click.Choice(["auto", "table", "lines", "none"]), default="auto", show_default=True,
              help="Live table, a line a worker every few seconds, or nothing.")  # fmt: skip
@click.option("--figures/--no-figures", default=True, show_default=True, help="Draw figures at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary to stdout, all else to stderr.")
@click.option("--spawn", is_flag=True, help="One new interpreter a worker instead of forks of a warm one.")
@click.option("--preload", multiple=True, metavar="MOD",
              help="Also import MOD once before forking; 'none' drops the usual list.")  # fmt: skip
@click.option("--keep-rank-env", is_flag=True, help="Leave RANK, WORLD_SIZE and their kin in the environment.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND [ARGS]...")
def run(words: tuple[str, ...], as_module: bool, **options: Any) -> None:
    """Train with N workers on this host and report what happened.

    The first word that is no option of ours begins COMMAND; everything after it is COMMAND's own. A .py file and
    -m MODULE are run by this Python, anything else as it is.

    \b
    dagrad run -n 8 -- python -m dagrad_bus.workers.digits
    dagrad run -n 4 train.py --lr 0.1
    dagrad run -n 4 --density 0.05 --wire f16 -m mypackage.train --epochs 3
    dagrad run -n 2 --dir runs/a --json --progress none train.py > summary.json

    Ctrl-C stops all workers, twice kills them. A worker that fails leaves the others running.

    Exit code: 0 all good; a worker's own (128 + signal) of the first that failed; 130, 143 stopped; 127 no such
    command; 2 bad option; 125 a fault of dagrad itself.
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    try:
        code = _run(("-m", *words) if as_module and words else words, options)
    except (click.ClickException, click.exceptions.Exit, UsageError):
        raise
    except BusError as error:
        click.echo(f"dagrad: {error}", err=True)
        code = getattr(error, "code", 125)
    except Exception:  # noqa: BLE001  # the outermost line: whatever it is, it is ours, and not a worker's exit code
        traceback.print_exc()
        click.echo("dagrad: this is a fault of dagrad itself, please report it", err=True)
        code = 125
    sys.exit(code)


def _run(words: Sequence[str], options: Mapping[str, Any]) -> int:
    command = resolve(words, cwd=Path.cwd())
    names = tuple(f"local.{slot}" for slot in range(options["workers"]))
    env = common_environment(os.environ, workers=len(names), keep_ranks=options["keep_rank_env"])
    env |= {PREFIX + name[9:].upper(): value for name, value in options.items()
            if name.startswith("exchange_") and value is not None}  # fmt: skip
    env.setdefault(f"{PREFIX}BIND", "127.0.0.1")
    settings = from_environment(env)
    folder, env = _make_folder(command, names, settings, env, options["directory"])
    launch = Launch(
        folder=folder,
        names=names,
        command=command,
        cwd=Path.cwd(),
        env=env,
        preload=choose_preload(command, options["preload"]),
        fork=not options["spawn"],
        grace=options["grace"],
    )
    return _train_and_report(launch, options["progress"], as_json=options["as_json"], figures=options["figures"])


def _make_folder(
    command: Command, names: Sequence[str], settings: Settings, env: Mapping[str, str], path: Path | None
) -> tuple[RunFolder, dict[str, str]]:
    """Make the run folder; return it and the workers' environment that points to it."""
    run_id, now = secrets.token_hex(8), time.time()
    facts = {
        "created": now,
        "command": command.words,
        "settings": _describe(settings),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "cwd": os.getcwd(),
        "launcher": os.getpid(),
        "omp_threads": env["OMP_NUM_THREADS"],
    }
    folder = create(path or default_path(run_id, now=now), run=run_id, names=names, facts=facts)
    ours = {"RUN": run_id, "RUN_DIR": folder.path, "ROSTER": folder.roster, "KEY_FILE": folder.key}
    return folder, {**env, **{PREFIX + name: str(value) for name, value in ours.items()}}


def _describe(settings: Settings) -> dict[str, object]:
    return {
        "degree": settings.degree,
        "topology": settings.topology,
        "exchange": asdict(settings.exchange),
        "link": asdict(settings.link),
        "beat": asdict(settings.beat),
        "transport": asdict(settings.transport),
    }


def choose_preload(command: Command, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the modules a nursery imports before it forks.

    Args:
        command: its own module is added where it belongs to this package, as importing it does nothing else.
        wanted: the user's; commas separate too, ``none`` drops the usual list.
    """
    names = [name for text in wanted for name in text.split(",") if name]
    usual = () if "none" in names else DEFAULT_PRELOAD
    own = (command.target,) if command.kind == "module" and command.target.startswith("dagrad_bus.") and usual else ()
    return tuple(dict.fromkeys([*usual, *own, *(name for name in names if name != "none")]))


def _train_and_report(launch: Launch, progress: Progress, *, as_json: bool, figures: bool) -> int:
    console = make_console(to_stderr=as_json)
    notes = make_console(to_stderr=True)
    click.echo(f"dagrad: {len(launch.names)} workers, run folder {launch.folder.path}", err=True)
    with watching(progress, console, launch.names) as watcher:
        outcome = run_local(launch, watcher)
    launch.folder.update_run(ended=time.time(), start_seconds=outcome.start_seconds, exits=outcome.describe_exits())
    run = launch.folder.read_run()
    summary = write_report(launch.folder, run, figures=figures, notes=notes)
    print_summary(console, summary)
    if as_json:
        click.echo(json.dumps(summary.to_json(), indent=2))
    show_failures(notes, launch.folder, run)
    return outcome.exit_code
