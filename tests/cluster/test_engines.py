"""The engines start what they are told to, as the documentation says they do; no product yet."""

from __future__ import annotations

import time

import pytest

from dagrad_bus.faults.engines import Engine
from dagrad_bus.faults.slurm import Slurm

pytestmark = pytest.mark.cluster
RANKS = "echo rank ${RANK-${OMPI_COMM_WORLD_RANK-$SLURM_PROCID}}"
ONE_FAILS = '[ "${OMPI_COMM_WORLD_RANK-$SLURM_PROCID}" != 1 ] || exit 7; sleep 2; echo went on'


def test_an_engine_starts_ranks(engine: Engine) -> None:
    done = engine.call(3, "sh", "-c", RANKS)
    assert done.code == 0, done.text
    assert sorted(done.out.split("\n")) == ["", "rank 0", "rank 1", "rank 2"], done.text


@pytest.mark.parametrize("engine", ["srun", "mpirun", "mpirun-ssh"], indirect=True)
def test_the_others_go_on_after_a_failure_where_it_is_asked_for(engine: Engine) -> None:
    done = engine.call(3, "sh", "-c", ONE_FAILS, survive=True)
    assert done.out == "went on\n" * 2, done.text


@pytest.mark.parametrize("engine", ["mpirun", "torchrun"], indirect=True)
def test_these_end_all_of_them_where_it_is_not(engine: Engine) -> None:
    script = ONE_FAILS.replace("${OMPI_COMM_WORLD_RANK-$SLURM_PROCID}", "${RANK-$OMPI_COMM_WORLD_RANK}")
    done = engine.call(3, "sh", "-c", script.replace("sleep 2", "sleep 20"))
    assert done.code == (7 if engine.name == "mpi" else 1) and not done.out and done.seconds < 15, done.text


@pytest.mark.parametrize("engine", ["mpirun-ssh"], indirect=True)
def test_mpirun_by_ssh_starts_one_process_a_host(engine: Engine) -> None:
    assert sorted(engine.call(3, "hostname").out.split()) == ["node1", "node2", "node3"]


def test_virtual_nodes_are_nodes(slurm: Slurm) -> None:
    done = slurm.host.call(
        "srun", "-N4", "-n4", "sh", "-c", "echo $SLURMD_NODENAME $SLURM_LOCALID", env=slurm.environ()
    )
    assert sorted(done.out.splitlines()) == [f"n{number} 0" for number in range(4)], done.text
    assert slurm.host.call("srun", "-N3", "-n3", "sh", "-c", "exit 7", env=slurm.environ()).code == 7


def test_a_node_fails_and_the_others_finish(slurm: Slurm) -> None:
    words = ("srun", "-N3", "-n3", "--no-kill", "--kill-on-bad-exit=0", "--wait=0", "-o", f"{slurm.folder}/%t.out")
    step = slurm.host.start(*words, "sh", "-c", "sleep 4; echo went on", env=slurm.environ())
    deadline = time.monotonic() + 10
    while not all(slurm.tasks(node) for node in slurm.nodes[:3]):
        assert time.monotonic() < deadline, slurm.logs()
        time.sleep(0.05)
    slurm.kill_node("n1")
    while not all((slurm.folder / f"{task}.out").read_text() for task in (0, 2)):
        assert time.monotonic() < deadline, slurm.logs()
        time.sleep(0.1)
    assert not (slurm.folder / "1.out").read_text()
    step.terminate()
