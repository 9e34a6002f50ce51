from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch.channel import Channel, open_channel


def program(tmp_path: Path, *words: str) -> dict[str, Any]:
    """An order to execute ``words``."""
    log = str(tmp_path / "log")
    return {
        "name": "local.0",
        "kind": "program",
        "target": "",
        "words": words,
        "arguments": (),
        "env": dict(os.environ),
        "cwd": str(tmp_path),
        "log": log,
    }


async def receive(channel: Channel, wanted: str) -> dict[str, Any]:
    while (report := await channel.receive_report())["report"] != wanted:
        pass
    return report


@pytest.mark.asyncio
async def test_a_program_is_started_and_its_end_reported(tmp_path: Path) -> None:
    async with open_channel(os.environ, preload=(), grace=1, log=tmp_path / "nursery.log") as channel:
        assert (await channel.receive_report())["imported"] == []
        channel.send_order("start", **program(tmp_path, "sh", "-c", "echo out; echo err >&2; pwd; exit 7"))
        started = await receive(channel, "started")
        exited = await receive(channel, "exited")
    assert (exited["code"], exited["pid"], exited.get("signal")) == (7, started["pid"], None)
    assert (tmp_path / "log").read_text() == f"out\nerr\n{tmp_path}\n"


@pytest.mark.asyncio
async def test_leaving_ends_what_still_runs(tmp_path: Path) -> None:
    async with open_channel(os.environ, preload=(), grace=1, log=tmp_path / "nursery.log") as channel:
        channel.send_order("start", **program(tmp_path, "sleep", "60"))
        pid = (await receive(channel, "started"))["pid"]
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.asyncio
async def test_what_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    async with open_channel(os.environ, preload=(), grace=1, log=tmp_path / "nursery.log") as channel:
        channel.send_order(
            "start", **program(tmp_path, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done")
        )
        await receive(channel, "started")
        channel.send_order("stop", grace=0.2)
        channel.send_order("start", **program(tmp_path, "true"))  # still obeys meanwhile
        exited = [await receive(channel, "exited"), await receive(channel, "exited")]
    assert {report.get("signal") for report in exited} == {9, None} or {15, None}  # 15: before the trap was set


@pytest.mark.asyncio
async def test_a_program_that_cannot_start_says_so_in_its_log(tmp_path: Path) -> None:
    async with open_channel(os.environ, preload=(), grace=1, log=tmp_path / "nursery.log") as channel:
        channel.send_order("start", **program(tmp_path, "no-such-program"))
        assert (await receive(channel, "exited"))["code"] == 127
    assert "no-such-program: No such file" in (tmp_path / "log").read_text()


@pytest.mark.asyncio
async def test_the_end_of_the_nursery_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    async with open_channel(os.environ, preload=(), grace=1, log=tmp_path / "nursery.log") as channel:
        pid = (await receive(channel, "ready"))["pid"]
        (tmp_path / "nursery.log").write_text("last words")
        os.kill(pid, 9)
        with pytest.raises(StartError, match="last words"):
            await channel.receive_report()


@pytest.mark.asyncio
@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
async def test_workers_die_with_a_killed_nursery(tmp_path: Path) -> None:
    async with open_channel(os.environ, preload=(), grace=1, log=tmp_path / "nursery.log") as channel:
        ready = await receive(channel, "ready")
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        channel.send_order("start", **program(tmp_path, "sh", "-c", f"exec sleep 60 > {fifo}"))
        await receive(channel, "started")
        with fifo.open("rb") as alive:  # opens once the worker is up, and ends with it
            os.kill(ready["pid"], 9)
            assert alive.read() == b""
