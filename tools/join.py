"""``dagrad join``: one more worker for a live run on this host, or one that has died, started again."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import click

from dagrad_bus.errors import UsageError
from dagrad_bus.rendezvous import look_up, names_in
from dagrad_bus.settings import PREFIX, ExchangeSettings, from_environment
from dagrad_bus.workers.launch.command import resolve
from dagrad_bus.workers.launch.environment import common_environment
from dagrad_bus.workers.launch.folder import RunFolder


@click.command(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "allow_interspersed_args": False,  # all after the command's first word is the command's
        "max_content_width": 100,
    },
    options_metavar="[OPTIONS]",
)
@click.option("--name", metavar="NAME", help="Who the worker is; one that died may be named.  [first local.N free]")
@click.option("-m", "as_module", is_flag=True, help="The command is a module of Python, as in python -m.")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND [ARGS]...")
def join(directory: Path, words: tuple[str, ...], name: str | None, as_module: bool) -> None:
    """Start one more worker of the live run in DIR.

    It gets the run's settings, finds the others by the run folder, copies the model from its neighbours and trains on.
    COMMAND is usually the run's own; it replaces this process, so its output and its exit code are what you see.

    \b
    dagrad join runs/demo -- python -m dagrad_bus.workers.digits --steps 600
    dagrad join --name local.3 runs/demo train.py        # local.3 has crashed: it is back
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    folder = RunFolder(directory.absolute())
    run = folder.read_run()
    if not any(_is_running(folder, one) for one in names_in(folder.path)):
        raise UsageError(f"no worker of the run in {directory} runs on this host any more: nobody to join")
    words = words[words[:1] == ("--",) :]  # click leaves it there where arguments do not mix with options
    command = resolve(("-m", *words) if as_module and words else words, cwd=Path.cwd())
    chosen = name or _first_free(folder, run["workers"])
    if _is_running(folder, chosen):
        raise UsageError(f"{chosen} is running: give another --name, or none")
    env = environment(os.environ, folder, run, chosen)
    from_environment(env)  # a setting that makes no sense is told here
    if chosen not in run["workers"]:
        folder.update_run(workers=[*run["workers"], chosen])
    click.echo(f"dagrad: {chosen} joins the run in {directory}", err=True)
    sys.stdout.flush()
    os.execvpe(command.words[0], command.words, env)


def environment(environ: Mapping[str, str], folder: RunFolder, run: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return what a worker of the run needs, beside what the shell gives it.

    Args:
        environ: the shell's.
        folder: of the run.
        run: its ``run.json``.
        name: the worker's.
    """
    settings: dict[str, Any] = run["settings"]
    known = {field for field in ExchangeSettings.__dataclass_fields__ if field in settings["exchange"]}
    given = {field.upper(): settings["exchange"][field] for field in sorted(known)}
    given |= {"DEGREE": settings["degree"], "TOPOLOGY": settings["topology"], "BIND": settings["transport"]["bind"]}
    given |= {"CODEC": settings["transport"]["codec"], "LOOP": settings["transport"]["loop"], "ATTEMPT": 1}
    given |= {"RUN": run["run"], "NAME": name, "RUN_DIR": folder.path, "ROSTER": folder.roster, "KEY_FILE": folder.key}
    env = common_environment({"OMP_NUM_THREADS": str(run["omp_threads"]), **environ}, workers=1)
    return env | {PREFIX + key: str(value) for key, value in given.items()}


def _first_free(folder: RunFolder, names: Sequence[str]) -> str:
    """Return the first ``local.N`` that was never launched."""
    return next(name for n in count() if (name := f"local.{n}") not in names and look_up(folder.path, name) is None)


def _is_running(folder: RunFolder, name: str) -> bool:
    """Whether the process that last published an address under ``name`` lives, on this host."""
    found = look_up(folder.path, name)
    if found is None:
        return False
    try:
        os.kill(found.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
