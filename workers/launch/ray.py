"""Ray as a carrier of agents: one actor a worker, spread by a placement group; Ray starts them and does no more.

Membership, the exchange and the metrics never pass through Ray. Its control service may start workers; while it is
gone none start, and those that train go on for as long as Ray lets their actors live. The launcher does not become a
Ray driver: :mod:`dagrad_bus.workers.launch.ray_driver` is one, in a process of its own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dagrad_bus.errors import StartError, UsageError
from dagrad_bus.workers.launch.orders import LONGEST_LINE
from dagrad_bus.workers.launch.pipes import AGENT
from dagrad_bus.workers.launch.ray_driver import TRAILER, Wish

Strategy = Literal["PACK", "SPREAD", "STRICT_SPREAD"]
STRATEGIES: tuple[Strategy, ...] = ("PACK", "SPREAD", "STRICT_SPREAD")
"""As few nodes as hold them; as many as there are; a node for each, or nothing."""
INSTALL = "pip install dagrad-bus[ray]"
_CONNECTING = 60.0
"""Seconds to connect to a cluster and start the actors, beyond the wait for room."""
_FAREWELL = 15.0
"""Seconds the driver has to remove what it made."""
_LAST_WORDS = 600
"""Bytes of the driver's output in which the line is looked for that explains its end."""
_LONGEST_HINT = 20


class RayPipe:
    """Lines to and from the agent of one bundle. Made by :meth:`Bundle.open_pipe`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, errors: Path) -> None:
        self._reader = reader
        self._writer = writer
        self._errors = errors
        self._why: str | None = None

    def write(self, line: bytes) -> None:
        """Send a line; it never waits."""
        if not self._writer.is_closing():
            self._writer.write(line)

    async def read(self) -> bytes:
        """Return the next line; nothing at the end, which a line over the limit is too."""
        try:
            line = await self._reader.readline()
        except (ValueError, ConnectionError):
            return b""
        if line.startswith(TRAILER):
            self._why = str(json.loads(line.removeprefix(TRAILER)))
            return b""
        return line

    def describe_end(self) -> str:
        """Return why there is nothing more to read; empty if the agent ended well."""
        if self._why is not None:
            return self._why
        return _last_words("the Ray driver has ended", self._errors)

    async def close(self) -> None:
        """Hang up: the agent's stdin ends."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@dataclass(frozen=True, slots=True)
class Bundle:
    """Room for one worker somewhere in the cluster."""

    label_hint: str
    """Host name without its domain, made fit for a worker's name; bundles of one node have the same."""
    address: str
    """IP address of the node, as Ray knows it. After the loss of the node the bundle may move to another."""
    hostname: str
    python: str
    """Interpreter there."""
    number: int
    """From 0."""
    listen: Path = field(repr=False)
    errors: Path = field(repr=False)

    @asynccontextmanager
    async def open_pipe(self, words: Sequence[str] = ()) -> AsyncGenerator[RayPipe]:
        """Start an agent in the bundle for the block; leaving it ends the agent's stdin.

        May be entered again when an agent has gone. Lost nodes show in :meth:`RayPipe.read`. The agent has
        ``DAGRAD_ADVERTISE`` and ``DAGRAD_BIND`` in its environment: the address of the node on which it really runs.

        Args:
            words: command line to run instead of the agent's; an empty first word is the interpreter there.

        Raises:
            OSError: the driver has ended.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.listen), limit=2 * LONGEST_LINE)
        except OSError:
            raise OSError(_last_words("the Ray driver has ended", self.errors)) from None
        pipe = RayPipe(reader, writer, self.errors)
        order = {"bundle": self.number, "words": list(words) or ["", "-u", "-m", AGENT]}
        pipe.write(json.dumps(order).encode() + b"\n")
        try:
            yield pipe
        finally:
            await pipe.close()


@asynccontextmanager
async def open_ray(
    count: int, *, errors: Path, cpus: float = 1.0, gpus: float = 0.0, strategy: Strategy = "PACK", address: str = "",
    patience: float = 60.0,
) -> AsyncGenerator[list[Bundle]]:  # fmt: skip
    """Reserve room for ``count`` workers in a Ray cluster for the block.

    Args:
        count: bundles, one a worker.
        errors: file to which all that Ray prints is appended.
        cpus: of each bundle, as Ray counts them.
        gpus: of each bundle; Ray sets ``CUDA_VISIBLE_DEVICES``.
        strategy: see :data:`STRATEGIES`.
        address: ``host:port`` of the cluster; empty: ``RAY_ADDRESS``, or the cluster that this host is part of.
        patience: seconds to wait until the cluster has room, which an autoscaler may have to make.

    Raises:
        StartError: Ray is not installed, no cluster answers, or it has no room.
        UsageError: there is no such strategy.
    """
    if strategy not in STRATEGIES:
        raise UsageError(f"strategy {strategy!r}: one of {', '.join(STRATEGIES)}")
    if importlib.util.find_spec("ray") is None:
        raise StartError(f"Ray is not installed here: {INSTALL}")
    folder = Path(tempfile.mkdtemp(prefix="dagrad-ray-"))  # mode 0700: nobody else connects
    listen = folder / "agents"
    wish = Wish(
        count=count, cpus=cpus, gpus=gpus, strategy=strategy, address=address, listen=str(listen), patience=patience
    )
    process = await _start_driver(wish, errors)
    farewell = 0.0
    try:
        async with asyncio.timeout(_CONNECTING + patience):
            places = await _receive_places(process, errors)
        farewell = _FAREWELL
        yield [
            Bundle(_hint(place["hostname"]), place["address"], place["hostname"], place["python"], n, listen, errors)
            for n, place in enumerate(places)
        ]
    except TimeoutError:
        if farewell:
            raise
        raise StartError(_last_words("the Ray cluster does not answer", errors)) from None
    finally:
        await _end_driver(process, farewell)
        shutil.rmtree(folder, ignore_errors=True)


async def _start_driver(wish: Wish, errors: Path) -> asyncio.subprocess.Process:
    with errors.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", "-m", "dagrad_bus.workers.launch.ray_driver", str(os.getpid())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,  # a Ctrl-C of the terminal reaches the launcher only
        )
    if process.stdin is not None:
        process.stdin.write(json.dumps(asdict(wish)).encode() + b"\n")
    return process


async def _receive_places(process: asyncio.subprocess.Process, errors: Path) -> list[dict[str, Any]]:
    """Return where the driver has found room.

    Raises:
        StartError: it found none, or has ended.
    """
    line = await process.stdout.readline() if process.stdout is not None else b""
    if not line:
        raise StartError(_last_words("the Ray driver has ended", errors))
    reply = json.loads(line)
    if "error" in reply:
        raise StartError(reply["error"])
    places: list[dict[str, Any]] = reply["bundles"]
    return places


async def _end_driver(process: asyncio.subprocess.Process, seconds: float) -> None:
    """Close the driver's stdin and see it out; past the deadline it is killed, and Ray removes what it had."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _last_words(what: str, errors: Path) -> str:
    """Return ``what`` with the last line of a file."""
    lines: list[str] = []
    with suppress(OSError):
        lines = errors.read_bytes()[-_LAST_WORDS:].decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{what}: {last}" if last else what


def _hint(hostname: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", hostname.split(".")[0])[:_LONGEST_HINT] or "ray"
