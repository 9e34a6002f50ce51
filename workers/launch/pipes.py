"""Lines to and from an agent, over the standard streams of a process: the agent itself, or an ssh that runs it.

What the process prints to stderr goes to a file, so that nothing has to read it for the agent to go on; the end of it
says why a connection failed.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch.orders import LONGEST_LINE

AGENT = "dagrad_bus.workers.launch.agent"
"""The module that an agent runs."""
_POLL = 0.01
_PATIENCE = 5.0
"""Seconds a process has to end once its stdin was closed."""
_LAST_WORDS = 600
"""Characters of stderr that explain an end."""


class Pipe(Protocol):
    """Both directions to one agent."""

    def write(self, line: bytes) -> None:
        """Send a line; it never waits. That nobody reads any more shows in :meth:`read`."""
        ...

    async def read(self) -> bytes:
        """Return the next line with its newline; nothing at the end."""
        ...

    def describe_end(self) -> str:
        """Return why there is nothing more to read; empty if nobody said."""
        ...


class ProcessPipe:
    """A pipe to a process. Made by :func:`open_process`."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.WriteTransport, errors: Path,
        start: int,
    ) -> None:  # fmt: skip
        self._process = process
        self._reader = reader
        self._writer = writer
        self._errors = errors
        self._start = start
        """Size of the file when the process began: what stands before is of earlier ones."""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def write(self, line: bytes) -> None:
        """Send a line; it never waits."""
        if not self._writer.is_closing():
            self._writer.write(line)

    async def read(self) -> bytes:
        """Return the next line; nothing at the end, which a line over the limit is too."""
        try:
            return await self._reader.readline()
        except (ValueError, ConnectionResetError):
            return b""

    def describe_end(self) -> str:
        """Return the last lines of stderr."""
        with suppress(OSError), self._errors.open("rb") as file:
            file.seek(self._start)
            return file.read()[-_LAST_WORDS:].decode(errors="replace").strip()
        return ""

    async def close(self, *, patience: float, outlives: bool) -> None:
        """Close its stdin and see it out; past the deadline it is killed, unless it is to outlive us."""
        self._writer.close()
        deadline = asyncio.get_running_loop().time() + (0 if outlives else patience)
        try:
            while self._process.poll() is None and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(_POLL)
        finally:  # however this ends, nothing is left behind
            if self._process.poll() is None and outlives:
                self._process.returncode = 0  # it is nobody's child from now on, and no leak
            elif self._process.poll() is None:
                self._process.kill()
                self._process.wait()


@asynccontextmanager
async def open_process(
    words: Sequence[str], *, env: Mapping[str, str], errors: Path, outlives: bool = False
) -> AsyncGenerator[ProcessPipe]:
    """Run ``words`` for the block; leaving it closes stdin, which an agent takes as the end of its launcher.

    Args:
        words: the command line.
        env: its whole environment.
        errors: file to which its stderr is appended.
        outlives: do not wait for its end, nor kill it.

    Raises:
        StartError: it cannot be executed.
    """
    with errors.open("ab") as file:
        start = file.tell()
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  # milliseconds; asyncio's own kills what should outlive it
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=dict(env),
                start_new_session=True,  # a Ctrl-C of the terminal reaches the launcher only
            )
        except OSError as error:
            raise StartError(f"cannot run {words[0]}: {error.strerror}") from None
    try:
        reader, source, writer = await _connect(process)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    pipe = ProcessPipe(process, reader, writer, errors, start)
    patience = _PATIENCE
    try:
        yield pipe
    except asyncio.CancelledError:
        patience = 0.0  # the other side was not told to end, so it will not
        raise
    finally:
        try:
            await pipe.close(patience=patience, outlives=outlives)
        finally:
            if writer.get_write_buffer_size():
                writer.abort()  # what it did not read it will not read
            source.close()


async def _connect(
    process: subprocess.Popen[bytes],
) -> tuple[asyncio.StreamReader, asyncio.ReadTransport, asyncio.WriteTransport]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2 * LONGEST_LINE)
    source, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
    try:
        writer, _ = await loop.connect_write_pipe(asyncio.Protocol, process.stdin)
    except BaseException:
        source.close()
        raise
    return reader, source, writer


def local_agent() -> list[str]:
    """Return the command line of an agent on this host."""
    return [sys.executable, "-u", "-m", AGENT]
