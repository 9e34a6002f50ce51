"""The network is honest: order is kept, losses come from breaks, and every break is noticed, if late."""

from __future__ import annotations

import pytest

from dagrad_bus.ids import NodeId
from dagrad_bus.messages import Message, Ping
from dagrad_bus.sim.network import BACKLOG, BUFFER, Network
from dagrad_bus.sim.plug import Plug, Weather
from dagrad_bus.sim.world import World

A, B = NodeId(b"a" * 16), NodeId(b"b" * 16)


class Ear:
    """A process that writes down what it hears."""

    def __init__(self, plug: Plug) -> None:
        self.plug = plug
        self.heard: list[int] = []
        self.beats: list[int] = []
        self.told: list[str] = []
        plug.end = self

    def received(self, routing: bytes, message: Message) -> None:
        assert routing[1:17] != self.plug.node
        assert isinstance(message, Ping)
        self.heard.append(message.nonce)

    def damaged(self, routing: bytes, message: Message) -> None:
        self.told.append("damaged")

    def beaten(self, peer: NodeId, message: Message) -> None:
        assert isinstance(message, Ping)
        self.beats.append(message.nonce)

    def connection(self, peer: NodeId, up: bool) -> None:
        self.told.append("up" if up else "down")

    def refused(self, peer: NodeId) -> None:
        self.told.append("refused")

    def writable(self, peer: NodeId) -> None:
        self.told.append("writable")


class Pair:
    """Two processes, the first connected to the second."""

    def __init__(self, seed: int = 0, weather: Weather | None = None, connect: bool = True) -> None:
        self.world = World(seed)
        self.network = Network(self.world, weather or Weather(jitter=1.0))
        self.a = Ear(self.network.plug_in(A, "a", 1, 9000))
        self.b = Ear(self.network.plug_in(B, "b", 2, 9000))
        self.sent = 0
        if connect:
            self.connect()

    def connect(self) -> None:
        self.a.plug.connect(B, self.b.plug.inbox, self.b.plug.beat)
        self.world.run(self.world.now + 2.0)

    def send(self, count: int = 1, every: float = 0.0) -> None:
        for _ in range(count):
            self.sent += 1
            self.a.plug.send(B, Ping(self.sent))
            self.world.run(self.world.now + every)


def test_a_live_connection_delivers_everything_in_order() -> None:
    pair = Pair()
    pair.send(200, 0.001)
    pair.world.run(10.0)
    assert pair.b.heard == list(range(1, 201))
    assert pair.a.told == ["up"]


def test_before_the_handshake_nothing_is_taken() -> None:
    pair = Pair(connect=False)
    pair.a.plug.connect(B, pair.b.plug.inbox, None)
    assert pair.a.plug.send(B, Ping(1)) == 0
    assert pair.a.plug.address_of(B) == pair.b.plug.inbox


@pytest.mark.parametrize("seed", range(10))
def test_a_break_loses_a_tail_and_is_noticed_late(seed: int) -> None:
    pair = Pair(seed, Weather(latency=(0.1, 0.2)))
    pair.send(20)
    line = pair.a.plug.dialers[B].line
    assert line is not None
    pair.network.cut(line, 1.0)
    pair.send(1)  # it does not know yet: taken, and lost
    pair.world.run(pair.world.now + 5.0)
    assert pair.b.heard == list(range(1, len(pair.b.heard) + 1))
    assert len(pair.b.heard) <= 20
    assert pair.a.told == ["up", "down", "up"]
    assert pair.network.counts.lost == 21 - len(pair.b.heard)


def test_the_tail_of_the_old_connection_may_come_after_the_head_of_the_new() -> None:
    found = False
    for seed in range(40):
        pair = Pair(seed, Weather(latency=(0.0001, 0.0001), jitter=0.0))
        line = pair.a.plug.dialers[B].line
        assert line is not None
        line.latency = 2.0
        pair.send(3)
        pair.network.cut(line, 0.0)
        pair.world.run(pair.world.now + 1.0)
        pair.send(1)
        pair.world.run(pair.world.now + 5.0)
        found |= pair.b.heard[:1] == [4] and len(pair.b.heard) > 1
    assert found


def test_a_dead_process_refuses_and_a_new_one_is_found() -> None:
    pair = Pair()
    pair.network.die(pair.b.plug)
    pair.world.run(5.0)
    assert pair.a.told[:3] == ["up", "down", "refused"]
    Ear(pair.network.plug_in(B, "b", 2, 9000))
    pair.world.run(20.0)
    assert pair.a.told[-1] == "up"


