"""``--sync``: one folder copied to the same path on every host, by rsync over the same ssh as everything else."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch.hostfile import Host
from dagrad_bus.workers.launch.ssh import is_local, ssh_words

AT_ONCE = 8
"""Hosts copied to at a time: the sender's disk and network are one."""


def rsync_words(folder: Path, host: Host, *, config: Path | None = None) -> list[str]:
    """Return the command line that copies ``folder`` to ``host``. What is only there stays: it may be checkpoints."""
    transport = ssh_words(host, ["x"], config=config)
    transport = transport[: transport.index("--")]  # rsync adds host and command itself
    address = f"[{host.host}]" if ":" in host.host else host.host
    target = f"{host.user}@{address}" if host.user else address
    path = f"{folder.absolute()}/"
    # --mkpath would need rsync 3.2.3 on both sides; the remote shell makes the parents instead
    remote = f"mkdir -p {shlex.quote(path)} && rsync"
    words = ["rsync", "-a", "-e", shlex.join(transport), "--rsync-path", remote]
    return [*words, "--", path, f"{target}:{path}"]


def copy_to_hosts(folder: Path, hosts: Sequence[Host], *, config: Path | None = None) -> None:
    """Copy ``folder`` to all remote hosts.

    Raises:
        StartError: rsync is missing, or failed on a host; the message names all of them and what rsync said.
    """
    remote = [host for host in hosts if not is_local(host)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        told = list(pool.map(partial(_copy, folder, config), remote))
    failed = [f"{host.label}: {text}" for host, text in zip(remote, told, strict=True) if text]
    if failed:
        raise StartError("--sync failed, nothing was started:\n" + "\n".join(failed))


def _copy(folder: Path, config: Path | None, host: Host) -> str:
    """Copy to one host; return what went wrong."""
    try:
        done = subprocess.run(
            rsync_words(folder, host, config=config),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        return f"cannot run rsync: {error.strerror}"
    return (done.stderr.strip() or f"rsync exited with {done.returncode}") if done.returncode else ""
