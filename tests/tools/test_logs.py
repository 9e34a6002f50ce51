"""``dagrad logs``: which lines, in which order and form, and until when."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dagrad_bus.errors import UsageError
from dagrad_bus.rendezvous import Address, publish
from dagrad_bus.tools import logs as module
from dagrad_bus.tools.logs import Line, Source, is_deserted, logs, make_printer
from dagrad_bus.workers.launch.folder import RunFolder, create

GONE = 2**22 + 1
NAMES = ["local.0", "local.2", "local.10"]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = create(tmp_path / "run", run="r", names=NAMES, facts={"host": socket.gethostname(), "launcher": GONE})
    for name in NAMES:
        made.log(name).write_text("".join(f"step {step} of {name}\n" for step in range(1, 4)))
    (made.path / "logs" / "local.2.err").write_text("Warning: hot\r\n")
    (made.path / "logs" / "nursery.log").write_text("not a worker\n")
    return made


@pytest.fixture
def run(folder: RunFolder) -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(logs, [str(folder.path), *words])


def test_all_is_shown_worker_by_worker(run: Callable[..., Result]) -> None:
    lines = run().output.splitlines()
    assert lines[0] == "local:0| step 1 of local.0"
    assert [line.split("|")[0] for line in lines] == ["local:0"] * 3 + ["local:2"] * 4 + ["local:10"] * 3
    assert lines[6] == "local:2| Warning: hot"


def test_some_workers_lines_and_streams(run: Callable[..., Result]) -> None:
    assert run("local.10", "--tail", "1").output == "local:10| step 3 of local.10\n"
    assert run("--grep", "(?i)STEP 2", "local.0", "local.2").output.count("\n") == 2
    assert run("--stderr-only").output == "local:2| Warning: hot\n"
    assert run("--tail", "0").output == ""
    said = [json.loads(line) for line in run("--json", "--tail", "1", "local.2").output.splitlines()]
    assert said == [{"schema": "dagrad.logs/1", "worker": "local.2", "stream": "stderr", "text": "Warning: hot"}]


@pytest.mark.parametrize(
    ("words", "message"), [(["local.7"], "there are local.0, local.2, local.10"), (["--grep", "("], "no regular")]
)
def test_what_cannot_be_is_told(words: list[str], message: str, run: Callable[..., Result]) -> None:
    result = run(*words)
    assert isinstance(result.exception, UsageError) and message in str(result.exception)


def test_following_takes_what_comes_and_whoever_joins(folder: RunFolder) -> None:
    source = Source(folder, streams=("stdout",))
    assert len(list(source.lines(final=False))) == 9
    with folder.log("local.0").open("a") as log:
        log.write("whole\npart")
    folder.update_run(workers=[*NAMES, "local.11"])
    folder.log("local.11").write_text("new\n")
    assert list(source.lines(final=False)) == [
        Line("local.0", "stdout", "whole"), Line("local.11", "stdout", "new"),
    ]  # fmt: skip
    assert [line.text for line in source.lines(final=True)] == ["part"]


def test_following_ends_with_the_run(run: Callable[..., Result], folder: RunFolder) -> None:
    folder.update_run(ended=1.0)
    with folder.log("local.0").open("a") as log:
        log.write("last words")
    result = run("-f", "local.0", "--tail", "1")
    assert (result.exit_code, result.output) == (0, "local:0| step 3 of local.0\nlocal:0| last words\n")


def test_following_ends_where_nobody_is_left(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, folder: RunFolder
) -> None:
    monkeypatch.setattr(module, "QUIET", 0.0)
    result = run("-f", "local.0")
    assert result.exit_code == 0
    assert "launcher and workers are gone" in result.output
    assert is_deserted(folder, folder.read_run())


def test_a_run_is_not_deserted_while_somebody_lives_or_is_far_away(folder: RunFolder) -> None:
    run = folder.read_run()
    assert not is_deserted(folder, run | {"host": "elsewhere"})
    assert not is_deserted(folder, run | {"launcher": os.getpid()})
    for pid, host, deserted in (
        (GONE, "127.0.0.1", True),
        (os.getpid(), "127.0.0.1", False),
        (GONE, "10.0.0.7", False),
    ):
        publish(folder.path, Address(name="local.0", pid=pid, epoch=1, inbox=f"tcp://{host}:1", beat=f"tcp://{host}:2"))
        assert is_deserted(folder, run) == deserted


def test_colours_are_those_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    printer = make_printer(["local.0", "local.1"], as_json=False, colour=True)
    printer(Line("local.1", "stdout", "text"))
    printer(Line("joined", "stdout", "text"))
    assert capsys.readouterr().out == "\x1b[33mlocal:1|\x1b[0m text\n\x1b[34mjoined|\x1b[0m text\n"
