"""`dagrad worker` under each engine: workers find one another, exchange, and outlive one another where the engine lets
them; when the engine dies, they do not outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dagrad_bus.faults.engines import Engine
from dagrad_bus.workers.launch.environment import RANK_NAMES
from dagrad_bus.workers.launch.journal import Record, read_record

pytestmark = pytest.mark.cluster
COUNT = 3
FACTOR = float(os.environ.get("DAGRAD_TEST_TIMEOUT_FACTOR", "1"))
DIGITS = ("-m", "dagrad_bus.workers.digits", "--threads", "1", "--linger", "2")
SURVIVORS = ["srun", "mpirun", "mpirun-ssh"]


def await_(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds * FACTOR
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def names(engine: Engine) -> list[str]:
    return [f"{engine.name}.{rank}" for rank in range(COUNT)]


def records(folder: Path, engine: Engine) -> dict[str, Record]:
    return {name: read_record(folder / "workers" / f"{name}.jsonl", name) for name in names(engine)}


def exchanged(record: Record, peers: int) -> bool:
    """Whether a worker was linked to so many others and mixed something of theirs."""
    return record.counter("links_up") >= peers and record.counter("frames_mixed") > 0


def test_workers_find_one_another_and_exchange(engine: Engine, worker: tuple[str, ...], shared: Path) -> None:
    """Without ``--dir`` where the engine leads to a folder; torchrun leads to its store, and keeps no journals."""
    given = ("--dir", str(shared / "run")) if engine.name == "torchrun" else ()
    done = engine.call(COUNT, *worker, *given, *DIGITS, "--steps", "60", cwd=shared)
    assert done.code == 0, done.text
    folder = shared / "run" if given else next((shared / ".dagrad").iterdir())
    found = records(folder, engine)
    assert all(exchanged(record, COUNT - 1) and record.step >= 60 for record in found.values()), (found, done.text)
    assert (folder / "key").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (folder / "final").iterdir()) == [f"{name}.npy" for name in names(engine)]


@pytest.mark.parametrize("engine", SURVIVORS, indirect=True)
def test_the_others_outlive_a_killed_worker(engine: Engine, worker: tuple[str, ...], shared: Path) -> None:
    words = (*worker, "--dir", str(shared / "run"), *DIGITS, "--steps", "120", "--pace", "0.08")
    with (shared / "out").open("wb") as out:
        call = engine.start(COUNT, *words, survive=True, cwd=shared, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def says() -> str:
        return (shared / "out").read_text()

    def under_way() -> bool:
        return all(record.step >= 10 for record in records(shared / "run", engine).values())

    await_(under_way, 40, says())
    victim = _pid(engine, names(engine)[1])
    os.kill(victim, signal.SIGKILL)
    code = call.wait(60 * FACTOR)
    found = records(shared / "run", engine)
    left = [found[names(engine)[rank]] for rank in (0, 2)]
    assert all(record.step >= 120 and exchanged(record, COUNT - 1) for record in left), says()
    assert all(record.counter("members_changed.dead") == 1 for record in left), says()
    assert found[names(engine)[1]].step < 120
    assert code == {"slurm": 137, "mpi": 0}[engine.name], says()  # why we do not go by the engine's code


@pytest.mark.parametrize("engine", ["torchrun"], indirect=True)
def test_torchrun_ends_the_others_with_the_first(engine: Engine, worker: tuple[str, ...], shared: Path) -> None:
    """As documented: under torchrun a run has a fixed size."""
    done = engine.call(COUNT, *worker, *DIGITS, "--steps", "2000", "--fail", "torchrun.1:5", cwd=shared)
    assert done.code == 1 and "torchrun.1" in done.out, done.text
    assert not engine.find("dagrad_bus.workers.digits")


def test_ranks_are_taken_away_and_kept_under_other_names(engine: Engine, worker: tuple[str, ...], shared: Path) -> None:
    script = 'env >"$DAGRAD_NAME.env"'
    given = ("--dir", str(shared / "run"))
    assert engine.call(COUNT, *worker, *given, "sh", "-c", script, cwd=shared).code == 0
    for rank, name in enumerate(names(engine)):
        env = dict(line.split("=", 1) for line in (shared / f"{name}.env").read_text().splitlines() if "=" in line)
        exact = {pattern for pattern in RANK_NAMES if "*" not in pattern}
        begun = tuple(pattern.rstrip("*") for pattern in RANK_NAMES if "*" in pattern)
        assert not [key for key in env if key in exact or key.startswith(begun)]
        kept = {"slurm": "SLURM_PROCID", "mpi": "OMPI_COMM_WORLD_RANK", "torchrun": "RANK"}[engine.name]
        assert env[f"DAGRAD_LAUNCHER_{kept}"] == str(rank)


def test_workers_end_with_the_engine_that_is_killed(engine: Engine, worker: tuple[str, ...], shared: Path) -> None:
    words = (*worker, "--dir", str(shared / "run"), "sleep", "543")
    call = engine.start(COUNT, *words, cwd=shared, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def asleep() -> list[int]:
        return [process.pid for process in engine.find("sleep", "543") if process.command == ("sleep", "543")]

    await_(lambda: len(asleep()) == COUNT, 30, "they do not start")
    call.kill()
    call.wait()
    await_(lambda: not asleep(), 20, "orphans")


@pytest.mark.parametrize("engine", ["mpirun", "torchrun"], indirect=True)
def test_without_the_shim_they_stay_as_orphans(engine: Engine, shared: Path) -> None:
    """So the test above would notice."""
    call = engine.start(COUNT, "sleep", "542", cwd=shared, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def asleep() -> int:
        return len([process for process in engine.find("sleep", "542") if process.command == ("sleep", "542")])

    await_(lambda: asleep() == COUNT, 30, "they do not start")
    call.kill()
    call.wait()
    time.sleep(2)
    assert asleep() == COUNT


def _pid(engine: Engine, name: str) -> int:
    """Return the process of a worker."""
    for process in engine.find("dagrad_bus.workers.digits"):
        environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        if f"DAGRAD_NAME={name}".encode() in environ and process.command[0] == sys.executable:
            return process.pid
    raise AssertionError(f"no {name}")
