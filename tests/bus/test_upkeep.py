"""What the bus does by the clock."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import pytest

from dagrad_bus.blocks import Layout
from dagrad_bus.bus.engine import Engine
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.rendezvous import look_up, publish
from dagrad_bus.settings import BeatSettings, Settings

Until = Callable[[Callable[[], object]], Awaitable[None]]
Engines = Callable[..., AbstractAsyncContextManager[list[Engine]]]
MakeSettings = Callable[..., Settings]
FAST = BeatSettings(interval=0.05, silence=0.4)


def gauge(bus: Engine, name: str) -> object:
    return bus.metrics.snapshot()["gauges"].get(name)


@pytest.mark.asyncio
async def test_heartbeats_are_heard_and_their_silence_is_noticed(
    until: Until, settings: MakeSettings, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def say_nothing() -> None:
        """Leave as a crash does."""

    async with Engine(settings(0, 2, beat=FAST), layout) as a:
        async with Engine(settings(1, 2, beat=FAST), layout) as b:
            await until(lambda: gauge(a, "peers") == gauge(b, "peers") == 1)
            b.progress = (Step(7), 2.0, time.monotonic())
            monkeypatch.setattr(b, "_say_goodbye", say_nothing)
        await until(lambda: a.metrics["suspected"] == 1)
        await until(lambda: gauge(a, "peers") == 0)
        async with Engine(settings(1, 2, beat=FAST), layout):
            await until(lambda: a.metrics["recovered"] == 1)


@pytest.mark.asyncio
async def test_the_silence_after_a_goodbye_accuses_nobody(until: Until, settings: MakeSettings, layout: Layout) -> None:
    async with Engine(settings(0, 2, beat=FAST), layout) as a:
        async with Engine(settings(1, 2, beat=FAST), layout) as b:
            await until(lambda: gauge(a, "peers") == gauge(b, "peers") == 1)
        await until(lambda: a.metrics["peers_left"] == 1 and gauge(a, "peers") == 0)
        due = time.monotonic() + 2 * FAST.silence
        await until(lambda: time.monotonic() > due)
        assert a.metrics["suspected"] == 0


@pytest.mark.asyncio
async def test_a_held_loop_is_seen_and_accuses_nobody(until: Until, engines: Engines) -> None:
    async with engines(2, beat=FAST) as (a, b):
        await until(lambda: gauge(a, "peers") == gauge(b, "peers") == 1)
        time.sleep(0.6)  # noqa: ASYNC251  # this is the fault: the loop of both is held
        await until(lambda: (lag := gauge(a, "loop_lag_ms")) is not None and float(str(lag)) > 400)
        assert a.metrics["suspected"] == 0


@pytest.mark.asyncio
async def test_a_newer_address_is_followed_and_an_older_one_is_not(
    until: Until, settings: MakeSettings, layout: Layout
) -> None:
    mine = settings(0, 2)
    folder = mine.directory
    assert folder is not None
    async with Engine(mine, layout) as a, Engine(settings(1, 2), layout) as b:
        await until(lambda: a.states and a.states[0].ready)
        found = look_up(folder, "w1")
        assert found is not None
        publish(folder, replace(found, epoch=found.epoch - 1, inbox="tcp://127.0.0.1:1"))
        publish(folder, replace(found, epoch=found.epoch + 1, beat=found.beat))
        neighbour = a.by_peer[b.self_id]
        await until(lambda: neighbour.address is not None and neighbour.address.epoch == found.epoch + 1)
        assert a.transport.address_of(b.self_id) == b.transport.inbox


@pytest.mark.asyncio
async def test_a_link_without_any_progress_is_connected_anew(
    until: Until, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engines(2) as (a, b):
        await until(lambda: a.states[0].ready and a.by_peer[b.self_id].address)
        calls: list[NodeId] = []

        def connect(peer: NodeId, inbox: str, beat: str) -> None:
            calls.append(peer)

        def is_dead(now: float) -> bool:
            return True

        monkeypatch.setattr(a, "connect", connect)
        monkeypatch.setattr(a.by_peer[b.self_id].out, "is_dead", is_dead)
        await until(lambda: calls)
        assert calls[0] == b.self_id
        assert a.metrics["connections_reset"] >= 1
