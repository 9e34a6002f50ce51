"""A network without sockets: what one port publishes waits at the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dagrad_bus.codec import from_wire
from dagrad_bus.events import Arrival, LinkState, MemberEvent, Outcome, Outgoing, PeerNews, Selection, View
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.messages import StateRej, StateReq
from dagrad_bus.metrics import Metrics
from dagrad_bus.topology.live import TopologySpec

_LOCK = threading.RLock()
"""Ports of one test may be used by a thread each."""


@dataclass
class FakePort:
    """One worker's port. ``peers`` get what it publishes at once; the switches let a link misbehave."""

    me: NodeId
    peers: list[FakePort] = field(default_factory=list["FakePort"])
    published: list[Outgoing] = field(default_factory=list[Outgoing])
    samples: list[tuple[int, NDArray[np.float32]]] = field(default_factory=list[tuple[int, NDArray[np.float32]]])
    logged: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    waiting: list[Arrival] = field(default_factory=list[Arrival])
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    metrics: Metrics = field(default_factory=Metrics)
    ready: bool = True
    accepts: bool = True
    delivers: bool = True
    drops: Container[int] = ()
    """Numbers (from 0) of frames that are lost, and their sender told so."""
    lies: Container[int] = ()
    """Numbers of those that arrive, and their sender told that they were lost."""
    generation: int = 1
    error: Exception | None = None
    news: dict[NodeId, PeerNews] = field(default_factory=dict[NodeId, PeerNews])
    sketches: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    explored: list[tuple[NodeId, ...]] = field(default_factory=list[tuple[NodeId, ...]])
    requests: list[tuple[NodeId, StateReq]] = field(default_factory=list[tuple[NodeId, StateReq]])
    rejections: list[tuple[NodeId, StateRej]] = field(default_factory=list[tuple[NodeId, StateRej]])
    healed: list[NodeId] = field(default_factory=list[NodeId])
    rejoined: bool = False
    events: list[MemberEvent] = field(default_factory=list[MemberEvent])
    specs: list[TopologySpec] = field(default_factory=list[TopologySpec])
    syncing: list[bool] = field(default_factory=list[bool])
    closed: int = 0
    now: float = 0.0

    def clock(self) -> float:
        """Return a moment later than the last one."""
        self.now += 0.01
        return self.now

    def snapshot(self) -> Mapping[str, Mapping[str, object]]:
        """Return the numbers."""
        return self.metrics.snapshot()

    def members(self) -> Mapping[str, str]:
        """Return all peers as alive."""
        return {peer.me.hex(): "alive" for peer in self.peers}

    def rewire(self, spec: TopologySpec) -> bool:
        """Keep the spec."""
        self.specs.append(spec)
        return True

    def view(self) -> View:
        """Swap out what waits."""
        with _LOCK:
            return self._view()

    def wait(self, seconds: float) -> None:
        """Let the others run; on the port's own clock all of it passes."""
        self.now += seconds
        time.sleep(0.0002)

    def _view(self) -> View:
        links = tuple(LinkState(peer.me, self.ready, self.generation) for peer in self.peers)
        view = View(
            links,
            tuple(self.waiting),
            tuple(self.outcomes),
            requests=tuple(self.requests),
            rejections=tuple(self.rejections),
            news=self.news,
            healed=tuple(self.healed),
            rejoined=self.rejoined,
            events=tuple(self.events),
        )
        self.events = []
        self.waiting, self.outcomes, self.requests, self.rejections, self.healed = [], [], [], [], []
        self.rejoined = False
        return view

    def publish(self, outgoing: Outgoing) -> bool:
        """Deliver at once."""
        if not self.accepts:
            return False
        number = len(self.published)
        delivers = self.delivers and number not in self.drops
        with _LOCK:
            self.published.append(outgoing)
            for peer in self.peers:
                if peer.me in outgoing.links:
                    if delivers:
                        peer.waiting.append(self._arrival(outgoing, peer))
                    self.outcomes.append(Outcome(outgoing.job, peer.me, delivers and number not in self.lies))
        return True

    def _arrival(self, outgoing: Outgoing, peer: FakePort) -> Arrival:
        chosen = outgoing.selection
        values = from_wire(chosen.values, chosen.scales, outgoing.value_type)
        selection = Selection(chosen.indices, values)
        return Arrival(
            self.me,
            outgoing.kind,
            outgoing.value_type,
            selection,
            outgoing.step,
            outgoing.rate,
            0.0,
            peer.now,
            request=outgoing.request,
            last=outgoing.last,
        )

    def tell(self, peer: NodeId, message: StateReq | StateRej) -> bool:
        """Hand it over at once, where there is such a peer."""
        for other in self.peers:
            if other.me == peer and self.delivers:
                if isinstance(message, StateReq):
                    other.requests.append((self.me, message))
                else:
                    other.rejections.append((self.me, message))
                return True
        return False

    def set_syncing(self, syncing: bool) -> None:
        """Keep what was told."""
        self.syncing.append(syncing)

    def note_step(self, step: int, rate: float) -> None:
        """Nobody asks."""

    def note_sketch(self, step: int, sketch: bytes) -> None:
        """Keep the sketch."""
        self.sketches.append((step, sketch))

    def explore(self, peers: tuple[NodeId, ...]) -> None:
        """Keep the wish."""
        self.explored.append(peers)

    def sample(self, step: int, values: NDArray[np.float32]) -> None:
        """Keep the sample."""
        self.samples.append((step, values))

    def log(self, **numbers: float) -> None:
        """Keep the numbers."""
        self.logged.append(numbers)

    def failure(self) -> Exception | None:
        """Return the error planted."""
        return self.error

    def close(self) -> None:
        """Count."""
        self.closed += 1


@pytest.fixture
def connected() -> Callable[[int], list[FakePort]]:
    """Make ``n`` ports, each the neighbour of all others."""

    def make(count: int) -> list[FakePort]:
        ports = [FakePort(NodeId(bytes([i]) * 16)) for i in range(count)]
        for port in ports:
            port.peers = [other for other in ports if other is not port]
        return ports

    return make


@pytest.fixture
def staffed() -> Callable[[Sequence[str]], list[FakePort]]:
    """Make ports for members of the run ``alone`` by their names, each the neighbour of all others."""

    def make(names: Sequence[str]) -> list[FakePort]:
        ports = [FakePort(derive_node_id("alone", name)) for name in names]
        for port in ports:
            port.peers = [other for other in ports if other is not port]
        return ports

    return make


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start each test from the same chance."""
    torch.manual_seed(0)
