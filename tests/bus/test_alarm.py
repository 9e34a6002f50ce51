"""One timer for all deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dagrad_bus.bus.alarm import Alarm

Until = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.mark.asyncio
async def test_the_earliest_deadline_rings_once(until: Until) -> None:
    loop = asyncio.get_running_loop()
    rung: list[float] = []
    alarm = Alarm(loop, lambda: rung.append(loop.time()), lambda error: None)
    now = loop.time()
    for delay in (30.0, 0.01, 20.0):
        alarm.arm(now + delay)
    alarm.arm(None)
    await until(lambda: rung)
    assert now + 0.009 <= rung[0] < now + 5
    alarm.arm(loop.time())  # it can be armed anew
    await until(lambda: len(rung) == 2)
    alarm.arm(loop.time() + 0.001)
    alarm.disarm()
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert len(rung) == 2


@pytest.mark.asyncio
async def test_what_the_ring_raises_is_reported(until: Until) -> None:
    loop = asyncio.get_running_loop()
    bug, errors = RuntimeError("a bug"), list[Exception]()

    def ring() -> None:
        raise bug

    Alarm(loop, ring, errors.append).arm(loop.time())
    await until(lambda: errors == [bug])
