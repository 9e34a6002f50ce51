"""A network in memory, in virtual time: joins cores without sockets, clocks or threads.

Every node has one connection to each other node, used in one direction, as a DEALER towards a ROUTER is. A connection
keeps the order of its messages and loses some only by breaking: then a random tail of what is on its way never
arrives, the sender learns of it later, if at all, and after a while the connection is made anew. What the old one
still delivers may arrive after the first messages of the new one. Nothing is ever delivered twice.

:meth:`FakeWire.run` jumps from one due moment to the next, so a virtual hour costs what its events cost, and a run is
a function of the generator handed in.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import numpy as np

from dagrad_bus.events import Broken, Connected, Send, Tick
from dagrad_bus.ids import NodeId
from dagrad_bus.messages import Message

SOON = 1e-6
"""Least seconds between two ticks of a node: a deadline that stays in the past cannot stop the clock."""


@dataclass(frozen=True, slots=True)
class Received:
    """Event: ``message`` arrived from ``peer``, over its connection number ``connection``."""

    peer: NodeId
    connection: int
    message: Message


Event = Connected | Broken | Received | Tick


class Core(Protocol):
    """What stands at the ends of the wire."""

    def handle(self, event: Event, now: float) -> Iterable[Send]:
        """Take one event, return what is to be sent."""
        ...

    def next_deadline(self) -> float | None:
        """When the next Tick is due; None while nothing is timed."""
        ...


@dataclass(slots=True)
class _Line:
    """One direction between two nodes."""

    connection: int = 0
    up: bool = False
    last_due: float = 0.0
    refused: int = 0


class FakeWire:
    """Nodes and what flies between them.

    Args:
        cores: the nodes.
        rng: source of every delay and fault.
        latency: seconds a message takes on average; single ones take up to many times as long.
        breaks: share of the messages sent that break their connection.
        outage: seconds until a broken connection is made anew, on average.
        now: seconds at which the world begins.
    """

    def __init__(
        self,
        cores: Mapping[NodeId, Core],
        rng: np.random.Generator,
        *,
        latency: float = 0.01,
        breaks: float = 0.0,
        outage: float = 0.5,
        now: float = 0.0,
    ) -> None:
        self.cores = dict(cores)
        self.now = now
        self.breaks = breaks
        """May be set at any time; 0 ends the faults."""
        self.delivered = 0
        self.lost = 0
        self.broken = 0
        self._rng = rng
        self._latency = latency
        self._outage = outage
        self._order = count()
        self._flying: list[tuple[float, int, NodeId, Event]] = []
        self._lines = {(a, b): _Line() for a in self.cores for b in self.cores if a != b}
        self._ticked = dict.fromkeys(self.cores, now - SOON)
        for ends in self._lines:
            self._connect_later(ends, now)

    def is_up(self, sender: NodeId, receiver: NodeId) -> bool:
        """Whether messages of ``sender`` reach ``receiver`` now."""
        return self._lines[sender, receiver].up

    def replace(self, node: NodeId, core: Core) -> None:
        """Restart ``node``: another core takes its place, every connection from and to it breaks."""
        self.cores[node] = core
        self._keep(lambda to, event: to != node and not (isinstance(event, Connected | Broken) and event.peer == node))
        for ends, line in self._lines.items():
            if node in ends:
                self._cut(ends, line, told=ends[0] != node)

    def cut(self, sender: NodeId, receiver: NodeId) -> None:
        """Break the connection from ``sender`` to ``receiver``; it is made anew after a while."""
        line = self._lines[sender, receiver]
        if line.up:
            self._cut((sender, receiver), line, told=True)

    def run(self, until: float) -> None:
        """Jump from one due moment to the next, up to and including ``until``."""
        while (due := self._next_due()) <= until:
            self.now = max(self.now, due)
            while self._flying and self._flying[0][0] <= self.now:
                _, _, node, event = heapq.heappop(self._flying)
                self._hand(node, event)
            for node in self.cores:
                if self._tick_due(node) <= self.now:
                    self._ticked[node] = self.now
                    self._hand(node, Tick())
        self.now = max(self.now, until)

    def hand(self, node: NodeId, sends: Iterable[Send]) -> None:
        """Put messages on the wire that ``node`` sends without being asked (its owner had something to say)."""
        for send in sends:
            self._send(node, send)

    def _next_due(self) -> float:
        flying = self._flying[0][0] if self._flying else float("inf")
        return min(flying, *map(self._tick_due, self.cores))

    def _tick_due(self, node: NodeId) -> float:
        deadline = self.cores[node].next_deadline()
        return float("inf") if deadline is None else max(deadline, self._ticked[node] + SOON)

    def _hand(self, node: NodeId, event: Event) -> None:
        match event:
            case Connected(peer=peer):
                line = self._lines[node, peer]
                line.up, line.connection, line.last_due = True, line.connection + 1, self.now
            case Received():
                self.delivered += 1
            case _:
                pass
        self.hand(node, self.cores[node].handle(event, self.now))

    def _send(self, node: NodeId, send: Send) -> None:
        ends = (node, send.peer)
        line = self._lines[ends]
        if not line.up:
            line.refused += 1
            return
        line.last_due = max(line.last_due, self.now + float(self._rng.exponential(self._latency)))
        self._fly(line.last_due, send.peer, Received(node, line.connection, send.message))
        if self.breaks and self._rng.random() < self.breaks:
            self._cut(ends, line, told=True)

    def _cut(self, ends: tuple[NodeId, NodeId], line: _Line, *, told: bool) -> None:
        """Lose a random tail of what flies over the connection; tell its sender, and connect anew, later."""
        line.up = False
        self.broken += 1
        mine = sorted(f[:2] for f in self._flying if f[2] == ends[1] and _is_of(f[3], ends[0], line.connection))
        gone = {order for _, order in mine[int(self._rng.integers(len(mine) + 1)) :]}
        self.lost += len(gone)
        self._flying = [flying for flying in self._flying if flying[1] not in gone]
        heapq.heapify(self._flying)
        told_at = self.now + float(self._rng.exponential(self._latency))
        if told:
            self._fly(told_at, ends[0], Broken(ends[1]))
        self._connect_later(ends, told_at)

    def _keep(self, wanted: Callable[[NodeId, Event], bool]) -> None:
        self._flying = [flying for flying in self._flying if wanted(*flying[2:])]
        heapq.heapify(self._flying)

    def _connect_later(self, ends: tuple[NodeId, NodeId], now: float) -> None:
        self._fly(now + float(self._rng.exponential(self._outage)), ends[0], Connected(ends[1]))

    def _fly(self, due: float, to: NodeId, event: Event) -> None:
        heapq.heappush(self._flying, (due, next(self._order), to, event))


def _is_of(event: Event, sender: NodeId, connection: int) -> bool:
    return isinstance(event, Received) and (event.peer, event.connection) == (sender, connection)
