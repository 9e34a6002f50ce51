"""One direction alone: bits flip at the rate asked for, and never in the handshake."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter

import pytest

from dagrad_bus.faults.conduit import Conduit, Faults
from dagrad_bus.faults.zmtp import GREETING


@pytest.mark.asyncio
async def test_bits_flip_behind_the_handshake_only() -> None:
    ours, source = socket.socketpair()
    sink, theirs = socket.socketpair()
    counts: Counter[str] = Counter()
    with ours, source, sink, theirs:
        for sock in (ours, source, sink, theirs):
            sock.setblocking(False)
        conduit = Conduit(source, sink, random.Random(5), counts, Faults(flip_every=100))
        greeting, body = bytes(GREETING), b"\0\xff" + bytes(255)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(conduit.read())
            group.create_task(conduit.write())
            await loop.sock_sendall(ours, greeting + body * 20)
            ours.shutdown(socket.SHUT_WR)
            got = b""
            while len(got) < len(greeting + body * 20):
                got += await loop.sock_recv(theirs, 1 << 16)
    assert got[:GREETING] == greeting
    flipped = sum((a ^ b).bit_count() for a, b in zip(got, greeting + body * 20, strict=True))
    assert flipped == counts["flips"]
    assert 20 <= flipped <= 100
