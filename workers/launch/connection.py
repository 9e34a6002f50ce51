"""The agent's end of a line to a launcher: its standard streams, or a socket by which one came back."""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from contextlib import suppress
from dataclasses import replace
from typing import IO

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch.orders import (
    LONGEST_LINE,
    CalledOff,
    Exited,
    Located,
    Order,
    Report,
    Started,
    encode,
)

LIMIT = 2 * LONGEST_LINE
"""Bytes that a line may have before it is taken for the end."""
MOST_UNSENT = 256 << 10
"""Bytes in the output buffer above which files wait."""
_FAREWELL = 2.0
"""Seconds that closing waits for what is in the buffer."""
_MOST_KEPT = 100_000
_PIECE = 64 << 10

Numbered = Started | Exited | CalledOff | Located


class Connection:
    """Lines to and from one launcher."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: asyncio.ReadTransport | None = None
    ) -> None:
        """Take both directions; ``source`` is the transport below ``reader`` where it is not the writer's."""
        self._reader = reader
        self._writer = writer
        self._source = source
        self._is_closed = False
        writer.transport.set_write_buffer_limits(high=MOST_UNSENT)

    async def read(self) -> bytes:
        """Return the next line with its newline; nothing at the end, which a line far over the limit is too."""
        try:
            return await self._reader.readline()
        except (ValueError, OSError):
            return b""

    def send(self, message: Report | Order) -> None:
        """Send one message; it never waits, and a launcher that is gone does not hear it."""
        self.write(encode(message))

    def write(self, data: bytes) -> None:
        """Send bytes; it never waits."""
        if not self._writer.is_closing():
            self._writer.write(data)

    async def drain(self) -> None:
        """Wait until little is unsent, or the launcher is gone."""
        with suppress(OSError):
            await self._writer.drain()

    def drop(self) -> None:
        """End it at once; whoever reads sees the end."""
        if not self._is_closed:
            self._abort()
            self._close_reader()

    def _abort(self) -> None:
        if not self._writer.transport.is_closing():  # a pipe that broke by itself cannot be aborted any more
            self._writer.transport.abort()

    def _close_reader(self) -> None:
        self._is_closed = True
        if self._source is not None:
            self._source.close()
        self._reader.feed_eof()

    async def close(self) -> None:
        """End it once all was sent; a launcher that does not read is not waited for."""
        if self._is_closed:
            return
        self._writer.close()
        try:
            async with asyncio.timeout(_FAREWELL):
                with suppress(OSError):
                    await self._writer.wait_closed()
        except TimeoutError:
            self._writer.transport.abort()
        self._close_reader()

    async def pass_on(self, other: Connection) -> None:
        """Send to ``other`` what comes in, until this one ends."""
        with suppress(OSError):
            while data := await self._reader.read(_PIECE):
                other.write(data)
                await other.drain()


async def open_standard(source: IO[bytes], target: IO[bytes]) -> Connection:
    """Return the line over two pipes (or sockets).

    Raises:
        StartError: one of them is a file or a terminal.
    """
    for file in (source, target):
        mode = os.fstat(file.fileno()).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            raise StartError("stdin and stdout must be pipes: an agent is started by dagrad run")
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LIMIT)
    incoming, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), target
    )
    return Connection(reader, asyncio.StreamWriter(transport, protocol, None, loop), incoming)


class Ledger:
    """Reports that must not get lost, numbered from 1; the latest 100 000 are kept for a launcher that comes back."""

    def __init__(self, most: int = _MOST_KEPT) -> None:
        self._kept: deque[Numbered] = deque(maxlen=most)
        self._last = 0

    def add(self, report: Numbered) -> Numbered:
        """Keep a report and return it with its number."""
        self._last += 1
        numbered = replace(report, n=self._last)
        self._kept.append(numbered)
        return numbered

    def after(self, seen: int) -> list[Numbered]:
        """Return those with a higher number."""
        return [report for report in self._kept if report.n > seen]
