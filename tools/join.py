"""``dagrad join``: one more worker for a live run, by its folder or from anywhere by the address of a member."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import click

from dagrad_bus.errors import NobodyAnswers, UsageError
from dagrad_bus.rendezvous import look_up, names_in
from dagrad_bus.settings import PREFIX, ExchangeSettings, TransportSettings, from_environment
from dagrad_bus.workers.launch import addresses
from dagrad_bus.workers.launch.command import resolve
from dagrad_bus.workers.launch.environment import common_environment
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.shim import Wishes, plan

_ANOTHERS = {
    PREFIX + name for name in ("NAME", "SLOT", "ATTEMPT", "RUN_DIR", "ROSTER", "MEMBERS", "INBOX_PORT", "BEAT_PORT")
}
"""Variables of a worker from whose shell another one is started."""
_PATIENCE = 3.0
"""Seconds that members have to say who lives."""


@click.command(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "allow_interspersed_args": False,  # all after the command's first word is the command's
        "max_content_width": 100,
    },
    options_metavar="[OPTIONS]",
)
@click.option("--name", default="", metavar="NAME",
              help="Who the worker is; one that died may be named.  [first local.N free; <host>.<pid>]")  # fmt: skip
@click.option("--seeds", default="", metavar="S", help="Join by members' addresses, without DIR: NAME@HOST:PORT,...")
@click.option("--run", "run_id", default="", metavar="ID", help="With --seeds: the run's name.")
@click.option("--key-file", default="", metavar="FILE", help="With --seeds: the run's secret.")
@click.option("--advertise", default="", metavar="ADDR", help="Address told to the others.  [the way to them]")
@click.option("--interface", default="", metavar="NAME", help="Network interface whose address is told.")
@click.option("-m", "as_module", is_flag=True, help="The command is a module of Python, as in python -m.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[DIR] COMMAND [ARGS]...")
def join(words: tuple[str, ...], name: str, seeds: str, run_id: str, key_file: str, advertise: str, interface: str,
         as_module: bool) -> None:  # fmt: skip
    """Start one more worker of the live run in DIR, or of the one that the seeds belong to.

    By DIR it gets the run's settings; by seeds, those of its own DAGRAD_* variables. It copies the model from its
    neighbours and trains on. COMMAND is usually the run's own; it replaces this process, so its output and its exit
    code are what you see.

    \b
    dagrad join runs/demo -- python -m dagrad_bus.workers.digits --steps 600
    dagrad join --name local.3 runs/demo train.py        # local.3 has crashed: it is back
    dagrad join --seeds node1.0@10.0.0.1:29600 --run demo --key-file key -- train.py
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    words = words[words[:1] == ("--",) :]  # click leaves it there where arguments do not mix with options
    if not seeds and not words:
        raise UsageError("which run? dagrad join DIR COMMAND, or --seeds NAME@HOST:PORT --run ID COMMAND")
    directory, words = (None, words) if seeds else (Path(words[0]), words[1:])
    words = words[words[:1] == ("--",) :]
    command = resolve(("-m", *words) if as_module and words else words, cwd=Path.cwd())
    wishes = Wishes(name=name, run=run_id, seeds=seeds, key_file=key_file, advertise=advertise, interface=interface)
    if directory is None:
        env = _by_seeds(wishes)
    elif run_id or key_file:
        raise UsageError("--run and --key-file go with --seeds: DIR tells them")
    else:
        env = _by_folder(directory, wishes)
    sys.stdout.flush()
    os.execvpe(command.words[0], command.words, env)


def _by_seeds(wishes: Wishes) -> dict[str, str]:
    """Return the environment of a worker that knows members' addresses, and no folder."""
    if not wishes.run and f"{PREFIX}RUN" not in os.environ:
        raise UsageError("--seeds needs --run ID: the name of the run they belong to")
    name = wishes.name or f"{socket.gethostname().partition('.')[0][:20]}.{os.getpid()}"
    inherited = {key: value for key, value in os.environ.items() if key not in _ANOTHERS}
    planned = plan(None, replace(wishes, name=name), inherited, fqdn=socket.getfqdn)
    for note in planned.notes:
        click.echo(f"dagrad: {note}", err=True)
    settings = from_environment(planned.env)  # a setting that makes no sense is told here
    click.echo(f"dagrad: {settings.name} joins run {settings.run} by {wishes.seeds}", err=True)
    return {**planned.env, f"{PREFIX}ATTEMPT": "1"}


def _by_folder(directory: Path, wishes: Wishes) -> dict[str, str]:
    """Return the environment of a worker that finds the others by the run folder."""
    folder = RunFolder(directory.absolute())
    run = folder.read_run()
    names = names_in(folder.path)
    if "ended" in run and not any(_is_running(folder, one) for one in names):
        raise UsageError(f"the run in {directory} has ended: nobody to join (dagrad report {directory})")
    if not any(_may_run(folder, one) for one in names):
        raise UsageError(f"no worker of the run in {directory} runs on this host any more: nobody to join")
    chosen = wishes.name or _first_free(folder, run["workers"])
    if _is_running(folder, chosen) or (wishes.name and _is_present(folder, chosen)):
        raise UsageError(f"{chosen} is running: give another --name, or none")
    env = environment(os.environ, folder, run, chosen)
    env |= _address(folder, wishes)
    from_environment(env)  # a setting that makes no sense is told here
    if chosen not in run["workers"]:
        folder.update_run(workers=[*run["workers"], chosen])
    click.echo(f"dagrad: {chosen} joins the run in {directory}", err=True)
    return env


def _address(folder: RunFolder, wishes: Wishes) -> dict[str, str]:
    """Return where the worker is reached; the run of one host, whose addresses are all loopback, stays on it."""
    told = wishes.advertise or (addresses.of_interface(wishes.interface) if wishes.interface else "")
    found = (look_up(folder.path, name) for name in names_in(folder.path))
    hosts = [_host_of(one.inbox) for one in found if one is not None]
    others = [host for host in hosts if not TransportSettings(bind=host).is_loopback]
    if not told and not others:
        return {}
    told = told or addresses.choose(others) or addresses.LOOPBACK
    return {f"{PREFIX}ADVERTISE": told, f"{PREFIX}BIND": addresses.to_bind(told)}


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


def _may_run(folder: RunFolder, name: str) -> bool:
    """Whether a worker lives, as far as this host can tell; one on another host may."""
    found = look_up(folder.path, name)
    return found is not None and ("127.0.0.1" not in found.inbox or _is_running(folder, name))


def _is_present(folder: RunFolder, name: str) -> bool:
    """Whether the others believe that a worker on another host lives: a second one would drive it out."""
    from dagrad_bus.bus.visitor import read_run
    from dagrad_bus.wire import MemberState

    found = look_up(folder.path, name)
    if found is None or addresses.is_own(_host_of(found.inbox)):
        return False
    try:
        live = read_run(folder.path, _PATIENCE)
    except NobodyAnswers:
        return False
    return any(one.name == name and one.state is MemberState.ALIVE for one in live.present)


def _host_of(endpoint: str) -> str:
    return endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")


def _is_running(folder: RunFolder, name: str) -> bool:
    """Whether the process that last published an address under ``name`` lives, on this host."""
    found = look_up(folder.path, name)
    if found is None or not addresses.is_own(_host_of(found.inbox)):
        return False
    try:
        os.kill(found.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
