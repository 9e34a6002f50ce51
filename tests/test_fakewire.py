"""The network in memory: order, loss only by breaking, virtual time, determinism."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest

from dagrad_bus.events import Broken, Connected, Send, Tick
from dagrad_bus.fakewire import Event, FakeWire, Received
from dagrad_bus.ids import NodeId
from dagrad_bus.messages import Ping

A, B = NodeId(b"a" * 16), NodeId(b"b" * 16)


@dataclass
class Counter:
    """Sends rising numbers to its peer, one each ``period`` seconds, up to ``count``; notes what it sees."""

    peer: NodeId
    count: int = 0
    period: float = 0.05
    sent: int = 0
    due: float = 0.0
    connections: int = 0
    seen: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    events: list[str] = field(default_factory=list[str])

    def handle(self, event: Event, now: float) -> Iterable[Send]:
        match event:
            case Received(message=Ping(nonce=nonce), connection=connection):
                self.seen.append((connection, nonce))
            case Connected() | Broken():
                self.events.append(type(event).__name__)
            case Tick() if self.sent < self.count:
                self.sent += 1
                self.due = now + self.period
                return [Send(self.peer, Ping(nonce=self.sent))]
            case _:
                pass
        return []

    def next_deadline(self) -> float | None:
        return self.due if self.sent < self.count else None


def world(seed: int, *, count: int = 300, breaks: float = 0.0) -> tuple[FakeWire, Counter, Counter]:
    a, b = Counter(B, count), Counter(A)
    return FakeWire({A: a, B: b}, np.random.default_rng(seed), breaks=breaks, outage=0.1), a, b


@pytest.mark.parametrize("seed", range(5))
def test_a_whole_connection_delivers_all_it_took_in_order(seed: int) -> None:
    wire, _, b = world(seed)
    wire.run(100.0)
    numbers = [nonce for _, nonce in b.seen]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 300
    assert numbers == list(range(numbers[0], 301))  # what was sent before the handshake is lost


@pytest.mark.parametrize("seed", range(5))
def test_a_breaking_wire_keeps_order_in_a_connection_and_delivers_nothing_twice(seed: int) -> None:
    wire, a, b = world(seed, count=1000, breaks=0.05)
    wire.run(200.0)
    numbers = [nonce for _, nonce in b.seen]
    assert len(set(numbers)) == len(numbers)
    for connection in {c for c, _ in b.seen}:
        ours = [nonce for c, nonce in b.seen if c == connection]
        assert ours == sorted(ours)
    assert wire.lost > 0
    assert wire.broken > 10
    assert len(numbers) < a.sent
    assert a.events[:3] == ["Connected", "Broken", "Connected"]


def test_a_tail_of_an_old_connection_may_arrive_after_the_head_of_the_new_one() -> None:
    def overtaken(seed: int) -> bool:
        a, b = Counter(B, 400, period=0.002), Counter(A)
        wire = FakeWire({A: a, B: b}, np.random.default_rng(seed), latency=0.05, breaks=0.05, outage=0.01)
        wire.run(50.0)
        connections = [c for c, _ in b.seen]
        return connections != sorted(connections)

    assert any(overtaken(seed) for seed in range(10))


def test_a_run_is_a_function_of_the_generator() -> None:
    first, second, other = (world(seed, breaks=0.05) for seed in (1, 1, 2))
    for wire, _, _ in (first, second, other):
        wire.run(60.0)
    assert first[2].seen == second[2].seen
    assert first[2].seen != other[2].seen


def test_a_virtual_day_costs_what_its_events_cost() -> None:
    wire, _, b = world(0, count=3)
    wire.run(86_400.0)
    assert wire.now == 86_400.0
    assert b.seen[-1][1] == 3


def test_a_deadline_that_stays_in_the_past_cannot_stop_the_clock() -> None:
    class Stuck(Counter):
        def next_deadline(self) -> float | None:
            return 0.0

    wire = FakeWire({A: Stuck(B), B: Counter(A)}, np.random.default_rng(0), now=1.0)
    wire.run(1.001)
    assert wire.now == 1.001


def test_a_cut_tells_the_sender_only_and_heals() -> None:
    wire, a, b = world(3, count=0)
    wire.run(5.0)
    assert wire.is_up(A, B)
    wire.cut(A, B)
    assert not wire.is_up(A, B)
    wire.run(10.0)
    assert wire.is_up(A, B)
    assert a.events == ["Connected", "Broken", "Connected"]
    assert b.events == ["Connected"]


@pytest.mark.parametrize("seed", range(5))
def test_a_restarted_node_starts_without_what_was_on_its_way_to_it(seed: int) -> None:
    wire, a, b = world(seed, count=200)
    wire.run(3.0)
    again = Counter(A)
    wire.replace(B, again)
    wire.run(60.0)
    assert a.events == ["Connected", "Broken", "Connected"]
    assert again.events == ["Connected"]
    assert again.seen[0][1] > b.seen[-1][1]
    assert again.seen[-1][1] == 200
