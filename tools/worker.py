"""``dagrad worker``: what every engine starts once a slot; it becomes the worker.

Loads neither torch nor numpy: it looks at the environment, makes or enters the run folder, and executes the command.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dagrad_bus.errors import UsageError
from dagrad_bus.settings import PREFIX, Settings, describe, from_environment
from dagrad_bus.workers.launch.command import Command, resolve
from dagrad_bus.workers.launch.engines import Found, detect
from dagrad_bus.workers.launch.nursery import set_death_signal
from dagrad_bus.workers.launch.shared import found_run
from dagrad_bus.workers.launch.shim import Plan, Wishes, by_hand, plan


@click.command(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "allow_interspersed_args": False,  # all after the command's first word is the command's
        "max_content_width": 100,
    },
    options_metavar="[OPTIONS]",
)
@click.option("--dir", "directory", type=click.Path(path_type=Path), metavar="DIR",
              help="Run folder, seen by all workers.  [Slurm: .dagrad/<job>.<step>, mpirun: .dagrad/mpi-<job>]")  # fmt: skip
@click.option("--run", default="", metavar="ID", help="Name of the run.  [of the engine's job]")
@click.option("--name", default="", metavar="NAME", help="This worker's name.  [<engine>.<rank>]")
@click.option("--rank", type=click.IntRange(0), metavar="R", help="Without an engine: which of the workers this is.")
@click.option("--workers", type=click.IntRange(0, 65536), default=0, metavar="N",
              help="How many there are, where the engine does not tell.")  # fmt: skip
@click.option("--members", default="", metavar="NAMES", help="Their names: a,b or stem.0..7.  [from the size]")
@click.option("--seeds", default="", metavar="S", help="Whom to turn to first: NAME@HOST:PORT,...")
@click.option("--key-file", default="", metavar="FILE", help="The run's secret, the same for all.  [the folder's]")
@click.option("--seed-port", type=click.IntRange(1, 65535), metavar="P",
              help="Rank 0 listens at port P, and all turn to it.")  # fmt: skip
@click.option("--seed-host", default="", metavar="HOST", help="Where rank 0 is, if the engine does not tell.")
@click.option("--service", default="", metavar="NAME", help="Kubernetes: the headless service.  [the pod's subdomain]")
@click.option("--advertise", default="", metavar="ADDR", help="Address told to the others.  [the way to them]")
@click.option("--interface", default="", metavar="NAME", help="Network interface whose address is told.")
@click.option("--port-range", default="", metavar="A-B", help="Listen at ports drawn from these.  [any free]")
@click.option("--keep-rank-env", "--torch-env", "keep_ranks", is_flag=True,
              help="Leave RANK, WORLD_SIZE and their kin in the environment.")  # fmt: skip
@click.option("--detach", is_flag=True, help="Live on when the engine's process on this host is killed.")
@click.option("--dry-run", is_flag=True, help="Show the environment and the command; make and start nothing.")
@click.option("-m", "as_module", is_flag=True, help="The command is a module of Python, as in python -m.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND [ARGS]...")
def worker(words: tuple[str, ...], as_module: bool, detach: bool, dry_run: bool, **options: Any) -> None:
    """Be one worker of a run that another engine starts.

    Finds out from the environment who it is, among how many, and whom to turn to; takes the engine's rank variables
    away, as a gossip worker is a single-process job; becomes COMMAND.

    \b
    srun --no-kill --kill-on-bad-exit=0 --wait=0 dagrad worker -- train.py
    mpirun -n 4 dagrad worker -- train.py
    torchrun --nproc-per-node 4 --no-python dagrad worker -- train.py
    dagrad worker --rank 1 --workers 4 --run a --seed-port 29600 --seed-host 10.0.0.1 -- train.py
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    parent = os.getppid()
    options["seed_port"] = options["seed_port"] or 0
    wishes = Wishes(**options)
    words = words[words[:1] == ("--",) :]
    command = resolve(("-m", *words) if as_module and words else words, cwd=Path.cwd())
    found = detect(os.environ) if wishes.rank is None else by_hand(wishes)
    planned = plan(found, wishes, os.environ, fqdn=socket.getfqdn)
    settings = _check(planned)
    if dry_run:
        _show(command, planned.env)
        return
    for note in planned.notes:
        click.echo(f"dagrad: {settings.name}: {note}", err=True)
    if planned.folder is not None:
        _enter(planned, settings, found, command)
    if found is not None and found.engine != "worker" and not detach:
        set_death_signal(signal.SIGKILL, parent=parent)
    _become(command, planned.env)


def _check(planned: Plan) -> Settings:
    """Read the settings as the worker will, without the key that its folder may not hold yet."""
    env = {name: value for name, value in planned.env.items() if name != f"{PREFIX}KEY_FILE" or not planned.folder}
    return from_environment(env)


def _enter(planned: Plan, settings: Settings, found: Found | None, command: Command) -> None:
    """Make the run folder, or enter it."""
    if planned.folder is None:
        raise AssertionError("asked for with a folder only")
    key_file = Path(planned.env[f"{PREFIX}KEY_FILE"])
    is_own = key_file == planned.folder.absolute() / "key"
    found_run(
        planned.folder,
        run=settings.run,
        names=settings.members or (settings.name,),
        key="" if is_own else _read_key(key_file),
        facts={
            "created": time.time(),
            "command": command.words,
            "settings": _describe(settings),
            "host": socket.gethostname(),
            "python": sys.version.split()[0],
            "cwd": os.getcwd(),
            "engine": found.engine if found is not None else "none",
            "omp_threads": planned.env["OMP_NUM_THREADS"],
        },
    )


def _read_key(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--key-file {path}: {error}") from None


def _describe(settings: Settings) -> dict[str, object]:
    """Return the settings of all workers: addresses and ports are each one's own."""
    bind = settings.transport.bind if settings.transport.is_loopback else "*"
    shared = replace(settings.transport, bind=bind, advertise="", inbox_port=0, beat_port=0)
    return describe(replace(settings, transport=shared))


def _show(command: Command, env: Mapping[str, str]) -> None:
    for name in sorted(env):
        if name.startswith(PREFIX) and not name.startswith(f"{PREFIX}LAUNCHER_"):
            click.echo(f"{name}={env[name]}")
    click.echo(shlex.join(command.words))


def _become(command: Command, env: Mapping[str, str]) -> None:
    """Execute the command in this process."""
    sys.stdout.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python, and that would be inherited
        signal.signal(number, signal.SIG_DFL)
    file = command.target if command.kind == "program" else command.words[0]
    try:
        os.execve(file, command.words, env)
    except OSError as error:
        click.echo(f"dagrad: {command.words[0]}: {error.strerror}", err=True)
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
