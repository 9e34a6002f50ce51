"""``dagrad attach`` and ``dagrad stop``: a launcher for a run whose own has left, or died."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dagrad_bus.errors import BusError, UsageError
from dagrad_bus.tools.finish import report_end, train_and_report
from dagrad_bus.tools.live import watching
from dagrad_bus.tools.tables import make_console
from dagrad_bus.workers.launch.berths import LOCAL, Reach, host_berths, local_berth, restore
from dagrad_bus.workers.launch.brief import Launch
from dagrad_bus.workers.launch.command import CommandNotFound
from dagrad_bus.workers.launch.folder import RunFolder, mark_process
from dagrad_bus.workers.launch.launcher import run_launch
from dagrad_bus.workers.launch.orders import RestartPolicy, Start

_DIRECTORY = click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")

_FORCE = click.option("--force", is_flag=True, help="The launcher was started on another host, and is gone for sure.")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@_DIRECTORY
@click.option("--progress", type=click.Choice(["auto", "table", "lines", "none"]), default="auto", show_default=True,
              help="Live table, a line a worker every few seconds, or nothing.")  # fmt: skip
@click.option("--figures/--no-figures", default=True, show_default=True, help="Draw figures at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary to stdout, all else to stderr.")
@_FORCE
def attach(directory: Path, force: bool, **options: Any) -> None:
    """Take over the run in DIR, whose launcher has left (--detach) or died.

    Its agents are asked for what was missed: output, journals and exits, not a byte twice. Workers on other hosts
    wait for a new launcher as long as their lease; those of a detached run for ever.

    Ctrl-C leaves a detached run to itself again, and stops any other.

    \b
    dagrad run --detach --dir runs/a --hostfile hosts train.py
    dagrad attach runs/a
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    folder = RunFolder(directory.absolute())
    run = folder.read_run()
    if (pid := living_launcher(run)) is not None:
        raise UsageError(f"the launcher of {directory} is there, process {pid}: nothing to take over")
    if has_ended(run):
        raise UsageError(f"the run in {directory} has ended: dagrad report {directory}")
    _check_host(run, force=force)
    launch = make_launch(folder, run)
    folder.update_run(host=socket.gethostname(), launcher=os.getpid(), launcher_mark=mark_process(os.getpid()))
    how = "leaves it to itself" if launch.leave_on_interrupt else "stops it"
    click.echo(f"dagrad: Ctrl-C {how}", err=True)
    names = [order.name for berth in launch.berths for order in berth.workers]
    sys.exit(_guarded(lambda: train_and_report(launch, names, options)))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@_DIRECTORY
@click.option("--grace", type=click.FloatRange(0, 3600), metavar="S",
              help="Seconds a worker has to stop before it is killed.  [as the run has it]")  # fmt: skip
@_FORCE
def stop(directory: Path, grace: float | None, force: bool) -> None:
    """Stop the run in DIR: all its workers, on every host; the folder stays.

    A launcher that is there is asked to do it. Exit code 0: stopped; 1: some host could not be told.

    \b
    dagrad stop runs/a
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    folder = RunFolder(directory.absolute())
    run = folder.read_run()
    if (pid := living_launcher(run)) is not None:
        try:
            os.kill(pid, signal.SIGTERM)
        except PermissionError:
            raise UsageError(f"the launcher of {directory}, process {pid}, is another user's") from None
        click.echo(f"dagrad: the launcher, process {pid}, stops the run", err=True)
        while living_launcher(run) is not None:
            time.sleep(0.05)
        return
    if has_ended(run):
        click.echo(f"dagrad: the run in {directory} has ended already", err=True)
        return
    _check_host(run, force=force)
    launch = make_launch(folder, run)
    start = launch.start if grace is None else replace(launch.start, grace=grace)
    sys.exit(_guarded(lambda: _stop(replace(launch, start=start, stop_at_once=True))))


def _stop(launch: Launch) -> int:
    with watching("none", make_console(to_stderr=True), ()) as watcher:
        outcome = run_launch(launch, watcher)
    report_end(launch.folder, outcome, {"as_json": False, "figures": False})
    return int(not has_ended(launch.folder.read_run()))


def _guarded(work: Any) -> int:
    try:
        code: int = work()
    except UsageError:
        raise
    except BusError as error:
        click.echo(f"dagrad: {error}", err=True)
        code = error.code if isinstance(error, CommandNotFound) else 125
    return code


def make_launch(folder: RunFolder, run: Mapping[str, Any]) -> Launch:
    """Return a launch that finds the agents of a run again.

    Raises:
        UsageError: ``run.json`` does not say where they are.
    """
    try:
        kept = run["launch"]
        hosts = restore(run["hosts"])
        config = Path(kept["ssh_config"]) if kept["ssh_config"] else None
        reach = Reach(folder=folder.path, env=dict(os.environ), ssh_config=config, outlives=True)
        names = folder.roster.read_text().split()
        if not hosts and any(name.rpartition(".")[0] != LOCAL for name in names):
            raise UsageError(f"the workers of {folder.path} end with their launcher: they cannot be taken over")
        start = Start(
            run=run["run"],
            host="",
            command=list(run["command"]),
            cwd=run["cwd"],
            split=any((folder.path / "logs").glob("*.err")),
            grace=float(kept["grace"]),
            lease=-1.0 if kept["detach"] else float(kept["lease"]) if hosts else 0.0,
            restart=RestartPolicy(on_failure="continue"),
        )
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UsageError(f"{folder.run_file} does not say where its agents are: {error!r}") from None
    return Launch(
        folder=folder,
        berths=host_berths(hosts, reach) if hosts else [local_berth(len(names), reach)],
        start=start,
        returning=True,
        leave_on_interrupt=bool(kept["detach"]),
    )


def has_ended(run: Mapping[str, Any]) -> bool:
    """Whether somebody has seen all launched workers of a run end; those that were lost may still be there."""
    seen = {ended["name"] for ended in run.get("exits", ()) if not ended.get("lost")}
    return "ended" in run and seen.issuperset(run.get("launched", run["workers"]))


def _check_host(run: Mapping[str, Any], *, force: bool) -> None:
    """Refuse where the launcher was started on another host: two would take the agents from each other for ever."""
    if not force and "ended" not in run and run.get("host", socket.gethostname()) != socket.gethostname():
        raise UsageError(f"the launcher was started on {run.get('host')}: go there, or --force if it is gone for sure")


def living_launcher(run: Mapping[str, Any]) -> int | None:
    """Return the process of the run's launcher if it lives on this host; a number used anew is told apart."""
    pid = int(run.get("launcher", 0))
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    is_ours = any(b"dagrad" in word for word in words) and any(word in {b"run", b"attach"} for word in words)
    mark = mark_process(pid)
    return pid if is_ours and mark and run.get("launcher_mark", mark) == mark and pid != os.getpid() else None
