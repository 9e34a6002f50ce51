"""The actor's body relays bytes exactly once, however often Ray repeats a call."""

from __future__ import annotations

import asyncio

import pytest

from dagrad_bus.workers.launch.ray_actor import PART, Carrier

pytestmark = pytest.mark.slow


async def take_all(carrier: Carrier, at: int = 0) -> tuple[bytes, str]:
    """Return what the agent prints until its end, and why it ended; every call is made twice."""
    found = b""
    while True:
        data, why = await carrier.take(at)
        assert len(data) <= PART
        assert await carrier.take(at) == (data, why)
        if why is not None:
            return found, why
        found += data
        at += len(data)


@pytest.mark.asyncio
async def test_repeated_calls_do_no_harm() -> None:
    carrier = Carrier()
    pid = await carrier.start(["cat"], {})
    assert await carrier.start(["cat"], {}) == pid
    text = bytes(range(256)) * 2000
    for at in range(0, len(text), 50_000):
        await carrier.feed(at, text[at : at + 50_000])
        await carrier.feed(max(0, at - 10), text[max(0, at - 10) : at + 40_000])  # what it has had already
    await carrier.close()
    assert await take_all(carrier) == (text, "")


@pytest.mark.asyncio
async def test_the_agents_end_is_described() -> None:
    ends = {
        "echo no; echo why >&2; exit 3": (b"no\n", "the agent ended with code 3: why"),
        "kill -TERM $$": (b"", "the agent was ended by SIGTERM"),
        "exit 0": (b"", ""),
    }
    for script, end in ends.items():
        carrier = Carrier()
        await carrier.start(["sh", "-c", script], {})
        assert await take_all(carrier) == end
        await carrier.close()
    nobody = Carrier()
    await nobody.start(["/none"], {})
    assert await take_all(nobody) == (b"", "the agent ended with code 1: /none: No such file or directory")
    await nobody.close()


@pytest.mark.asyncio
async def test_a_slow_taker_holds_the_agent_up_and_loses_nothing() -> None:
    carrier = Carrier()
    await carrier.start(["sh", "-c", "seq 1 200000; echo $DAGRAD_ADVERTISE"], {"DAGRAD_ADVERTISE": "10.0.0.1"})
    first, _ = await carrier.take(0)
    await asyncio.sleep(0.2)
    rest, why = await take_all(carrier, len(first))
    lines = (first + rest).decode().split()
    assert lines[-1] == "10.0.0.1" and lines[:-1] == [str(n) for n in range(1, 200001)]
    assert why == ""
    await carrier.close()


@pytest.mark.asyncio
async def test_the_place_is_told() -> None:
    place = await Carrier().locate()
    assert place["address"] == place["bind"] == "127.0.0.1"  # Ray is not loaded
    assert place["hostname"] and place["python"]
