"""``dagrad worker``: what it becomes, and what it costs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from dagrad_bus.errors import UsageError
from dagrad_bus.tools import worker as module
from dagrad_bus.tools.worker import worker
from dagrad_bus.workers.launch.command import CommandNotFound

CLI = [sys.executable, "-m", "dagrad_bus.tools.cli", "worker"]
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
       "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": "77"}  # fmt: skip


def clean(**more: str) -> dict[str, str]:
    """Return this environment without the names of any engine."""
    ours = ("DAGRAD_", "SLURM", "OMPI_", "PMIX", "TORCHELASTIC", "JOB_COMPLETION")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


def _nothing(*_: object, **__: object) -> None:
    """Do nothing, in place of what would concern this very process."""


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, tuple[str, ...], dict[str, str]]]:
    """Commands that would have replaced this process, in a folder of their own and under mpirun."""
    found: list[tuple[str, tuple[str, ...], dict[str, str]]] = []

    def execute(file: str, words: tuple[str, ...], env: dict[str, str]) -> None:
        found.append((file, words, env))

    for name in os.environ.keys() - clean().keys():
        monkeypatch.delenv(name)
    for name, value in MPI.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "execve", execute)
    monkeypatch.setattr(module, "set_death_signal", _nothing)
    monkeypatch.setattr(signal, "signal", _nothing)
    monkeypatch.chdir(tmp_path)
    return found


def call(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(worker, list(words))
    if isinstance(result.exception, UsageError | CommandNotFound):
        raise result.exception
    assert result.exception is None, result.exception
    return result.exit_code, result.output


def test_it_becomes_the_command_in_a_run_folder(became: list[tuple[str, tuple[str, ...], dict[str, str]]]) -> None:
    Path("train.py").write_text("")
    call("--", "train.py", "--lr", "0.1", "--", "-x")
    (_, words, env) = became[0]
    assert words == (sys.executable, "-u", "train.py", "--lr", "0.1", "--", "-x")
    assert (env["DAGRAD_NAME"], env["DAGRAD_RUN"], env["DAGRAD_MEMBERS"]) == ("mpi.1", "mpi-77", "mpi.0..1")
    folder = Path(env["DAGRAD_RUN_DIR"])
    assert folder == Path.cwd() / ".dagrad" / "mpi-77"
    run = json.loads((folder / "run.json").read_text())
    assert (run["run"], run["workers"], run["engine"]) == ("mpi-77", ["mpi.0", "mpi.1"], "mpi")
    assert run["command"] == list(words)
    assert run["settings"]["transport"]["bind"] == "127.0.0.1" and not run["settings"]["transport"]["advertise"]
    assert "OMPI_COMM_WORLD_RANK" not in env


def test_modules_and_programs(became: list[tuple[str, tuple[str, ...], dict[str, str]]]) -> None:
    call("-m", "json.tool", "-h")
    call("true", "-m", "x")
    assert [words for _, words, _ in became] == [(sys.executable, "-u", "-m", "json.tool", "-h"), ("true", "-m", "x")]
    assert os.path.isabs(became[1][0])


@pytest.mark.parametrize("option", ["--keep-rank-env", "--torch-env"])
def test_rank_names_may_be_kept(became: list[tuple[str, tuple[str, ...], dict[str, str]]], option: str) -> None:
    call(option, "true")
    assert became[0][2]["OMPI_COMM_WORLD_RANK"] == "1"


def test_a_dry_run_makes_nothing(became: list[tuple[str, tuple[str, ...], dict[str, str]]]) -> None:
    _, output = call("--dry-run", "--run", "r", "true")
    assert "DAGRAD_RUN=r\n" in output and "DAGRAD_NAME=mpi.1\n" in output and output.endswith("true\n")
    assert not became and not os.listdir()


def test_what_is_wrong_is_told_before_anything_is_made(
    became: list[tuple[str, tuple[str, ...], dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CommandNotFound):
        call("no-such-program")
    with pytest.raises(UsageError, match="PORT_RANGE"):
        call("--port-range", "x", "true")
    with pytest.raises(UsageError, match="no-such-key"):
        call("--seeds", "mpi.0@h:5", "--key-file", "no-such-key", "true")
    with pytest.raises(UsageError, match="no-such-key"):
        call("--dir", "d", "--key-file", "no-such-key", "true")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "many")
    with pytest.raises(UsageError, match="OMPI_COMM_WORLD_SIZE"):
        call("true")
    assert not became


@pytest.mark.slow
def test_neither_torch_nor_numpy_is_loaded(tmp_path: Path, timeout_factor: float) -> None:
    code = (
        "import sys, os; os.execve = lambda *a: (print(sorted({'torch','numpy','zmq','rich'} & set(sys.modules))), "
        "sys.exit(0)); from dagrad_bus.tools.cli import main; main(['worker', 'true'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean(**MPI), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_it_is_fast(tmp_path: Path, timeout_factor: float) -> None:
    taken: list[float] = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([*CLI, "true"], env=clean(**MPI), cwd=tmp_path, check=True)
        taken.append(time.monotonic() - began)
    assert min(taken) < 0.4 * timeout_factor  # 0.12 s on a quiet machine


@pytest.mark.slow
@pytest.mark.parametrize(("detach", "survives"), [(False, False), (True, True)])
def test_it_ends_with_the_process_of_the_engine_unless_detached(tmp_path: Path, detach: bool, survives: bool) -> None:
    words = [*CLI, *(["--detach"] if detach else []), "sh", "-c", "echo $$ > pid.part; mv pid.part pid; exec sleep 60"]
    code = f"import subprocess, time; subprocess.Popen({words!r}); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], env=clean(**MPI), cwd=tmp_path) as engine:
        deadline = time.monotonic() + 15
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        engine.kill()
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and _is_alive(pid):
        time.sleep(0.02)
        if survives:
            break
    try:
        assert _is_alive(pid) == survives
    finally:
        if _is_alive(pid):
            os.kill(pid, signal.SIGKILL)


TALK = """
import asyncio, os
from dagrad_bus import Bus, from_environment

async def main():
    settings = from_environment(os.environ)
    assert settings.directory is None
    async with asyncio.timeout(30), Bus(settings, 64) as bus:
        await bus.wait_ready(len(settings.members) - 1)
        print(settings.name, *sorted(bus.neighbours), flush=True)
        open(settings.name, "w").close()
        while not all(os.path.exists(name) for name in settings.members):
            await asyncio.sleep(0.02)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_processes_find_each_other_by_the_port_of_rank_0_alone(tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text(TALK)
    (tmp_path / "key").write_text("secret")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = str(reserved.getsockname()[1])
    words = ["--workers", "4", "--run", "r", "--seed-port", port, "--seed-host", "127.0.0.1", "--key-file", "key"]
    started = [
        subprocess.Popen(
            [*CLI, "--rank", str(rank), *words, "talk.py"], env=clean(), cwd=tmp_path, stdout=-1, text=True
        )
        for rank in (3, 1, 2, 0)
    ]
    told = sorted(process.communicate()[0].strip() for process in started)
    names = [f"worker.{rank}" for rank in range(4)]
    assert told == [" ".join([name, *(other for other in names if other != name)]) for name in names]
    assert [process.returncode for process in started] == [0] * 4


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
