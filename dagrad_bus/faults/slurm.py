"""A Slurm cluster of virtual nodes in one network namespace: its own munged, slurmctld and a slurmd a node.

All nodes share one host, so that SLURM_LOCALID is 0 on each and SLURMD_NODENAME tells them apart. Nothing is installed
or configured on the machine. Needs root, slurm-wlm and munge.

::

    with Slurm(4) as slurm:
        done = slurm.host.call("srun", "-n3", "hostname", env=slurm.environ(), seconds=30)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from dagrad_bus.errors import StartError
from dagrad_bus.faults.host import Process, VirtualHost, path_of, scratch
from dagrad_bus.faults.namespaces import Hosts

START = 30.0
"""Seconds within which all nodes must be idle."""
PORT = 17_000
CORES = 4
"""Of each node, whatever the machine has."""
_CONFIG = """\
ClusterName=dagrad
SlurmctldHost={name}({address})
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmdTimeout=30
KillWait=5
ReturnToService=2
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
# Without %n each slurmd would shut the one before it down.
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
NodeName=n[0-{last}] NodeHostname={name} NodeAddr={address} Port=[{first}-{end}] CPUs={cores} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES OverSubscribe=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Return which program is missing; empty if none is."""
    programs = ("slurmctld", "slurmd", "srun", "scontrol", "sinfo", "munged")
    missing = [program for program in programs if not path_of(program)]
    return f"needs {', '.join(missing)} (slurm-wlm, munge)" if missing else ""


def config(folder: Path, name: str, address: str, nodes: int) -> str:
    """Return the text of ``slurm.conf`` for ``nodes`` nodes on the host ``name``, everything written to ``folder``."""
    ports = {"port": PORT, "first": PORT + 1, "end": PORT + nodes}
    return _CONFIG.format(name=name, address=address, folder=folder, last=nodes - 1, cores=CORES, **ports)


class Slurm:
    """``count`` nodes ``n0``, ``n1``, ...; a context manager that leaves nothing behind.

    Attributes:
        host: where the daemons, and all that Slurm starts, run.
    """

    def __init__(self, count: int = 4) -> None:
        self.nodes = tuple(f"n{number}" for number in range(count))
        self._stack = contextlib.ExitStack()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Start the daemons.

        Raises:
            StartError: the nodes do not become idle.
        """
        try:
            self.folder = scratch("dagrad-slurm-")
            self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            net = self._stack.enter_context(Hosts(1))
            name, address = "slurmhost", net.address(0)
            host = VirtualHost(net.name(0), name, self.folder / "host", {name: address})
            self.host = self._stack.enter_context(host)
            (self.folder / "slurm.conf").write_text(config(self.folder, name, address, len(self.nodes)))
            # A network namespace has no view of the control groups; none are used, but the plug-in looks for them.
            (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
            self._start_munge()
            self._start("slurmctld", "slurmctld", "-D")
            for node in self.nodes:
                self.start_node(node)
            self.await_idle(*self.nodes)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the daemons and all that they started, then remove their files."""
        self._stack.close()

    def environ(self, given: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a Slurm command, made of ``given`` or this process's own."""
        own = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        kept = {name: value for name, value in (given or os.environ).items() if not name.startswith("SLURM")}
        return kept | own

    # Nodes ---------------------------------------------------------------------------------------------------------

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._start(f"slurmd.{node}", "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Let a node fail: kill its slurmd, the steps that it manages and their tasks."""
        slurmd = self._daemons.pop(f"slurmd.{node}")
        tasks = self.tasks(node)
        steps = {_parent(task.pid) for task in tasks}
        for pid in (slurmd.pid, *steps, *(task.pid for task in tasks)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        slurmd.wait()

    def tasks(self, node: str) -> list[Process]:
        """Return the tasks of a node, without their children."""
        mark = f"SLURMD_NODENAME={node}".encode()
        found = [one for one in self.host.processes() if mark in _environ(one.pid) and "slurm" not in one.command[0]]
        inner = {one.pid for one in found}
        return [one for one in found if _parent(one.pid) not in inner]

    def await_idle(self, *nodes: str) -> None:
        """Wait until nodes are idle.

        Raises:
            StartError: they are not in time.
        """
        deadline = time.monotonic() + START
        while True:
            done = self.host.call("sinfo", "-h", "-N", "-o", "%N %t", env=self.environ(), seconds=10)
            if {f"{node} idle" for node in nodes} <= set(done.out.splitlines()):
                return
            if time.monotonic() > deadline:
                raise StartError(f"Slurm: {done.text}\n{self.logs()}")
            time.sleep(0.2)

    def logs(self) -> str:
        """Return the ends of all logs."""
        texts = [f"{path.name}:\n{path.read_text()[-1000:]}" for path in sorted(self.folder.glob("*.log"))]
        return "\n".join(texts)

    # Set up --------------------------------------------------------------------------------------------------------

    def _start(self, name: str, program: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as out:
            given = {"env": self.environ(), "stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
            self._daemons[name] = self.host.start(path_of(program), *words, **given)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        self.folder.chmod(0o755)  # who may pass to the socket
        files = {"socket": "socket", "pid-file": "pid", "seed-file": "seed", "key-file": "key"}
        options = (f"--{option}={self.folder}/munge.{end}" for option, end in files.items())
        self._start("munged", "munged", "-F", "--force", *options)
        deadline = time.monotonic() + START
        while not (self.folder / "munge.socket").exists():
            if time.monotonic() > deadline:
                raise StartError(f"munged does not start: {self.logs()}")
            time.sleep(0.05)


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # it has ended meanwhile


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
