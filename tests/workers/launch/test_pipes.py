from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch import pipes as pipes_module
from dagrad_bus.workers.launch.orders import LONGEST_LINE, Hello, parse_report
from dagrad_bus.workers.launch.pipes import ProcessPipe, local_agent, open_process

Until = Callable[[Callable[[], object]], Awaitable[None]]


def shell(text: str) -> Sequence[str]:
    return ["sh", "-c", text]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def reap(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.fixture
def errors(tmp_path: Path) -> Path:
    return tmp_path / "n1.agent.log"


@pytest.mark.asyncio
async def test_lines_go_both_ways_and_then_it_ends(errors: Path) -> None:
    async with open_process(
        shell("echo $0 $WORD; cat"), env={"WORD": "hi", "PATH": os.environ["PATH"]}, errors=errors
    ) as pipe:
        assert await pipe.read() == b"sh hi\n"
        pipe.write(b"there\n")
        assert await pipe.read() == b"there\n"
        pid = pipe.pid
    assert not is_running(pid)
    pipe.write(b"nobody reads this\n")
    assert await pipe.read() == b""


@pytest.mark.asyncio
async def test_a_line_of_the_greatest_length_passes_and_a_far_longer_one_is_the_end(errors: Path) -> None:
    line = b"x" * (LONGEST_LINE - 1) + b"\n"
    async with open_process(shell("cat"), env=os.environ, errors=errors) as pipe:
        pipe.write(line)
        assert await pipe.read() == line
        pipe.write(b"y" * 3 * LONGEST_LINE)
        assert await pipe.read() == b""


@pytest.mark.asyncio
async def test_the_end_is_explained_by_what_this_process_said_on_stderr(errors: Path) -> None:
    errors.write_text("of an earlier process\n")  # noqa: ASYNC240  # a test
    async with open_process(shell("echo no route >&2; echo to host >&2"), env=os.environ, errors=errors) as pipe:
        assert await pipe.read() == b""
        assert pipe.describe_end() == "no route\nto host"
        errors.unlink()  # noqa: ASYNC240  # a test
        assert pipe.describe_end() == ""


@pytest.mark.asyncio
async def test_what_cannot_be_run_is_named(errors: Path) -> None:
    with pytest.raises(StartError, match="cannot run /nowhere/ssh: No such file"):
        async with open_process(["/nowhere/ssh"], env={}, errors=errors):
            raise AssertionError("it ran")


@pytest.mark.asyncio
async def test_without_a_place_for_stderr_it_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with open_process(shell("true"), env={}, errors=tmp_path / "no" / "folder"):
            raise AssertionError("it ran")


@pytest.mark.asyncio
@pytest.mark.parametrize("unread", [False, True])
async def test_a_process_that_does_not_end_is_killed(
    errors: Path, monkeypatch: pytest.MonkeyPatch, unread: bool
) -> None:
    monkeypatch.setattr(pipes_module, "_PATIENCE", 0.05)
    async with open_process(shell("echo up; exec sleep 60"), env=os.environ, errors=errors) as pipe:
        assert await pipe.read() == b"up\n"
        if unread:
            pipe.write(bytes(1 << 20))  # far more than the kernel keeps
    assert not is_running(pipe.pid)


@pytest.mark.asyncio
async def test_a_process_is_given_the_time_to_end_by_itself(errors: Path, tmp_path: Path) -> None:
    async with open_process(shell(f"cat; sleep 0.05; echo done > {tmp_path}/done"), env=os.environ, errors=errors):
        pass
    assert (tmp_path / "done").read_text() == "done\n"


@pytest.mark.asyncio
async def test_one_that_is_cut_short_is_not_waited_for(errors: Path, until: Until) -> None:
    opened: list[ProcessPipe] = []

    async def hold() -> None:
        async with open_process(shell("exec sleep 60"), env=os.environ, errors=errors) as pipe:
            opened.append(pipe)
            await pipe.read()

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(hold())
        await until(lambda: opened)
        task.cancel()
    assert time.monotonic() - began < 2 and not is_running(opened[0].pid)


@pytest.mark.asyncio
async def test_the_wait_for_its_end_may_be_cut_short_too(errors: Path) -> None:
    opened: list[ProcessPipe] = []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            async with open_process(shell("exec sleep 60"), env=os.environ, errors=errors) as pipe:
                opened.append(pipe)
    assert not is_running(opened[0].pid)


@pytest.mark.asyncio
async def test_what_outlives_us_is_left_alone(errors: Path) -> None:
    words = shell("trap '' HUP; echo up; cat; exec sleep 60")
    async with open_process(words, env=os.environ, errors=errors, outlives=True) as pipe:
        assert await pipe.read() == b"up\n"
    assert is_running(pipe.pid)
    reap(pipe.pid)


@pytest.mark.asyncio
async def test_it_has_a_session_of_its_own(errors: Path) -> None:
    code = "import os; print(os.getsid(0) == os.getpid())"
    async with open_process([sys.executable, "-Ic", code], env={}, errors=errors) as pipe:
        assert await pipe.read() == b"True\n"


@pytest.mark.slow
@pytest.mark.asyncio
async def test_an_agent_of_this_host_says_hello(errors: Path) -> None:
    async with open_process(local_agent(), env=os.environ, errors=errors) as pipe:
        hello = parse_report(await pipe.read())
        assert isinstance(hello, Hello) and hello.pid == pipe.pid
    assert not is_running(pipe.pid)
