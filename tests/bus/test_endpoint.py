"""The bus for coroutines: publish and wait for what became of it, iterate over what arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import numpy as np
import pytest

from dagrad_bus.bus import Bus
from dagrad_bus.errors import BusClosed, LayoutMismatch, UsageError
from dagrad_bus.events import Arrival
from dagrad_bus.settings import ExchangeSettings, LinkSettings, Settings

Until = Callable[[Callable[[], object]], Awaitable[None]]
MakeSettings = Callable[..., Settings]
SIZE = 64
BLOCKS = np.arange(3)


def rows(value: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.full((3, 1), value, dtype=np.float32)


async def first(bus: Bus) -> Arrival:
    async for frame in bus.frames():
        return frame
    raise AssertionError("the bus was left before a frame came")


@pytest.mark.asyncio
@pytest.mark.parametrize("blocks", [3, 40_000], ids=["on the loop", "beside it"])
async def test_a_publish_says_who_took_it(settings: MakeSettings, blocks: int, timeout_factor: float) -> None:
    async with asyncio.timeout(10 * timeout_factor), Bus(settings(0, 3), 50_000) as a, Bus(settings(1, 3), 50_000) as b:
        await a.wait_ready(1)
        values = np.full((blocks, 1), 2.5, dtype=np.float32)
        assert await a.publish(np.arange(blocks), values, step=4) == {"w1": True}
        frame = await first(b)
        assert frame.selection.indices.tolist() == list(range(blocks))
        assert (frame.selection.values == 2.5).all()
        assert frame.step == 4
        assert await a.publish(np.arange(3), values[:3], to=["w2"]) == {"w2": False}  # it is not there
        assert await a.publish(BLOCKS[:0], rows(1)[:0]) == {}


@pytest.mark.asyncio
async def test_frames_come_in_order_and_a_slow_reader_gets_less_credit(
    settings: MakeSettings, timeout_factor: float
) -> None:
    link = LinkSettings(window=2, mailbox_frames=3)
    async with asyncio.timeout(10 * timeout_factor), AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(Bus(settings(n, 2, link=link), SIZE)) for n in range(2)]
        await a.wait_ready()
        sent = 0
        while (await a.publish(BLOCKS, rows(sent))).get("w1") and sent < 50:
            sent += 1
        assert 3 <= sent <= 5
        seen = [int((await first(b)).selection.values[0, 0]) for _ in range(sent)]
        assert seen == list(range(sent))
        await a.wait_ready()


@pytest.mark.asyncio
async def test_what_does_not_fit_the_layout_is_refused(settings: MakeSettings) -> None:
    async with Bus(settings(0, 2), SIZE) as bus:
        with pytest.raises(UsageError, match=r"\(3, 1\)"):
            await bus.publish(BLOCKS, rows(1).reshape(1, 3))
        with pytest.raises(UsageError, match="no member"):
            await bus.publish(BLOCKS, rows(1), to=["nobody"])


@pytest.mark.asyncio
async def test_leaving_ends_iterations_and_open_publishes(settings: MakeSettings, timeout_factor: float) -> None:
    frames: list[Arrival] = []
    async with asyncio.timeout(10 * timeout_factor), asyncio.TaskGroup() as group:
        async with Bus(settings(0, 2), SIZE) as bus:

            async def listen() -> None:
                frames.extend([frame async for frame in bus.frames()])

            group.create_task(listen())
            await asyncio.sleep(0)
        with pytest.raises(BusClosed):
            await bus.publish(BLOCKS, rows(1))
    assert frames == []


@pytest.mark.asyncio
async def test_a_model_that_no_neighbour_trains_is_told(settings: MakeSettings, timeout_factor: float) -> None:
    async with asyncio.timeout(10 * timeout_factor), Bus(settings(0, 2), SIZE):
        with pytest.raises(LayoutMismatch):
            async with Bus(settings(1, 2), SIZE + 1) as odd:
                await odd.wait_ready()


@pytest.mark.asyncio
async def test_buses_without_a_folder_are_connected_by_hand(settings: MakeSettings, timeout_factor: float) -> None:
    plain = [settings(n, 2, directory=None, exchange=ExchangeSettings(wire="f32")) for n in range(2)]
    async with asyncio.timeout(10 * timeout_factor), Bus(plain[0], SIZE) as a, Bus(plain[1], SIZE) as b:
        a.connect("w1", *b.endpoints)
        await a.wait_ready()
        await b.wait_ready()
        assert await b.publish(BLOCKS, rows(0.1)) == {"w0": True}
        assert (await first(a)).selection.values[0, 0] == np.float32(0.1)
        assert [link.ready for link in a.links] == [True]
        assert "counters" in a.metrics
