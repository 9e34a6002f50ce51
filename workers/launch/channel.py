"""The launcher's end of a nursery: starts it, sends orders, receives reports."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dagrad_bus.errors import StartError

_NURSERY = Path(__file__).with_name("nursery.py")
_LAST_WORDS = 2000
"""Bytes of the nursery's own output shown when it ends unasked."""
_ONE_THREAD = dict.fromkeys(
    (
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
        *("BLOSC_NTHREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS"),
    ),
    "1",
)
"""Thread pools must not exist when the nursery forks."""


class Channel:
    """Orders to a nursery and reports from it (:mod:`dagrad_bus.workers.launch.nursery` has the list)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, log: Path) -> None:
        self._reader = reader
        self._writer = writer
        self._log = log

    def send_order(self, op: str, **order: object) -> None:
        """Send one order; it never waits. A nursery that is gone shows in the reports."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"op": op, **order}).encode() + b"\n")

    async def receive_report(self) -> dict[str, Any]:
        """Return the next report.

        Raises:
            StartError: the nursery has ended; its workers end with it.
        """
        try:
            line = await self._reader.readline()
        except ConnectionResetError:
            line = b""
        if not line:
            words = self._log.read_bytes()[-_LAST_WORDS:].decode(errors="replace").strip()
            raise StartError("the nursery has ended, and the workers with it" + (f":\n{words}" if words else ""))
        report: dict[str, Any] = json.loads(line)
        return report


@asynccontextmanager
async def open_channel(
    env: Mapping[str, str], *, preload: Sequence[str], grace: float, log: Path, lock: int | None = None
) -> AsyncGenerator[Channel]:
    """Start a nursery for the block; leaving the block ends it and every worker that is left.

    Args:
        env: environment of the nursery, which decides what an interpreter reads once (PYTHONPATH, PYTHONHASHSEED).
        preload: modules it imports before it forks.
        grace: seconds between SIGTERM and SIGKILL when this process dies.
        log: file for the nursery's own output.
        lock: descriptor that the nursery inherits and keeps open as long as it or a worker lives.
    """
    ours, theirs = socket.socketpair()
    config = {"fd": theirs.fileno(), "lock": lock, "preload": list(preload), "grace": grace, "notes": []}
    with log.open("wb") as output, theirs:
        process = subprocess.Popen(  # noqa: ASYNC220  # milliseconds, once, and nothing else runs yet
            [sys.executable, "-u", str(_NURSERY), json.dumps(config)],
            pass_fds=[theirs.fileno(), *([] if lock is None else [lock])],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C of the terminal reaches the launcher only
            env={**env, **_ONE_THREAD},
        )
    reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 20)
    try:
        yield Channel(reader, writer, log)
    finally:
        writer.close()
        await _await_end(process, grace + 5)


async def _await_end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until the nursery has seen its stream end and left; past the deadline kill it, workers follow."""
    deadline = asyncio.get_running_loop().time() + seconds
    while process.poll() is None:
        if asyncio.get_running_loop().time() > deadline:
            process.kill()
            process.wait()
            return
        await asyncio.sleep(0.01)
