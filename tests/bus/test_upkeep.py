"""What the bus does by the clock."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from dagrad_bus.blocks import Layout
from dagrad_bus.bus import contacts, upkeep
from dagrad_bus.bus.engine import Engine
from dagrad_bus.errors import RendezvousLost, UsageError
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


def free_port() -> int:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])


@pytest.mark.asyncio
@pytest.mark.parametrize("first", ["first", "last"])
async def test_launched_workers_find_each_other_by_one_seed_alone(
    until: Until, settings: MakeSettings, layout: Layout, first: str, timeout_factor: float
) -> None:
    count, port = 8, free_port()
    order = list(range(count)) if first == "first" else [*range(1, count), 0]
    seeds = (("w0", f"tcp://localhost:{port}"),)  # w0 itself is told the same
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        buses: list[Engine] = []
        for index in order:
            at = TransportSettings(codec="raw", inbox_port=port if index == 0 else 0)
            own = settings(index, count, directory=None, seeds=seeds, transport=at, beat=FAST)
            buses.append(await stack.enter_async_context(Engine(own, layout)))
            await asyncio.sleep(random.uniform(0, 0.05))
        await until(lambda: all(bus.outlook.states and all(s.ready for s in bus.outlook.states) for bus in buses))
        assert time.monotonic() - began < 4 * timeout_factor
        assert all(len(bus.neighbours) == 4 for bus in buses)
        await until(lambda: all(not any(bus.node.membership.is_expected(p) for p in bus.neighbours) for bus in buses))
        assert not any(
            bus.metrics["frames_dropped.malformed"] + bus.metrics["frames_dropped.admission"] for bus in buses
        )


@pytest.mark.asyncio
async def test_a_seed_whose_name_is_not_known_yet_is_asked_again(
    until: Until, settings: MakeSettings, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, str] = {}

    def resolve(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if host not in known:
            raise socket.gaierror(-2, "Name or service not known")
        return [(2, 1, 6, "", (known[host], port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    port = free_port()
    seeds = (("w0", f"tcp://job-0.svc:{port}"),)
    late = settings(1, 2, directory=None, seeds=seeds, beat=FAST)
    async with Engine(late, layout) as b:
        await until(lambda: b.metrics["seeds_unresolved"] >= 2)
        first = settings(0, 2, directory=None, seeds=seeds, beat=FAST, transport=TransportSettings(inbox_port=port))
        async with Engine(first, layout) as a:
            known["job-0.svc"] = "127.0.0.1"
            await until(lambda: gauge(a, "peers") == gauge(b, "peers") == 1)


@pytest.mark.asyncio
async def test_nobody_turns_to_itself_under_another_name(until: Until, settings: MakeSettings, layout: Layout) -> None:
    port = free_port()
    own = settings(0, 2, directory=None, beat=FAST, transport=TransportSettings(inbox_port=port),
                   seeds=(("w1", f"tcp://127.0.0.1:{port}"), ("w0", "tcp://127.0.0.1:9")))  # fmt: skip
    async with Engine(own, layout) as bus:
        due = time.monotonic() + 0.5
        await until(lambda: time.monotonic() > due)
        assert not bus.metrics["connections_made"]


class Board:
    """A rendezvous in memory that can be taken away."""

    place = "a board"

    def __init__(self) -> None:
        self.found: dict[str, Address] = {}
        self.is_gone = False

    def _check(self) -> None:
        if self.is_gone:
            raise RendezvousLost("the board is gone")

    def publish(self, address: Address) -> None:
        self._check()
        self.found[address.name] = address

    def look_up(self, name: str) -> Address | None:
        self._check()
        return self.found.get(name)

    def names(self) -> list[str]:
        self._check()
        return sorted(self.found)


@pytest.mark.asyncio
async def test_any_rendezvous_does_and_its_end_is_no_harm(
    until: Until, settings: MakeSettings, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "SEARCH_SLOW", 0.05)
    board = Board()
    url = {"directory": None, "rendezvous": "torchstore://127.0.0.1:1/x", "beat": FAST}
    async with Engine(settings(0, 2, **url), layout, board) as a, Engine(settings(1, 2, **url), layout, board) as b:
        await until(lambda: gauge(a, "peers") == gauge(b, "peers") == 1)
        board.is_gone = True
        await asyncio.sleep(0.2)
        assert gauge(a, "peers") == 1
    with pytest.raises(UsageError, match="opened by"):
        Engine(settings(0, 2, **url), layout)


@pytest.mark.asyncio
async def test_a_rendezvous_that_is_gone_at_the_start_is_done_without(
    until: Until, settings: MakeSettings, layout: Layout
) -> None:
    board = Board()
    board.is_gone = True
    async with Engine(settings(0, 2, beat=FAST), layout, board) as a, Engine(settings(1, 2, beat=FAST), layout) as b:
        await until(lambda: gauge(a, "peers") == gauge(b, "peers") == 1)
        assert a.metrics["rendezvous_lost"] == 1
        assert [place.place for place in a.places] == [str(a.settings.directory)]


@pytest.mark.asyncio
async def test_of_a_seed_with_many_addresses_each_is_tried(
    until: Until, settings: MakeSettings, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return [(2, 1, 6, "", (each, port)) for each in ("127.0.0.2", "127.0.0.1", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    port = free_port()
    seeds = (("w0", f"tcp://both.example:{port}"),)
    late = settings(1, 2, directory=None, seeds=seeds, beat=FAST)
    first = settings(0, 2, directory=None, seeds=seeds, beat=FAST, transport=TransportSettings(inbox_port=port))
    async with Engine(late, layout) as b, Engine(first, layout) as a:  # nobody listens at the address named first
        await until(lambda: gauge(a, "peers") == gauge(b, "peers") == 1)


@pytest.mark.asyncio
async def test_a_folder_named_as_a_seed_holds_addresses_and_nothing_else(
    until: Until, settings: MakeSettings, layout: Layout, tmp_path: Path
) -> None:
    meet = {"directory": None, "rendezvous": f"file://{tmp_path}/meet", "beat": FAST}
    async with Engine(settings(0, 2, **meet), layout) as a, Engine(settings(1, 2, **meet), layout) as b:
        await until(lambda: gauge(a, "peers") == gauge(b, "peers") == 1)
    assert sorted(path.name for path in (tmp_path / "meet").rglob("*")) == ["peers", "w0.json", "w1.json"]
