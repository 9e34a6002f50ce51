"""Visits to a live run: what is read, what is published, and what is told where there is nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from dagrad_bus.blocks import Layout
from dagrad_bus.bus.engine import Engine
from dagrad_bus.bus.visitor import publish_spec, read_run
from dagrad_bus.errors import UsageError
from dagrad_bus.rendezvous import Address, publish
from dagrad_bus.settings import BeatSettings, Settings
from dagrad_bus.topology.live import TopologySpec

Until = Callable[[Callable[[], object]], Awaitable[None]]
Engines = Callable[..., AbstractAsyncContextManager[list[Engine]]]
FAST = BeatSettings(interval=0.1, silence=1.0)


def make_folder(folder: Path, *, key: bytes = b"secret", topology: str = "hash-rings") -> None:
    (folder / "run.json").write_text(json.dumps({"run": "test", "settings": {"topology": topology, "degree": 4}}))
    (folder / "key").write_bytes(key + b"\n")


def all_up(buses: list[Engine]) -> bool:
    return all(len(bus.outlook.states) == 4 and all(s.ready for s in bus.outlook.states) for bus in buses)


@pytest.mark.asyncio
async def test_the_table_and_the_graph_are_read(until: Until, engines: Engines, tmp_path: Path) -> None:
    make_folder(tmp_path)
    publish(
        tmp_path, Address(name="a.gone", pid=2**22 + 1, epoch=1, inbox="tcp://127.0.0.1:1", beat="tcp://127.0.0.1:2")
    )
    async with engines(6, beat=FAST) as buses:
        await until(lambda: all_up(buses))
        seen = await asyncio.to_thread(read_run, tmp_path)
        assert [record.name for record in seen.present] == [f"w{number}" for number in range(6)]
        assert seen.spec == TopologySpec()
        assert seen.told_by == "w0"
        assert all(len(bus.node.membership.view) == 6 for bus in buses)  # a visitor is no member


@pytest.mark.asyncio
async def test_a_published_graph_is_adopted_by_all(until: Until, engines: Engines, tmp_path: Path) -> None:
    make_folder(tmp_path, topology="complete")
    async with engines(7, beat=FAST, topology="complete", degree=4) as buses:
        await until(lambda: all(len(bus.neighbours) == 6 for bus in buses))
        await until(lambda: all(s.ready for bus in buses for s in bus.outlook.states))
        spec = TopologySpec(kind="hash-rings", epoch=3)
        done = await asyncio.to_thread(publish_spec, tmp_path, spec)
        assert done.version == 1
        assert done.adopted == tuple(f"w{number}" for number in range(7))
        assert done.silent == ()
        assert {bus.node.membership.spec.epoch for bus in buses} == {3}
        assert {len(bus.neighbours) for bus in buses} == {4}
        again = await asyncio.to_thread(publish_spec, tmp_path, TopologySpec(kind="ring"))
        assert again.version == 2


@pytest.mark.asyncio
async def test_without_the_key_nothing_is_told(until: Until, engines: Engines, tmp_path: Path) -> None:
    make_folder(tmp_path, key=b"guess")
    async with engines(2, beat=FAST) as buses:
        await until(lambda: all(bus.outlook.states and bus.outlook.states[0].ready for bus in buses))
        with pytest.raises(UsageError, match="no worker of this run answers"):
            await asyncio.to_thread(read_run, tmp_path, 0.5)
        assert sum(bus.metrics["frames_dropped.admission"] for bus in buses)


def test_a_run_that_has_ended_is_told(tmp_path: Path) -> None:
    make_folder(tmp_path)
    with pytest.raises(UsageError, match="no worker of this run answers"):
        read_run(tmp_path, 0.5)
    with pytest.raises(UsageError, match="is not the folder of a run"):
        read_run(tmp_path / "elsewhere", 0.5)


@pytest.mark.asyncio
async def test_a_visitor_trains_no_model(
    until: Until, settings: Callable[..., Settings], layout: Layout, tmp_path: Path
) -> None:
    make_folder(tmp_path)
    async with Engine(settings(0, 3, beat=FAST), layout) as alone:
        seen = await asyncio.to_thread(read_run, tmp_path)
        assert [record.name for record in seen.members] == ["w0"]  # those expected stay at home
        assert alone.outlook.failure is None
