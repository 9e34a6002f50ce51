from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dagrad_bus.errors import StartError, UsageError
from dagrad_bus.tools import attach as attach_module
from dagrad_bus.tools.attach import attach, has_ended, living_launcher, make_launch, stop
from dagrad_bus.workers.launch.berths import describe
from dagrad_bus.workers.launch.brief import Launch
from dagrad_bus.workers.launch.command import CommandNotFound
from dagrad_bus.workers.launch.folder import RunFolder, create, mark_process
from dagrad_bus.workers.launch.hostfile import parse_list
from dagrad_bus.workers.launch.journal import Record
from dagrad_bus.workers.launch.outcome import Exit, Outcome, Watcher, Worker

Make = Callable[..., RunFolder]
FACTS: dict[str, Any] = {
    "created": 1.0, "command": ["train.py", "--lr", "1"], "cwd": "/data", "launcher": 0, "hosts": [],
    "settings": {"exchange": {"rule": "state"}}, "launch": {"grace": 3.0, "lease": 60.0, "detach": False, "ssh_config": None},
}  # fmt: skip


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(*names: str, **facts: Any) -> RunFolder:
        names = names or ("local.0", "local.1")
        return create(tmp_path / "run", run="ab12", names=names, facts=FACTS | facts)

    return make


@contextmanager
def process(*words: str) -> Generator[subprocess.Popen[bytes]]:
    """Run a process with the command line of a launcher."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started
        started.kill()


def exits(*names: str, lost: str = "") -> list[dict[str, Any]]:
    return [{"name": name, "lost": name == lost} for name in names]


# Who is there ---------------------------------------------------------------------------------------------------


def test_a_launcher_is_known_by_its_command_line_and_its_start() -> None:
    with process("dagrad", "run", "train.py") as one:
        run: dict[str, Any] = {"launcher": one.pid}
        assert living_launcher(run) == one.pid
        assert living_launcher(run | {"launcher_mark": mark_process(one.pid)}) == one.pid
        assert living_launcher(run | {"launcher_mark": mark_process(os.getpid())}) is None  # a number used anew
        one.kill()
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
        assert living_launcher(run) is None  # a zombie


def test_other_processes_are_no_launchers() -> None:
    with process("dagrad", "report") as one:
        assert living_launcher({"launcher": one.pid}) is None
    with process("other", "run") as one:
        assert living_launcher({"launcher": one.pid}) is None
    for pid in (0, os.getpid(), 2**22 + 1):
        assert living_launcher({"launcher": pid}) is None
    assert living_launcher({}) is None


@pytest.mark.parametrize(
    ("run", "ended"),
    [
        ({}, False),
        ({"ended": 5.0}, False),
        ({"exits": exits("a", "b")}, False),
        ({"ended": 5.0, "exits": exits("a")}, False),
        ({"ended": 5.0, "exits": exits("a", "b", lost="b")}, False),
        ({"ended": 5.0, "exits": exits("a", "b")}, True),
        ({"ended": 5.0, "exits": exits("a", "b", "c")}, True),
    ],
)
def test_a_run_has_ended_when_all_its_workers_were_seen_to(run: dict[str, Any], ended: bool) -> None:
    assert has_ended({"workers": ["a", "b"], **run}) == ended


# What run.json says -----------------------------------------------------------------------------------------------


def test_a_run_on_this_host_is_found_by_its_folder(make: Make) -> None:
    folder = make()
    launch = make_launch(folder, folder.read_run())
    assert [(berth.label, berth.is_local, len(berth.workers)) for berth in launch.berths] == [("local", True, 2)]
    start = launch.start
    assert (start.run, start.command, start.cwd, start.grace, start.lease) == (
        "ab12",
        FACTS["command"],
        "/data",
        3.0,
        0.0,
    )
    assert launch.returning and not launch.leave_on_interrupt and start.restart.on_failure == "continue"


@pytest.mark.parametrize(("detach", "lease"), [(False, 60.0), (True, -1.0)])
def test_hosts_are_found_as_they_were_reached(make: Make, detach: bool, lease: float) -> None:
    hosts = parse_list("ann@node1:2,node2:1").hosts
    kept = FACTS["launch"] | {"detach": detach, "ssh_config": "/cfg"}
    folder = make("node1.0", "node1.1", "node2.0", hosts=describe(hosts), launch=kept)
    launch = make_launch(folder, folder.read_run())
    assert [(berth.where, len(berth.workers)) for berth in launch.berths] == [("ann@node1", 2), ("node2", 1)]
    assert (launch.start.lease, launch.leave_on_interrupt, launch.start.split) == (lease, detach, False)


def test_stderr_is_apart_where_it_was(make: Make) -> None:
    folder = make()
    folder.errors("local.0").touch()
    assert make_launch(folder, folder.read_run()).start.split


@pytest.mark.parametrize("missing", ["launch", "hosts", "command", "cwd"])
def test_a_run_of_another_kind_is_refused(make: Make, missing: str) -> None:
    folder = make()
    run = {name: value for name, value in folder.read_run().items() if name != missing}
    with pytest.raises(UsageError, match=r"run\.json does not say where its agents are"):
        make_launch(folder, run)


def test_a_folder_without_a_roster_too(make: Make) -> None:
    folder = make()
    folder.roster.unlink()
    with pytest.raises(UsageError, match="does not say where"):
        make_launch(folder, folder.read_run())


@pytest.mark.parametrize("name", ["ray-0.0", "slurm.0"])
def test_workers_of_an_engine_cannot_be_taken_over(make: Make, name: str) -> None:
    folder = make(name)
    with pytest.raises(UsageError, match="end with their launcher"):
        make_launch(folder, folder.read_run())


# The commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """What would be launched; both workers are done."""
    launches: list[Launch] = []

    def run(launch: Launch, watcher: Watcher) -> Outcome:
        launches.append(launch)
        names = [order.name for berth in launch.berths for order in berth.workers]
        return Outcome([Worker(name, Record(name), exit=Exit(name, 1, 0, None, 2.0)) for name in names])

    monkeypatch.setattr(attach_module, "run_launch", run)
    monkeypatch.setattr("dagrad_bus.tools.finish.run_launch", run)
    return launches


def test_attach_takes_over_and_says_what_ctrl_c_does(make: Make, launched: list[Launch]) -> None:
    folder = make()
    result = CliRunner().invoke(attach, [str(folder.path), "--no-figures"], catch_exceptions=False)
    assert result.exit_code == 0 and "dagrad: Ctrl-C stops it" in result.stderr
    assert folder.read_run()["launcher"] == os.getpid()
    assert folder.read_run()["launcher_mark"] == mark_process(os.getpid())
    assert not launched[0].stop_at_once


def test_stop_asks_for_nothing_else(make: Make, launched: list[Launch]) -> None:
    folder = make(launch=FACTS["launch"] | {"detach": True})
    result = CliRunner().invoke(stop, [str(folder.path), "--grace", "7"], catch_exceptions=False)
    assert result.exit_code == 0
    assert launched[0].stop_at_once and launched[0].start.grace == 7.0
    assert CliRunner().invoke(stop, [str(folder.path)], catch_exceptions=False).exit_code == 0
    assert len(launched) == 1  # it had ended by then


def test_stop_fails_where_a_host_could_not_be_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(launch: Launch, watcher: Watcher) -> Outcome:
        return Outcome(
            [Worker("local.0", Record("a"), exit=Exit("local.0", 1, 0, None, 2.0)), Worker("local.1", Record("b"))]
        )

    monkeypatch.setattr(attach_module, "run_launch", run)
    folder = make()
    assert CliRunner().invoke(stop, [str(folder.path)], catch_exceptions=False).exit_code == 1


def test_what_has_ended_is_not_attached_to(make: Make, launched: list[Launch]) -> None:
    folder = make(ended=5.0, exits=exits("local.0", "local.1"))
    with pytest.raises(UsageError, match="has ended: dagrad report"):
        CliRunner().invoke(attach, [str(folder.path)], catch_exceptions=False)
    result = CliRunner().invoke(stop, [str(folder.path)], catch_exceptions=False)
    assert result.exit_code == 0 and "has ended already" in result.stderr and not launched


def test_a_launcher_that_is_there_is_left_in_charge(make: Make, launched: list[Launch]) -> None:
    with process("dagrad", "run") as one:
        folder = make(launcher=one.pid)
        with pytest.raises(UsageError, match=f"process {one.pid}: nothing to take over"):
            CliRunner().invoke(attach, [str(folder.path)], catch_exceptions=False)
        result = CliRunner().invoke(stop, [str(folder.path)], catch_exceptions=False)
        assert result.exit_code == 0 and f"process {one.pid}, stops the run" in result.stderr
        assert one.wait(5) == -15 and not launched


def test_the_launcher_of_somebody_else_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    def find(run: Mapping[str, Any]) -> int:
        return 77

    monkeypatch.setattr(attach_module, "living_launcher", find)
    monkeypatch.setattr(os, "kill", refuse)
    with pytest.raises(UsageError, match="process 77, is another user's"):
        CliRunner().invoke(stop, [str(make().path)], catch_exceptions=False)


@pytest.mark.parametrize(("error", "code"), [(StartError("no ssh"), 125), (CommandNotFound("no command"), 127)])
def test_a_known_error_is_a_line_and_a_code(
    make: Make, monkeypatch: pytest.MonkeyPatch, error: StartError, code: int
) -> None:
    def fail(launch: Launch, watcher: Watcher) -> Outcome:
        raise error

    monkeypatch.setattr(attach_module, "run_launch", fail)
    result = CliRunner().invoke(stop, [str(make().path)], catch_exceptions=False)
    assert result.exit_code == code and result.stderr == f"dagrad: {error}\n"
