"""A visitor's end: whom it believes, when it greets, and which answers are to its own questions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus import visit as module
from dagrad_bus.bus.identity import Identity, record_of
from dagrad_bus.bus.visit import Visit
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.messages import TELLS_LINKS, VISITOR
from dagrad_bus.settings import Settings
from dagrad_bus.wire import Heartbeat, Hello, HelloOk, Links, Message, Ping, Pong, PpRecords, pack

OTHER = Layout((Entry("x", (4,), "float32"),), (), 1)


class Sockets:
    """Takes what is sent, and lets nothing arrive by itself."""

    inbox, beat = "tcp://127.0.0.1:1", "tcp://127.0.0.1:2"

    def __init__(self) -> None:
        self.sent: list[tuple[NodeId, Message]] = []
        self.is_full = False

    def start(self, handler: object, fail: object) -> None:
        pass

    def send(self, peer: NodeId, message: Message) -> int:
        if self.is_full:
            return 0
        self.sent.append((peer, message))
        return 1


def member(name: str, key: bytes = b"k") -> Identity:
    return Identity(Settings(run="r", name=name, key=key), OTHER, 1)


def say(visit: Visit, routing: bytes, message: Message) -> None:
    visit.received(routing, [bytes(part) for part in pack(message)])


def hello_of(identity: Identity) -> Hello:
    return identity.hello("tcp://127.0.0.1:7", "tcp://127.0.0.1:8")


def answer_of(identity: Identity) -> HelloOk:
    mine = hello_of(identity)
    return HelloOk(
        mine.node,
        mine.job,
        mine.epoch,
        0,
        mine.layout,
        mine.host,
        7,
        8,
        mine.name,
        mine.max_frame,
        capabilities=TELLS_LINKS,
    )


@pytest.fixture
def make() -> Callable[[], tuple[Visit, Sockets]]:
    """Return what makes a visit on the running loop, with its sockets."""

    def run() -> tuple[Visit, Sockets]:
        sockets = Sockets()
        layout = Layout((Entry("none", (1,), "float32"),), (), 1)
        return Visit(cast("Any", sockets), Identity(Settings(run="r", name="v", key=b"k"), layout, 1)), sockets

    return run


@pytest.mark.asyncio
async def test_only_who_holds_the_key_is_believed(make: Callable[[], tuple[Visit, Sockets]]) -> None:
    visit, _ = make()
    friend, stranger = member("a"), member("b", key=b"guess")
    records = PpRecords((record_of(hello_of(friend)),))
    say(visit, b"1", records)
    say(visit, b"2", hello_of(stranger))
    say(visit, b"2", records)
    visit.received(b"1", [b"junk"])
    assert (visit.answers, visit.records, visit.names) == (0, {}, {})
    say(visit, b"1", hello_of(friend))
    assert visit.abilities == {}, "it has not answered our greeting yet"
    say(visit, b"1", answer_of(friend))
    say(visit, b"1", records)
    assert (visit.answers, visit.told_by, visit.names) == (1, friend.node, {friend.node: "a"})
    assert visit.abilities == {friend.node: TELLS_LINKS}
    visit.connection(friend.node, up=False)
    assert visit.abilities == {}


@pytest.mark.asyncio
async def test_a_pong_counts_once_and_from_whom_was_asked(make: Callable[[], tuple[Visit, Sockets]]) -> None:
    visit, sockets = make()
    one, two = member("a"), member("b")
    for routing, identity in ((b"1", one), (b"2", two)):
        say(visit, routing, hello_of(identity))
    assert not visit.ping(one.node), "nobody is connected"
    visit.connection(one.node, up=True)
    visit.introduce()
    assert visit.ping(one.node)
    [(_, hello), (to, ping)] = sockets.sent
    assert isinstance(hello, Hello) and hello.capabilities & VISITOR
    assert to == one.node and isinstance(ping, Ping)
    say(visit, b"2", Pong(ping.nonce, 1, 0))
    assert visit.rtts == {}
    for _ in range(2):
        say(visit, b"1", Pong(ping.nonce, 1, 0))
    assert len(visit.rtts[one.node]) == 1


@pytest.mark.asyncio
async def test_links_are_those_of_the_last_question(make: Callable[[], tuple[Visit, Sockets]]) -> None:
    visit, _ = make()
    one = member("a")
    say(visit, b"1", hello_of(one))
    first = visit.expect_links(one.node)
    say(visit, b"1", Links(first, 0))
    second = visit.expect_links(one.node)
    say(visit, b"1", Links(first, 0))
    assert one.node not in visit.links
    say(visit, b"1", Links(second, 0))
    assert visit.links == {one.node: [Links(second, 0)]}


@pytest.mark.asyncio
async def test_one_is_greeted_again_before_it_closes(
    make: Callable[[], tuple[Visit, Sockets]], monkeypatch: pytest.MonkeyPatch
) -> None:
    visit, sockets = make()
    peer = NodeId(b"p" * 16)
    sockets.is_full = True
    visit.connection(peer, up=True)
    visit.introduce()
    assert not visit.is_known_to(peer)
    sockets.is_full = False
    for _ in range(3):
        visit.introduce()
    assert len(sockets.sent) == 1 and visit.is_known_to(peer)
    monkeypatch.setattr(module, "GREET_AGAIN", -1.0)
    visit.introduce()
    assert len(sockets.sent) == 2


@pytest.mark.asyncio
async def test_heartbeats_are_kept_and_forged_ones_dropped(make: Callable[[], tuple[Visit, Sockets]]) -> None:
    visit, _ = make()
    node = NodeId(b"n" * 16)
    beat = Heartbeat(node, 1, 0, 1, Step(5), 1.0, spec_version=3)
    parts = [bytes(part) for part in pack(beat)]
    visit.beaten(NodeId(b"x" * 16), parts)
    assert not visit.beats
    visit.beaten(node, parts)
    assert visit.beats[node].message == beat
    assert visit.who_adopted(3) == {node} and not visit.who_adopted(4)
    visit.beaten(node, [bytes(part) for part in pack(replace(beat, spec_version=4))])
    assert visit.who_adopted(4) == {node}


@pytest.mark.asyncio
async def test_asking_ends_where_nobody_listens(make: Callable[[], tuple[Visit, Sockets]]) -> None:
    visit, _ = make()
    peer = NodeId(b"p" * 16)
    visit.refused(peer)
    until = asyncio.get_running_loop().time() + 5
    assert not await visit.ask([peer], Ping(1), lambda: False, until)
    assert asyncio.get_running_loop().time() < until - 4
    assert await visit.ask([peer], Ping(1), lambda: True, until)
