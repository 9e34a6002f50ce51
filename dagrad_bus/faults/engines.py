"""Launch engines of other people, as tests call them: each in hosts of its own, where nothing that it leaves can stay.

::

    with srun(4) as engine:
        done = engine.call(3, "hostname")
        step = engine.start(3, *worker, stdout=file, stderr=file)
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dagrad_bus.faults.host import Done, Process, VirtualHost, scratch
from dagrad_bus.faults.namespaces import Hosts
from dagrad_bus.faults.slurm import Slurm
from dagrad_bus.faults.sshhosts import HEAD, SshHosts

LIMIT = 60.0
"""Seconds that a launch may take."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A launch engine and where it runs."""

    name: str
    """As workers under it are named: ``slurm.0``, ``mpi.3``, ``torchrun.1``."""
    host: VirtualHost
    """Where it is called; :attr:`hosts` are where its processes run."""
    hosts: tuple[VirtualHost, ...]
    environ: Mapping[str, str]
    words: Callable[[int], list[str]]
    """Returns the call that starts a number of processes; the command follows."""
    surviving: tuple[str, ...] | None = None
    """Options, right after the program's name, by which the rest outlives one that dies; None: it cannot."""
    extra: dict[str, Any] = field(default_factory=dict[str, Any])

    def call_words(self, count: int, *command: str, survive: bool = False) -> list[str]:
        """Return the whole call."""
        program, *rest = self.words(count)
        return [program, *((self.surviving or ()) if survive else ()), *rest, *command]

    def start(self, count: int, *command: str, survive: bool = False, **given: Any) -> subprocess.Popen[bytes]:
        """Start ``count`` processes; ``given`` goes to ``Popen``."""
        return self.host.start(*self.call_words(count, *command, survive=survive), env=dict(self.environ), **given)

    def call(self, count: int, *command: str, survive: bool = False, seconds: float = LIMIT, **given: Any) -> Done:
        """Run ``count`` processes to their end."""
        words = self.call_words(count, *command, survive=survive)
        return self.host.call(*words, env=dict(self.environ), seconds=seconds, **given)

    def find(self, *texts: str) -> list[Process]:
        """Return the processes on all its hosts whose command line contains each of ``texts``."""
        return [process for host in self.hosts for process in host.find(*texts)]


def plain_environ() -> dict[str, str]:
    """Return this process's environment without what a launcher, or a test of ours, has put there."""
    prefixes = ("DAGRAD_", "SLURM", "OMPI_", "PMIX_", "TORCHELASTIC_", "PYTEST_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


@contextlib.contextmanager
def srun(count: int = 4) -> Generator[Engine]:
    """Slurm with ``count`` virtual nodes; one process a node, on one host."""
    with Slurm(count) as slurm:
        yield Engine(
            "slurm",
            slurm.host,
            (slurm.host,),
            slurm.environ(plain_environ()),
            lambda number: ["srun", f"-N{min(number, count)}", f"-n{number}"],
            surviving=("--no-kill", "--kill-on-bad-exit=0", "--wait=0"),
            extra={"slurm": slurm},
        )


MPI_ENVIRON = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
MPI_SURVIVING = ("--mca", "orte_abort_on_non_zero_status", "0", "--enable-recovery")


@contextlib.contextmanager
def mpirun() -> Generator[Engine]:
    """Open MPI on one host."""
    with _lone_host("mpihost") as host:
        environ = plain_environ() | MPI_ENVIRON
        yield Engine(
            "mpi",
            host,
            (host,),
            environ,
            lambda number: ["mpirun", "--oversubscribe", "-n", str(number)],
            surviving=MPI_SURVIVING,
        )


@contextlib.contextmanager
def mpirun_over_ssh(cluster: SshHosts) -> Generator[Engine]:
    """Open MPI on the head of a cluster; one process a host, started by its ssh launcher."""
    agent = f"ssh -F {cluster.ssh_config}"
    network = ".".join(cluster.address(HEAD).split(".")[:3]) + ".0/24"
    where = ",".join(f"{name}:1" for name in cluster.names)
    options = ["--mca", "plm_rsh_agent", agent, "--mca", "oob_tcp_if_include", network, "--host", where]
    yield Engine(
        "mpi",
        cluster[HEAD],
        tuple(cluster[name] for name in cluster.names),
        plain_environ() | MPI_ENVIRON,
        lambda number: ["mpirun", *options, "--map-by", "node", "-n", str(number)],
        surviving=MPI_SURVIVING,
    )


@contextlib.contextmanager
def torchrun() -> Generator[Engine]:
    """Open torchrun on one host; a process that dies takes the others along."""
    with _lone_host("torchhost") as host:
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
        yield Engine(
            "torchrun", host, (host,), plain_environ(), lambda number: [*words, "--nproc-per-node", str(number)]
        )


@contextlib.contextmanager
def _lone_host(name: str) -> Generator[VirtualHost]:
    folder = scratch("dagrad-engine-")
    try:
        with Hosts(1) as net, VirtualHost(net.name(0), name, folder / "host", {name: net.address(0)}) as host:
            yield host
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def why_no_mpirun() -> str:
    """Return why there is no mpirun; empty if there is."""
    return "" if shutil.which("mpirun") else "needs mpirun (openmpi-bin)"


def why_no_frameworks(*modules: str) -> str:
    """Return which of these modules are not installed; empty if all are."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"needs {', '.join(missing)} (pip install dagrad-bus[cluster])" if missing else ""
