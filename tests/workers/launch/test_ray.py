"""The launcher's side of Ray, with a stand-in for the driver process; the real one is in tests/cluster."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.errors import StartError, UsageError
from dagrad_bus.workers.launch.pipes import AGENT
from dagrad_bus.workers.launch.ray import Bundle, _hint, _last_words, open_ray
from dagrad_bus.workers.launch.ray_driver import TRAILER


@pytest.fixture
def folder() -> Generator[Path]:
    """A folder whose path is short enough for a socket."""
    made = Path(tempfile.mkdtemp(prefix="dgr"))
    yield made
    shutil.rmtree(made)


def bundle_in(folder: Path) -> Bundle:
    return Bundle("n1", "10.0.0.1", "n1", "python", 2, folder / "agents", folder / "ray.log")


class Driver:
    """Echoes lines; ``end`` ends the agent, ``vanish`` the driver."""

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []
        self.hung_up = asyncio.Event()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.orders.append(json.loads(await reader.readline()))
        while line := await reader.readline():
            if line == b"end\n":
                writer.write(TRAILER + json.dumps("Ray: the node is lost").encode() + b"\n")
            if line in {b"end\n", b"vanish\n"}:
                break
            writer.write(line)
        self.hung_up.set()
        writer.close()


@pytest.mark.asyncio
async def test_lines_pass_and_the_trailer_says_why(folder: Path) -> None:
    driver, bundle = Driver(), bundle_in(folder)
    async with await asyncio.start_unix_server(driver.carry, bundle.listen, limit=1 << 21):
        async with bundle.open_pipe() as pipe:
            for line in (b"one\n", b"x" * 1_000_000 + b"\n"):
                pipe.write(line)
                assert await pipe.read() == line
            pipe.write(b"end\n")
            assert await pipe.read() == b""
            assert pipe.describe_end() == "Ray: the node is lost"
        assert driver.orders == [{"bundle": 2, "words": ["", "-u", "-m", AGENT]}]


@pytest.mark.asyncio
async def test_a_driver_that_vanishes_is_told_by_its_last_line(folder: Path) -> None:
    driver, bundle = Driver(), bundle_in(folder)
    bundle.errors.write_text("earlier\nno control service within 60 seconds\n\n")
    async with (
        await asyncio.start_unix_server(driver.carry, bundle.listen, limit=1 << 21),
        bundle.open_pipe(["agent"]) as pipe,
    ):
        pipe.write(b"vanish\n")
        assert await pipe.read() == b""
        assert pipe.describe_end() == "the Ray driver has ended: no control service within 60 seconds"
    bundle.listen.unlink(missing_ok=True)
    with pytest.raises(OSError, match="the Ray driver has ended"):
        async with bundle.open_pipe():
            pass


@pytest.mark.asyncio
async def test_leaving_the_block_hangs_up(folder: Path) -> None:
    driver, bundle = Driver(), bundle_in(folder)
    async with await asyncio.start_unix_server(driver.carry, bundle.listen, limit=1 << 21):
        async with bundle.open_pipe() as pipe:
            pipe.write(b"one\n")
            assert await pipe.read() == b"one\n"
        async with asyncio.timeout(5):
            await driver.hung_up.wait()


@pytest.mark.asyncio
async def test_without_ray_the_user_is_told_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        assert name == "ray"

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(StartError, match=r"pip install dagrad-bus\[ray\]"):
        async with open_ray(2, errors=folder / "ray.log"):
            pass
    with pytest.raises(UsageError, match="PACK, SPREAD, STRICT_SPREAD"):
        async with open_ray(2, errors=folder / "ray.log", strategy="TIGHT"):  # type: ignore[arg-type]  # on purpose
            pass


def test_a_host_name_becomes_part_of_a_workers_name() -> None:
    assert [_hint(name) for name in ("n1.cluster.local", "a_b-c", "ä ö", "", "x" * 40)] == [
        *("n1", "a_b-c", "---", "ray", "x" * 20)
    ]
    assert _last_words("gone", Path("/nonexistent")) == "gone"
