"""What passes the proxy is what was asked for: late, slow, cut, flipped, repeated, or just the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import zmq

from dagrad_bus.faults.proxy import Proxy

NODE = bytes(range(16))
IDENTITY = b"\1" + NODE + b"eightbyt"
Until = Callable[[Callable[[], object]], Awaitable[None]]


@asynccontextmanager
async def echo() -> AsyncGenerator[tuple[Proxy, int]]:
    """A proxy before a server that sends everything back."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, Proxy(3) as proxy:
        yield proxy, proxy.open("echo", server.sockets[0].getsockname()[:2])


async def talk(port: int, data: bytes) -> tuple[bytes, float]:
    start = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    got = await reader.readexactly(len(data))
    writer.close()
    return got, time.monotonic() - start


@pytest.mark.asyncio
async def test_without_faults_bytes_pass_as_they_are() -> None:
    async with asyncio.timeout(5), echo() as (proxy, port):
        assert (await talk(port, bytes(range(256)) * 40))[0] == bytes(range(256)) * 40
        assert proxy.counts["connections"] == 1


@pytest.mark.asyncio
async def test_delay_and_rate_take_their_time() -> None:
    async with asyncio.timeout(5), echo() as (proxy, port):
        proxy.set(delay=0.05, jitter=0.01)
        assert (await talk(port, b"x" * 100))[1] > 0.08
        proxy.set(delay=0.0, jitter=0.0, rate=50_000.0)
        got, took = await talk(port, b"x" * 10_000)
        assert got == b"x" * 10_000 and took > 0.15


@pytest.mark.asyncio
async def test_what_hangs_passes_later() -> None:
    async with asyncio.timeout(5), echo() as (proxy, port):
        proxy.set("echo", hang=True, direction="down")
        waiting = asyncio.get_running_loop().create_task(talk(port, b"abc"))
        await asyncio.sleep(0.05)
        assert not waiting.done() and proxy.counts["hung"]
        proxy.set("echo", hang=False)
        assert (await waiting)[0] == b"abc"


@pytest.mark.asyncio
async def test_resets_and_cuts_end_connections() -> None:
    async with asyncio.timeout(5), echo() as (proxy, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        assert proxy.cut("echo", after=10) == 1
        writer.write(b"y" * 64)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(64)
        writer.close()
        assert proxy.counts["cut_within"] == 1
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        await reader.read(1)
        assert proxy.reset() == 1
        with pytest.raises(ConnectionError):
            while await reader.read(1):
                pass
        writer.close()


@pytest.mark.asyncio
async def test_a_dead_upstream_ends_the_connection() -> None:
    async with asyncio.timeout(5), Proxy() as proxy:
        port = proxy.open("nobody", ("127.0.0.1", 1))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()


@pytest.mark.slow
@pytest.mark.asyncio
async def test_zeromq_peers_are_known_recorded_and_repeated(until: Until) -> None:
    with zmq.Context() as ctx, ctx.socket(zmq.ROUTER) as router, ctx.socket(zmq.DEALER) as dealer:
        upstream = ("127.0.0.1", router.bind_to_random_port("tcp://127.0.0.1"))
        router.set(zmq.ROUTER_HANDOVER, 1)
        for sock in (router, dealer):
            sock.set(zmq.LINGER, 0)
        dealer.set(zmq.ROUTING_ID, IDENTITY)
        async with asyncio.timeout(10), Proxy() as proxy:
            port = proxy.open("inbox", upstream)
            proxy.record("inbox", 10)
            dealer.connect(f"tcp://127.0.0.1:{port}")
            dealer.send_multipart([b"one", b"a" * 300])
            await until(lambda: router.poll(0))
            assert router.recv_multipart() == [IDENTITY, b"one", b"a" * 300]
            tape = proxy.tape("inbox", NODE.hex())
            assert proxy.replay("inbox", NODE.hex(), list(tape.messages)) == 1
            await until(lambda: router.poll(0))
            assert router.recv_multipart() == [IDENTITY, b"one", b"a" * 300]
            stolen = asyncio.get_running_loop().create_task(
                proxy.impersonate(upstream, tape.handshake, list(tape.messages))
            )
            await until(lambda: router.poll(0))
            assert router.recv_multipart() == [IDENTITY, b"one", b"a" * 300]
            await stolen
            assert proxy.set("inbox", NODE.hex(), hang=True) == 1
            assert proxy.set("inbox", "ff" * 16, hang=True) == 0
