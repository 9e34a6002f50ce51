"""A look at a whole run: who is heard, what links carry, what is said of those that are silent."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from dagrad_bus.bus import survey as module
from dagrad_bus.bus.approach import Approach, from_folder, read_seeds
from dagrad_bus.bus.engine import Engine
from dagrad_bus.bus.survey import open_survey
from dagrad_bus.errors import NobodyAnswers, UsageError
from dagrad_bus.events import Outgoing
from dagrad_bus.rendezvous import Address, publish
from dagrad_bus.settings import BeatSettings
from dagrad_bus.wire import LinkPhase

Until = Callable[[Callable[[], object]], Awaitable[None]]
Engines = Callable[..., AbstractAsyncContextManager[list[Engine]]]
FAST = BeatSettings(interval=0.1, silence=1.0)


@pytest.fixture
def approach(tmp_path: Path) -> Approach:
    (tmp_path / "run.json").write_text(json.dumps({"run": "test", "settings": {}}))
    (tmp_path / "key").write_bytes(b"secret\n")
    return from_folder(tmp_path)


def all_up(buses: list[Engine], links: int) -> bool:
    return all(len(b.outlook.states) == links and all(s.ready for s in b.outlook.states) for b in buses)


@pytest.mark.asyncio
async def test_everybody_is_heard_pinged_and_asked(
    until: Until, engines: Engines, frame: Callable[..., Outgoing], approach: Approach
) -> None:
    async with engines(4, beat=FAST) as buses:
        await until(lambda: all_up(buses, 3))
        buses[0].publish(frame(buses[0], 1))
        await until(lambda: buses[0].metrics["frames_accepted"] == 3)
        async with open_survey(approach, patience=5) as survey:
            picture = await survey.observe(5, links=True)
        assert [one.record.name for one in picture.present] == ["w0", "w1", "w2", "w3"]
        assert len(picture.digests) == 1 and picture.left_out == 0
        for one, bus in zip(picture.members, buses, strict=True):
            assert one.beat is not None and one.beat.node == bus.self_id and one.beat_age < 1
            assert one.rtt is not None and 0 < one.rtt < 1
            assert one.links is not None and {link.peer for link in one.links} == set(bus.neighbours)
            assert {link.phase for link in one.links} == {LinkPhase.UP}
        first, second = picture.members[0].links, picture.members[1].links
        assert first is not None and [link.accepted for link in first] == [1, 1, 1]
        # A round trip shorter than a tick of the loop's clock, 1 ms on uvloop, is 0.
        assert all(link.bytes_sent > 0 and link.rtt_us < 1e6 for link in first)
        assert second is not None
        [from_first] = [link for link in second if link.peer == buses[0].self_id]
        assert (from_first.received, from_first.queued, from_first.lost) == (1, 1, 0)
        assert from_first.bytes_received == first[0].bytes_sent


@pytest.mark.asyncio
@pytest.mark.parametrize("named", [True, False])
async def test_the_address_of_one_worker_is_enough(named: bool, until: Until, engines: Engines) -> None:
    async with engines(3, beat=FAST) as buses:
        await until(lambda: all_up(buses, 2))
        seed = ("w1@" if named else "") + buses[1].transport.inbox.removeprefix("tcp://")
        way = Approach("test", b"secret", seeds=read_seeds([seed], "test"))
        async with open_survey(way, patience=5) as survey:
            picture = await survey.observe(5)
            again = await survey.observe(5, only=["w2"])
        assert picture.told_by == "w1"
        assert all(one.is_heard for one in picture.members) and len(picture.members) == 3
        assert [one.is_asked for one in again.members] == [False, False, True]


@pytest.mark.slow
@pytest.mark.asyncio
async def test_one_that_is_silent_is_told_from_the_others(
    until: Until, engines: Engines, approach: Approach, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engines(3, beat=FAST) as buses:
        await until(lambda: all_up(buses, 2))
        monkeypatch.setattr(buses[2], "received", lambda routing, parts: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
        monkeypatch.setattr(buses[2].transport, "broadcast", lambda message: 0)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
        async with open_survey(approach, patience=5) as survey:
            picture = await survey.observe(0.8)
            records = survey.find(["w0", "w2"])
            nodes = await survey.connect(records, 0.3)
            rtts = await survey.ping(nodes, 0.3)
        assert [one.is_heard for one in picture.members] == [True, True, False]
        assert [rtts[record.node] is not None for record in records] == [True, False]


@pytest.mark.slow
@pytest.mark.asyncio
async def test_of_many_a_sample_is_heard(
    until: Until, engines: Engines, approach: Approach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    async with engines(4, beat=FAST) as buses:
        await until(lambda: all_up(buses, 3))
        async with open_survey(approach, patience=5) as survey:
            pictures = [await survey.observe(5) for _ in range(3)]
            with pytest.raises(UsageError, match="no worker is called 'nobody': there are w0, w1, w2, w3"):
                survey.find(["w0", "nobody"])
        samples = [{one.record.name for one in picture.members if one.is_asked} for picture in pictures]
        assert len(samples[0]) == 2 and samples[0] == samples[1] == samples[2], "the same ones, as long as they live"
        assert [picture.left_out for picture in pictures] == [2, 2, 2]


@pytest.mark.asyncio
async def test_nobody_is_there(approach: Approach, tmp_path: Path) -> None:
    with pytest.raises(NobodyAnswers, match="none is running") as missing:
        async with open_survey(approach, patience=1):
            pass
    assert missing.value.code == 3
    publish(tmp_path, Address(name="a", pid=os.getpid(), epoch=1, inbox="tcp://127.0.0.1:1", beat="tcp://127.0.0.1:2"))
    began = asyncio.get_running_loop().time()
    with pytest.raises(NobodyAnswers, match="has it ended"):
        async with open_survey(approach, patience=10):
            pass
    assert asyncio.get_running_loop().time() - began < 5, "a refused connection is not waited for"
