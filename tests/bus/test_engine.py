"""Whole buses in one process, over loopback: frames, outcomes, credit, hostile peers, bugs, leaving."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.engine import Engine
from dagrad_bus.codec import Codec, Index, Value
from dagrad_bus.errors import LayoutMismatch, StartError
from dagrad_bus.events import Outgoing
from dagrad_bus.ids import EdgeId, NodeId, Step
from dagrad_bus.settings import LinkSettings, Settings, TransportSettings
from dagrad_bus.wire import CHUNK, Ack, Data, DataHead, HelloOk, Kind, Nack, NackCode, Ping, pack

Until = Callable[[Callable[[], object]], Awaitable[None]]
Engines = Callable[..., AbstractAsyncContextManager[list[Engine]]]
MakeFrame = Callable[..., Outgoing]
MakeSettings = Callable[..., Settings]
MakePuppet = Callable[[Settings], Any]


def all_ready(*buses: Engine) -> bool:
    return all(bus.outlook.states and all(state.ready for state in bus.outlook.states) for bus in buses)


def outcomes(bus: Engine) -> dict[tuple[int, NodeId], bool]:
    """Return the outcomes by (job, link), each of which there is one of."""
    found = {(int(outcome.job), outcome.peer): outcome.accepted for outcome in bus.outlook.outcomes}
    assert len(found) == len(bus.outlook.outcomes)
    return found


def dropped(bus: Engine, reason: str) -> int:
    return bus.metrics[f"frames_dropped.{reason}"]


@pytest.mark.asyncio
async def test_five_workers_come_up_at_once(until: Until, engines: Engines, timeout_factor: float) -> None:
    started = time.monotonic()
    async with engines(5) as buses:
        await until(lambda: all_ready(*buses))
        assert time.monotonic() - started < 2 * timeout_factor
        assert all(len(bus.neighbours) == 4 for bus in buses)
        await until(lambda: all(len(bus.node.membership.view) == 5 for bus in buses))
        leaving = time.monotonic()
    assert time.monotonic() - leaving < 2 * timeout_factor
    assert len(asyncio.all_tasks()) == 1
    assert all(bus._alarm._armed is None for bus in buses)


@pytest.mark.asyncio
@pytest.mark.parametrize("blocks", [3, 40_000], ids=["on the loop", "beside it"])
async def test_frames_arrive_with_their_values_and_each_link_has_one_outcome(
    until: Until, engines: Engines, frame: MakeFrame, blocks: int
) -> None:
    async with engines(3) as buses:
        await until(lambda: all_ready(*buses))
        for job in (1, 2):
            for bus in buses:
                bus.publish(frame(bus, job, range(blocks)))
            await until(lambda want=2 * job: all(len(bus.outlook.outcomes) == want for bus in buses))  # type: ignore[misc]
            await until(lambda: all_ready(*buses))
        for bus in buses:
            assert outcomes(bus) == {(job, peer): True for job in (1, 2) for peer in bus.neighbours}
            arrivals = bus.mailbox.take()
            assert Counter((a.peer, int(a.step)) for a in arrivals) == Counter(outcomes_of_others(buses, bus))
            for arrival in arrivals:
                assert arrival.selection.indices.tolist() == list(range(blocks))
                assert (arrival.selection.values == np.float32(arrival.step)).all()
                assert 0 <= arrival.transit < 5
            assert bus.metrics["frames_accepted"] == 4
            assert bus.metrics["bytes_sent"] > 8 * blocks


def outcomes_of_others(buses: list[Engine], me: Engine) -> list[tuple[NodeId, int]]:
    return [(bus.self_id, job) for bus in buses if bus is not me for job in (1, 2)]


@pytest.mark.asyncio
async def test_every_frame_of_a_busy_exchange_has_one_outcome(until: Until, engines: Engines, frame: MakeFrame) -> None:
    async with engines(4) as buses:
        await until(lambda: all_ready(*buses))
        accepted: Counter[NodeId] = Counter()
        for job in range(1, 101):
            for bus in buses:
                bus.publish(frame(bus, job))
                bus.mailbox.take()
                bus.drained()
            await asyncio.sleep(0)
        await until(lambda: all(len(bus.outlook.outcomes) == 300 for bus in buses))
        for bus in buses:
            found = outcomes(bus)
            assert set(found) == {(job, peer) for job in range(1, 101) for peer in bus.neighbours}
            accepted.update(peer for (_, peer), ok in found.items() if ok)
        assert {bus.self_id: bus.metrics["frames_received"] for bus in buses} == dict(accepted)
        assert min(accepted.values()) > 3


@pytest.mark.asyncio
async def test_credit_stops_while_nobody_empties_the_mailbox_and_returns_at_once(
    until: Until, engines: Engines, frame: MakeFrame
) -> None:
    async with engines(2, link=LinkSettings(window=2, mailbox_frames=4)) as (a, b):
        await until(lambda: all_ready(a, b))
        job = 0
        while job < 20:
            job += 1
            before = len(a.outlook.outcomes)
            a.publish(frame(a, job))
            await until(lambda: len(a.outlook.outcomes) > before)  # noqa: B023  # awaited here
            if not list(a.outlook.outcomes)[-1].accepted:
                break
        assert 4 <= job - 1 <= 4 + 2
        assert b.mailbox.waiting(a.self_id) == job - 1
        assert not a.outlook.states[0].ready
        assert len(b.mailbox.take()) == job - 1
        b.drained()
        started = time.monotonic()
        await until(lambda: all_ready(a))
        assert time.monotonic() - started < 1.0  # by the acknowledgement, not by asking after two seconds
        a.publish(frame(a, 99))
        await until(lambda: b.mailbox.waiting(a.self_id))


@pytest.mark.asyncio
async def test_the_second_of_two_frames_is_acknowledged_at_once(
    until: Until, engines: Engines, frame: MakeFrame
) -> None:
    async with engines(2, link=LinkSettings(window=2, ack_delay=1.0)) as (a, b):
        await until(lambda: all_ready(a, b))
        started = time.monotonic()
        for job in range(1, 9):
            await until(lambda: all_ready(a))
            a.publish(frame(a, job))
            b.mailbox.take()
            b.drained()
        await until(lambda: all_ready(a))
        assert time.monotonic() - started < 0.9
        assert a.metrics["link_stalled"] == 0


@pytest.mark.asyncio
async def test_a_frame_to_nobody_is_lost_at_once(engines: Engines, frame: MakeFrame) -> None:
    stranger = NodeId(b"?" * 16)
    async with engines(2) as (a, _):
        a.publish(frame(a, 1, to=[stranger]))
        a.publish(frame(a, 2))  # the link is not up yet
        a.publish(frame(a, 3, range(40_000), to=[stranger]))
        assert outcomes(a)[1, stranger] is False
        assert outcomes(a)[2, a.neighbours[0]] is False


@pytest.mark.asyncio
async def test_a_worker_alone_needs_nobody(frame: MakeFrame, layout: Layout) -> None:
    async with Engine(Settings(), layout) as bus:
        assert bus.neighbours == ()
        bus.publish(frame(bus, 1))
    assert not bus.outlook.outcomes


@pytest.mark.asyncio
async def test_workers_without_a_folder_are_connected_by_hand(until: Until, engines: Engines) -> None:
    async with engines(2, directory=None) as (a, b):
        a.connect(b.self_id, b.transport.inbox, b.transport.beat)
        await until(lambda: all_ready(a, b))  # b learns the address from the HELLO


@pytest.mark.asyncio
async def test_a_restarted_worker_is_a_new_generation(
    until: Until, settings: MakeSettings, frame: MakeFrame, layout: Layout
) -> None:
    async with Engine(settings(0, 2), layout) as a:
        for generation in (1, 2):
            async with Engine(settings(1, 2), layout) as b:
                await until(lambda: all_ready(a, b))  # awaited here
                assert a.outlook.states[0].generation == generation
                a.publish(frame(a, generation))
                await until(lambda: b.mailbox.waiting(a.self_id))  # awaited here
            await until(
                lambda: not any(state.ready for state in a.outlook.states)
            )  # it is told, or sees the connection break
        assert all(outcomes(a).values())


@pytest.mark.asyncio
async def test_a_port_in_use_is_tried_again_and_then_another_is_told(
    until: Until, settings: MakeSettings, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagrad_bus.bus.engine.BIND_PAUSE", 0.05)
    async with Engine(settings(0, 2), layout) as a:
        port = int(a.transport.inbox.rpartition(":")[2])
        taken = settings(1, 2, transport=TransportSettings(inbox_port=port))
        started = time.monotonic()
        async with Engine(taken, layout) as b:
            assert time.monotonic() - started >= 10 * 0.05
            assert b.metrics["ports_in_use"] == 1
            await until(lambda: all_ready(a, b))


@pytest.mark.asyncio
async def test_a_port_that_is_free_again_is_taken(
    settings: MakeSettings, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagrad_bus.bus.engine.BIND_PAUSE", 0.02)
    with socket.socket() as earlier:
        earlier.bind(("127.0.0.1", 0))
        earlier.listen()
        port = earlier.getsockname()[1]
        asyncio.get_running_loop().call_later(0.05, earlier.close)
        async with Engine(settings(0, 2, transport=TransportSettings(inbox_port=port)), layout) as bus:
            assert bus.transport.inbox.endswith(f":{port}")


@pytest.mark.asyncio
async def test_a_forwarded_port_in_use_is_an_error_and_leaves_nothing(settings: MakeSettings, layout: Layout) -> None:
    async with Engine(settings(0, 2), layout) as a:
        port = int(a.transport.inbox.rpartition(":")[2])
        taken = settings(1, 2, transport=TransportSettings(inbox_port=port, advertise_inbox_port=9))
        with pytest.raises(StartError, match=str(port)):
            await Engine(taken, layout).__aenter__()
    assert len(asyncio.all_tasks()) == 1


# Who is refused ------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_worker_with_another_key_is_kept_out(until: Until, settings: MakeSettings, layout: Layout) -> None:
    async with AsyncExitStack() as stack:
        keys = (b"secret", b"secret", b"guess")
        made = [Engine(settings(n, 3, key=key), layout) for n, key in enumerate(keys)]
        a, b, c = [await stack.enter_async_context(bus) for bus in made]
        await until(lambda: a.outlook.states and sum(state.ready for state in a.outlook.states + b.outlook.states) == 2)
        await until(lambda: all(dropped(bus, "admission") for bus in (a, b, c)))
        assert not any(state.ready for state in c.outlook.states)
        assert [bus.outlook.failure for bus in (a, b, c)] == [None] * 3


@pytest.mark.asyncio
async def test_the_one_that_trains_another_model_is_the_one_that_is_told(
    until: Until, settings: MakeSettings, layout: Layout
) -> None:
    other = Layout((Entry("x", (7,), "float32"),), (), 1)
    async with AsyncExitStack() as stack:
        made = [Engine(settings(n, 4), other if n == 3 else layout) for n in range(4)]
        *most, odd = [await stack.enter_async_context(bus) for bus in made]
        await until(lambda: odd.outlook.failure is not None)
        assert isinstance(odd.outlook.failure, LayoutMismatch)
        assert "no neighbour trains the same model" in str(odd.outlook.failure)
        await until(lambda: all(sum(state.ready for state in bus.outlook.states) == 2 for bus in most))
        assert [bus.outlook.failure for bus in most] == [None] * 3


# Hostile peers -------------------------------------------------------------------------------------------------


def data(edge: EdgeId, seq: int, layout: Layout, values: Any = (1.0,), chunk_ix: int = 0, chunk_n: int = 1) -> Data:
    """Return one chunk of a frame that says block 0 has the first value, and so on."""
    payload = bytes(len(values)) + np.array(values, dtype="<f4").tobytes()
    size = (chunk_n - 1) * CHUNK + 5 if chunk_n > 1 else len(payload)
    if chunk_n > 1:
        payload = bytes(CHUNK if chunk_ix < chunk_n - 1 else 5)
    head = DataHead(
        Kind.STATE,
        layout.digest,
        1,
        len(values),
        Index.GAPS8,
        Value.F32,
        Codec.RAW,
        size,
        size,
        Step(1),
        1.0,
    )
    return Data(edge, seq, chunk_ix, chunk_n, None if chunk_ix else head, payload)


@pytest.mark.asyncio
async def test_what_a_stranger_says_is_counted_and_dropped(
    until: Until, engines: Engines, settings: MakeSettings, puppet: MakePuppet, frame: MakeFrame, layout: Layout
) -> None:
    async with engines(2) as (a, b):
        await until(lambda: all_ready(a, b))
        stranger = puppet(settings(0, 2, key=b"guess"))
        stranger.connect(b)
        hello = pack(stranger.hello)
        stranger.say_parts([b"garbage"])
        stranger.say_parts([b"garbage", b"", b"x", b"y"])
        stranger.say_parts([bytes(36), b"\x80"])
        stranger.say_parts([hello[0], bytes(hello[1])[:-3]])
        stranger.say(data(EdgeId(5), 1, layout), Ping(1))
        stranger.say(stranger.hello)
        await until(lambda: dropped(b, "malformed") >= 4 and dropped(b, "admission") >= 3)
        for _ in range(20):
            stranger.say_parts([b"garbage"])
        await until(lambda: dropped(b, "banned"))
        a.publish(frame(a, 1))
        await until(lambda: b.mailbox.waiting(a.self_id))
        assert stranger.answers() == []


@pytest.mark.asyncio
async def test_a_member_that_breaks_every_rule_hurts_nobody(
    until: Until, settings: MakeSettings, puppet: MakePuppet, frame: MakeFrame, layout: Layout
) -> None:
    async with Engine(settings(0, 3), layout) as a, Engine(settings(1, 3), layout) as b:
        evil = puppet(settings(2, 3))
        edge = evil.connect(b)
        evil.say(data(edge, 1, layout))
        await until(lambda: dropped(b, "admission"))
        evil.say(evil.hello)
        await until(lambda: evil.has(HelloOk))
        evil.say(data(edge, 1, layout))
        await until(lambda: b.mailbox.waiting(evil.identity.node) == 1)
        evil.say(data(edge, 1, layout))
        await until(lambda: dropped(b, "late"))
        parts = pack(data(edge, 2, layout))
        evil.say_parts([*parts[:2], bytes(len(parts[2]))])
        await until(lambda: nacks(evil) == [NackCode.CRC])
        evil.say(data(edge, 3, layout, [float("nan")]))
        await until(lambda: nacks(evil)[1:] == [NackCode.NOT_FINITE])
        evil.say(data(edge, 4, layout, chunk_n=3), data(edge, 4, layout, chunk_ix=2, chunk_n=3))
        await until(lambda: nacks(evil)[2:] == [NackCode.GAP])
        evil.say(data(edge, 1000, layout))
        await until(lambda: nacks(evil)[3:] == [NackCode.OVERLOAD])
        evil.say(data(EdgeId(edge ^ 1), 5, layout))
        await until(lambda: nacks(evil)[4:] == [NackCode.BAD_EDGE])
        evil.say(data(edge, 5, layout, chunk_n=40))
        await until(lambda: nacks(evil)[5:] == [NackCode.TOO_BIG])
        evil.say(data(edge, 6, layout), Ping(1, (1 << 64) - 1, edge), Ping(1, 1 << 63, edge))
        await until(lambda: b.mailbox.waiting(evil.identity.node) == 2)
        await until(lambda: all(s.ready for s in a.outlook.states if s.peer == b.self_id))
        a.publish(frame(a, 1, to=[b.self_id]))
        await until(lambda: b.mailbox.waiting(a.self_id))


def nacks(evil: Any) -> list[int]:
    return [answer.code for answer in evil.answers() if isinstance(answer, Nack)]


@pytest.mark.asyncio
async def test_a_member_that_names_an_impossible_address_is_refused(
    until: Until, settings: MakeSettings, puppet: MakePuppet, layout: Layout
) -> None:
    async with Engine(settings(0, 2), layout) as bus:
        evil = puppet(settings(1, 2))
        evil.connect(bus)
        evil.say(replace(evil.hello, host=""), replace(evil.hello, inbox_port=0))
        await until(lambda: dropped(bus, "malformed") == 2)
        assert bus.outlook.failure is None
        evil.say(evil.hello)
        await until(lambda: evil.has(HelloOk))


@pytest.mark.asyncio
async def test_greeting_again_and_again_does_not_fill_the_decoder(
    until: Until, settings: MakeSettings, puppet: MakePuppet, layout: Layout
) -> None:
    link = LinkSettings(window=2, mailbox_frames=1000)
    async with Engine(settings(0, 2, link=link), layout) as bus:
        evil = puppet(settings(1, 2))
        edge = evil.connect(bus)
        count = 20_000  # over what is decoded on the loop itself
        large = data(edge, 1, layout, np.zeros(count))
        for _ in range(100):
            evil.say(evil.hello, large, replace(large, seq=2))
        await until(lambda: bus.metrics["frames_received"] + dropped(bus, "late") == 200)
        assert bus.metrics["frames_received"] == 2  # no number is used twice, and no credit given twice
        evil.say(replace(evil.hello, edge=edge), Ping(7, 2, edge))
        await until(lambda: any(isinstance(m, Ack) and m.info.resolved == 2 for m in evil.answers()))


# Ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("place", ["received", "connection", "flush", "_unpack", "_submit"])
async def test_a_bug_in_a_callback_ends_the_block(
    until: Until, settings: MakeSettings, frame: MakeFrame, layout: Layout, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bug(RuntimeError):
        pass

    def bug(*args: object, **options: object) -> None:
        raise Bug

    b = Engine(settings(1, 2), layout)
    if place in {"received", "connection"}:
        monkeypatch.setattr(b, place, bug)  # before it starts: on a slow machine all has been said once it has
    with pytest.raises(ExceptionGroup) as caught:
        async with Engine(settings(0, 2), layout) as a, b:
            if place in {"_unpack", "_submit"}:
                await until(lambda: all_ready(a, b))
                if place == "_unpack":
                    monkeypatch.setattr(b._intake._bench, "_work", bug)
                else:
                    monkeypatch.setattr(b._encoder, "_done", bug)
                (a if place == "_unpack" else b).publish(frame(b if place == "_submit" else a, 1, range(40_000)))
            elif place == "flush":
                monkeypatch.setattr(b.node, "flush", bug)
                b.explore(())
            await asyncio.Event().wait()
    assert caught.group_contains(Bug)
    assert b.transport._router.closed
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.asyncio
async def test_a_bug_while_leaving_closes_everything_all_the_same(
    settings: MakeSettings, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug() -> None:
        raise RuntimeError("a bug")

    bus = Engine(settings(0, 2), layout)
    with pytest.raises((RuntimeError, ExceptionGroup)):
        async with bus:
            monkeypatch.setattr(bus, "_say_goodbye", bug)
    assert bus.transport._router.closed
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.asyncio
async def test_leaving_does_not_wait_for_a_peer_that_takes_nothing(
    until: Until, settings: MakeSettings, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = TransportSettings(flush=0.1, codec="raw")
    async with Engine(settings(1, 2), layout) as deaf, AsyncExitStack() as stack:
        bus = await stack.enter_async_context(Engine(settings(0, 2, transport=transport), layout))
        await until(lambda: all_ready(bus, deaf))

        def refuse(peer: NodeId, parts: object) -> bool:
            return False

        monkeypatch.setattr(bus.transport, "send", refuse)
        started = time.monotonic()
        await stack.aclose()
        assert 0.1 <= time.monotonic() - started < 1.0
        assert bus.metrics["unflushed"] == 1


@pytest.mark.asyncio
async def test_neighbours_are_told_of_leaving(until: Until, settings: MakeSettings, layout: Layout) -> None:
    async with Engine(settings(0, 2), layout) as a:
        async with Engine(settings(1, 2), layout) as b:
            await until(lambda: all_ready(a, b))
        await until(lambda: not any(state.ready for state in a.outlook.states))
        assert a.outlook.failure is None


@pytest.mark.asyncio
async def test_what_the_block_raises_comes_out_as_it_is(settings: MakeSettings, layout: Layout) -> None:
    with pytest.raises(KeyError):
        async with Engine(settings(0, 2), layout):
            raise KeyError("the user's own")