def test_a_lost_host_is_silent() -> None:
    pair = Pair()
    pair.network.die(pair.b.plug, host=True)
    pair.world.run(9.0)
    assert pair.a.told == ["up"]
    pair.world.run(30.0)
    assert pair.a.told == ["up", "down"]


@pytest.mark.parametrize("pairs", [[(1, 2)], [(2, 1)], [(1, 2), (2, 1)]])
def test_a_closed_path_breaks_the_connection_and_an_open_one_heals_it(pairs: list[tuple[int, int]]) -> None:
    pair = Pair()
    pair.network.block(pairs)
    assert not pair.network.is_open(1, 2)
    pair.send(3, 0.1)
    pair.world.run(9.0)
    assert pair.a.told == ["up"]
    assert pair.b.heard == ([] if (1, 2) in pairs else [1, 2, 3])
    pair.world.run(20.0)
    assert pair.a.told == ["up", "down"]
    pair.network.unblock(pairs)
    pair.world.run(40.0)
    assert pair.a.told == ["up", "down", "up"]


def test_what_waited_during_a_short_gap_arrives_in_order() -> None:
    pair = Pair()
    pair.network.block([(1, 2)])
    pair.send(5, 0.1)
    pair.network.unblock([(1, 2)])
    pair.send(5, 0.5)
    pair.world.run(20.0)
    assert pair.b.heard == list(range(1, 11))
    assert pair.a.told == ["up"]


def test_two_faults_at_once_both_have_to_end() -> None:
    pair = Pair()
    pair.network.block([(1, 2)])
    pair.network.block([(1, 2)])
    pair.network.unblock([(1, 2)])
    pair.send(1)
    pair.world.run(3.0)
    assert pair.b.heard == []
    pair.network.unblock([(1, 2)])
    pair.world.run(6.0)
    assert pair.b.heard == [1]


def test_a_hanging_line_is_calmed() -> None:
    pair = Pair()
    line = pair.a.plug.dialers[B].line
    assert line is not None
    pair.network.hang(line, 5.0)
    pair.send(2, 0.1)
    pair.world.run(2.0)
    assert pair.b.heard == []
    pair.network.calm({1, 2})
    assert pair.b.heard == [1, 2]
    pair.world.run(9.0)
    assert line.stuck == 0


def test_a_paused_process_reads_everything_when_it_goes_on() -> None:
    pair = Pair()
    pair.network.pause(pair.b.plug)
    pair.send(5, 0.1)
    pair.world.run(3.0)
    assert pair.b.heard == []
    pair.network.go_on(pair.b.plug)
    assert pair.b.heard == [1, 2, 3, 4, 5]


def test_a_slow_line_takes_so_much_and_then_says_when_to_go_on() -> None:
    pair = Pair(weather=Weather(rate=100_000.0, rate_share=1.0))
    while pair.a.plug.send(B, Ping(1)):
        pair.sent += 1
    assert pair.network.counts.bytes >= BUFFER or pair.sent == BACKLOG + 1
    assert pair.network.counts.full == 1
    pair.world.run(pair.world.now + 60)
    assert pair.a.told[-1] == "writable"
    assert len(pair.b.heard) == pair.sent


def test_broadcasts_reach_listeners_and_single_copies_are_lost() -> None:
    pair = Pair(weather=Weather(drop=0.3))
    for nonce in range(1, 101):
        pair.b.plug.broadcast(Ping(nonce))
        pair.world.run(pair.world.now + 0.01)
    pair.world.run(5.0)
    assert 40 < len(pair.a.beats) < 95
    assert pair.a.beats == sorted(pair.a.beats)
    pair.a.plug.listen(B, None)
    pair.b.plug.broadcast(Ping(1000))
    pair.world.run(6.0)
    assert 1000 not in pair.a.beats


def test_damaged_messages_are_told_apart() -> None:
    pair = Pair(weather=Weather(flip=0.5))
    pair.send(100, 0.001)
    pair.world.run(5.0)
    assert len(pair.b.heard) + pair.b.told.count("damaged") == 100
    assert pair.network.counts.damaged == pair.b.told.count("damaged") > 20


def test_a_closed_socket_is_told_nothing_more() -> None:
    pair = Pair()
    pair.a.plug.disconnect(B)
    assert pair.a.plug.send(B, Ping(1)) == 0
    pair.network.die(pair.b.plug)
    pair.world.run(20.0)
    assert pair.a.told == ["up"]
