"""``dagrad run --dry-run``: hosts, workers, commands and environment, and nothing is touched."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dagrad_bus.workers.launch.berths import agent_words
from dagrad_bus.workers.launch.environment import mask
from dagrad_bus.workers.launch.hostfile import Host
from dagrad_bus.workers.launch.pipes import local_agent
from dagrad_bus.workers.launch.slurm import srun_command
from dagrad_bus.workers.launch.ssh import is_local


def show_rehearsal(
    names: Sequence[str],
    hosts: Sequence[Host],
    words: Sequence[str],
    env: Mapping[str, str],
    options: Mapping[str, Any],
    *,
    engine: str = "local",
) -> None:
    """Print what would be started.

    Args:
        names: of the workers.
        hosts: none for this host.
        words: the workers' command.
        env: what they get over their host's own environment; secrets are masked.
        options: ``ssh_config``, ``srun_args``, ``cpus`` and ``gpus``.
        engine: who would start them.
    """
    click.echo(f"{len(names)} workers run: {shlex.join(words)}")
    for host in hosts:
        mine = [name for name in names if name.rpartition(".")[0] == host.label]
        click.echo(f"\n{host.label}: {', '.join(mine)}")
        click.echo(f"  in {host.cwd}")
        click.echo(f"  {shlex.join(local_agent() if is_local(host) else agent_words(host, options['ssh_config']))}")
    if engine == "slurm":
        line = srun_command(len(names), words, folder=Path("RUN_FOLDER"), run="ID", arguments=options["srun_args"])
        click.echo(f"\nby Slurm: {', '.join(names)}\n  {shlex.join(line)}")
    elif engine == "ray":
        click.echo(f"\nby Ray, {options['cpus']:g} CPUs and {options['gpus']:g} GPUs each: {', '.join(names)}")
    elif not hosts:
        click.echo(f"\nthis host: {', '.join(names)}\n  {shlex.join(local_agent())}")
    click.echo("\nenvironment, sent over stdin:" if hosts else "\nenvironment, beside that of this shell:")
    for name, value in sorted(mask(env).items()):
        click.echo(f"  {name}={value}")
