"""Hosts and launch engines for real. `make test-cluster` runs these tests; most need root.

Fixtures, each made anew for each test (see the classes for what they can do):

``ssh_cluster``  :class:`~dagrad_bus.faults.sshhosts.SshHosts`: ``head`` and ``node1..3``, sshd on each (1.4 s). ``run``
                 starts a launcher on the head, ``cut``, ``restore`` and ``greet`` disturb, ``ssh_cluster["node1"]`` has
                 ``processes``, ``find``, ``kill``, ``call`` and the private ``tmp``.
``slurm``        :class:`~dagrad_bus.faults.slurm.Slurm`: four virtual nodes (1.2 s); ``kill_node``.
``engine``       :class:`~dagrad_bus.faults.engines.Engine`, one after the other srun, mpirun, mpirun over ``ssh_cluster``
                 and torchrun; ``@pytest.mark.parametrize("engine", ["srun"], indirect=True)`` takes some of them.
``shared``       a folder that all hosts see, unlike ``tmp_path``, which may lie below ``/tmp``.
``worker``       the words of `dagrad worker`.

A test whose engine is missing is skipped with the reason; where DAGRAD_REQUIRE_ENGINES=1 (CI) it fails instead.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dagrad_bus.faults import engines, namespaces, slurm, sshhosts
from dagrad_bus.faults.engines import Engine
from dagrad_bus.faults.host import scratch
from dagrad_bus.faults.slurm import Slurm
from dagrad_bus.faults.sshhosts import SshHosts

if TYPE_CHECKING:
    from _pytest.reports import CollectReport, TestReport

REQUIRED = os.environ.pop("DAGRAD_REQUIRE_ENGINES", "") not in {"", "0"}
"""Taken out of the environment: the programs under test refuse a setting that they do not know."""
ENGINES = ("srun", "mpirun", "mpirun-ssh", "torchrun")


def _refuse_skip(report: TestReport | CollectReport) -> None:
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but DAGRAD_REQUIRE_ENGINES is set: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, TestReport, TestReport]:
    """Make of a skip a failure, where engines are required."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, CollectReport, CollectReport]:
    """Likewise, for a skipped module."""
    report = yield
    _refuse_skip(report)
    return report


def need(*reasons: str) -> None:
    """Skip with the first reason that is not empty."""
    for reason in reasons:
        if reason:
            pytest.skip(reason)


@pytest.fixture
def ssh_cluster() -> Generator[SshHosts]:
    """A head and three hosts with sshd."""
    need(namespaces.why_not(), sshhosts.why_not())
    with SshHosts(3) as made:
        yield made


@pytest.fixture(name="slurm")
def make_slurm() -> Generator[Slurm]:
    """Four virtual nodes, idle."""
    need(namespaces.why_not(), slurm.why_not())
    with Slurm(4) as made:
        yield made


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Generator[Engine]:
    """A launch engine."""
    need(namespaces.why_not())
    opened: AbstractContextManager[Engine]
    match request.param:
        case "srun":
            need(slurm.why_not())
            opened = engines.srun(4)
        case "mpirun":
            need(engines.why_no_mpirun())
            opened = engines.mpirun()
        case "mpirun-ssh":
            need(engines.why_no_mpirun())
            opened = engines.mpirun_over_ssh(request.getfixturevalue("ssh_cluster"))
        case _:
            opened = engines.torchrun()
    with opened as made:
        yield made


@pytest.fixture
def shared() -> Generator[Path]:
    """A folder that all hosts see."""
    need(namespaces.why_not())
    made = scratch("dagrad-shared-")
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def worker() -> tuple[str, ...]:
    """The words of `dagrad worker`; what it is to become follows."""
    return (sys.executable, "-m", "dagrad_bus.tools.cli", "worker")
