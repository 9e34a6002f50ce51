from __future__ import annotations

import asyncio
import functools
import os
import socket
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch.connection import LIMIT, MOST_UNSENT, Connection, Ledger, open_standard
from dagrad_bus.workers.launch.orders import CalledOff, Drained, Renew, encode


def on_asyncio(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run on the loop of the agent; uvloop ends the process over a file where a pipe should be."""

    @functools.wraps(test)
    def run(*given: Any, **named: Any) -> None:
        asyncio.run(test(*given, **named))

    return run


@asynccontextmanager
async def pair() -> AsyncGenerator[tuple[Connection, Connection]]:
    ends = [await asyncio.open_unix_connection(sock=sock, limit=LIMIT) for sock in socket.socketpair()]
    here, there = (Connection(*end) for end in ends)
    try:
        yield here, there
    finally:
        here.drop()
        there.drop()
        await asyncio.sleep(0)


@on_asyncio
async def test_lines_go_both_ways_until_one_side_ends() -> None:
    async with pair() as (here, there):
        here.send(Renew())
        there.send(Drained())
        assert (await there.read(), await here.read()) == (encode(Renew()), encode(Drained()))
        await here.close()
        await here.close()
        assert await there.read() == b""
        here.send(Renew())  # nobody hears it
        await here.drain()


@on_asyncio
async def test_who_reads_sees_the_end_when_the_line_is_dropped() -> None:
    async with pair() as (here, there):
        here.drop()
        here.drop()
        assert (await here.read(), await there.read()) == (b"", b"")


@on_asyncio
async def test_a_line_without_an_end_is_the_end() -> None:
    async with pair() as (here, there):
        here.write(b"x" * (2 * LIMIT))
        assert await there.read() == b""


@on_asyncio
async def test_draining_waits_while_much_is_unsent() -> None:
    async with pair() as (here, there):
        here.write(b"x" * 999 + b"\n")
        await here.drain()
        for _ in range(64):
            here.write(b"x" * (MOST_UNSENT - 1) + b"\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await here.drain()
        async with asyncio.TaskGroup() as group:
            group.create_task(here.drain())
            for _ in range(65):
                assert await there.read()


@on_asyncio
async def test_a_launcher_that_does_not_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagrad_bus.workers.launch.connection._FAREWELL", 0.05)
    async with pair() as (here, _):
        here.write(b"x" * (8 << 20))
        await here.close()


@on_asyncio
async def test_bytes_are_passed_on() -> None:
    async with pair() as (client, relay), pair() as (onward, server), asyncio.TaskGroup() as group:
        group.create_task(relay.pass_on(onward))
        client.write(b"x" * 500_000 + b"\n")
        assert await server.read() == b"x" * 500_000 + b"\n"
        await client.close()


@on_asyncio
async def test_standard_streams_are_pipes() -> None:
    (source, orders), (reports, target) = os.pipe(), os.pipe()
    line = await open_standard(os.fdopen(source, "rb", buffering=0), os.fdopen(target, "wb", buffering=0))
    os.write(orders, b"one\ntwo\n")
    line.write(b"three\n")
    assert [await line.read(), await line.read()] == [b"one\n", b"two\n"]
    assert os.read(reports, 100) == b"three\n"
    await line.close()
    await asyncio.sleep(0)
    assert os.read(reports, 1) == b""
    os.close(orders)
    os.close(reports)


@on_asyncio
async def test_pipes_that_break_are_the_end(until: Callable[[Callable[[], object]], Awaitable[None]]) -> None:
    (source, orders), (reports, target) = os.pipe(), os.pipe()
    line = await open_standard(os.fdopen(source, "rb", buffering=0), os.fdopen(target, "wb", buffering=0))
    os.close(orders)
    os.close(reports)
    assert await line.read() == b""
    await until(line._writer.is_closing)
    await asyncio.sleep(0.01)
    line.write(b"x")
    await line.drain()
    line.drop()
    await line.close()


@on_asyncio
async def test_a_file_is_no_line() -> None:
    with tempfile.TemporaryFile() as file, pytest.raises(StartError, match="must be pipes"):
        await open_standard(file, file)


def test_reports_are_numbered_and_kept() -> None:
    ledger = Ledger(most=3)
    reports = [ledger.add(CalledOff(name=f"h.{n}", attempt=0)) for n in range(5)]
    assert [report.n for report in reports] == [1, 2, 3, 4, 5]
    assert ledger.after(4) == reports[4:]
    assert ledger.after(0) == reports[2:]  # the oldest are gone
    assert ledger.after(5) == []
