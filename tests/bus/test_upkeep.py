"""What the bus does by the clock."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from dagrad_bus.blocks import Layout
from dagrad_bus.bus import contacts, upkeep
from dagrad_bus.bus.engine import Engine
from dagrad_bus.rendezvous import Address, publish
from dagrad_bus.settings import BeatSettings, Settings, TransportSettings

Until = Callable[[Callable[[], object]], Awaitable[None]]
Engines = Callable[..., AbstractAsyncContextManager[list[Engine]]]
MakeSettings = Callable[..., Settings]
FAST = BeatSettings(interval=0.05, silence=0.4)


def gauge(bus: Engine, name: str) -> object:
    return bus.metrics.snapshot()["gauges"].get(name)


@pytest.mark.asyncio
async def test_a_crash_is_noticed_and_a_restart_welcome(
    until: Until, settings: MakeSettings, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def say_nothing() -> None:
        """Leave as a crash does."""

    async with Engine(settings(0, 2, beat=FAST), layout) as a:
        async with Engine(settings(1, 2, beat=FAST), layout) as b:
            await until(lambda: gauge(a, "peers") == gauge(b, "peers") == 1)
            monkeypatch.setattr(b, "_say_goodbye", say_nothing)
        await until(lambda: a.metrics["members_changed.dead"] == 1)
        await until(lambda: gauge(a, "peers") == 0)
        async with Engine(settings(1, 2, beat=FAST), layout):
            await until(lambda: a.metrics["members_changed.rejoined"] == 1)
            await until(lambda: gauge(a, "peers") == 1)
    assert [event.kind for event in a.outlook.events][:2] == ["alive", "suspect"]


@pytest.mark.asyncio
async def test_the_silence_after_a_goodbye_accuses_nobody(until: Until, settings: MakeSettings, layout: Layout) -> None:
    async with Engine(settings(0, 2, beat=FAST), layout) as a:
        async with Engine(settings(1, 2, beat=FAST), layout) as b:
            await until(lambda: gauge(a, "peers") == gauge(b, "peers") == 1)
        await until(lambda: a.metrics["members_changed.left"] == 1 and gauge(a, "peers") == 0)
        due = time.monotonic() + 2 * FAST.silence
        await until(lambda: time.monotonic() > due)
        assert a.metrics["members_changed.suspect"] == 0


@pytest.mark.asyncio
async def test_a_held_loop_is_seen_and_accuses_nobody(until: Until, engines: Engines) -> None:
    async with engines(2, beat=FAST) as (a, b):
        await until(lambda: gauge(a, "peers") == gauge(b, "peers") == 1)
        time.sleep(0.7)  # noqa: ASYNC251  # this is the fault: the loop of both is held
        await until(lambda: (lag := gauge(a, "loop_lag_ms")) is not None and float(str(lag)) > 400)
        assert a.metrics["loop_stalls"] >= 1
        assert a.metrics["members_changed.suspect"] == 0


@pytest.mark.asyncio
async def test_a_worker_that_was_not_launched_joins_by_the_run_folder(
    until: Until, settings: MakeSettings, engines: Engines, layout: Layout
) -> None:
    async with engines(3, beat=FAST) as launched:
        late = replace(settings(0, 3, beat=FAST), name="late")
        async with Engine(late, layout) as joiner:
            await until(lambda: all(len(bus.node.membership.view) == 4 for bus in launched))
            await until(lambda: sum(state.ready for state in joiner.outlook.states) == 3)


@pytest.mark.asyncio
async def test_a_worker_that_was_not_launched_joins_by_a_seed(
    until: Until, settings: MakeSettings, engines: Engines, layout: Layout
) -> None:
    async with engines(3, beat=FAST) as launched:
        seeds = (("w1", launched[1].transport.inbox),)
        late = replace(settings(0, 1, beat=FAST), name="late", members=(), directory=None, seeds=seeds)
        async with Engine(late, layout) as joiner:
            await until(lambda: sum(state.ready for state in joiner.outlook.states) == 3)
            assert joiner.node.membership.view == launched[0].node.membership.view


@pytest.mark.asyncio
@pytest.mark.parametrize("launched_with", [(), ("a0", "a1", "a2", "w0")])
async def test_whoever_finds_only_the_departed_asks_on(
    until: Until,
    settings: MakeSettings,
    engines: Engines,
    layout: Layout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    launched_with: tuple[str, ...],
) -> None:
    monkeypatch.setattr(upkeep, "ASK_OTHERS", 0.2)
    for gone in ("a0", "a1", "a2"):
        publish(tmp_path, Address(name=gone, pid=1, epoch=1, inbox="tcp://127.0.0.1:9", beat="tcp://127.0.0.1:9"))
    async with engines(2, beat=FAST) as (w0, _):
        late = replace(settings(0, 2, beat=FAST), name="late", members=launched_with)
        async with Engine(late, layout) as joiner:
            await until(lambda: joiner.self_id in w0.node.membership.view)
            await until(lambda: w0.self_id in joiner.node.membership.table)


@pytest.mark.asyncio
async def test_a_seed_that_starts_late_is_found(
    until: Until, settings: MakeSettings, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "SEARCH_SLOW", 0.1)
    monkeypatch.setattr(contacts, "PROBE_LIFE", 0.3)  # what nobody needs is closed after so long
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    seeds = (("w0", f"tcp://127.0.0.1:{port}"),)
    late = replace(settings(0, 1, beat=FAST), name="late", members=(), directory=None, seeds=seeds)
    async with Engine(late, layout) as joiner:
        due = time.monotonic() + 0.8
        await until(lambda: time.monotonic() > due)
        first = settings(0, 2, beat=FAST, transport=TransportSettings(inbox_port=port))
        async with Engine(first, layout) as w0:
            await until(lambda: joiner.self_id in w0.node.membership.view)
