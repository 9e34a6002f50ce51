"""The bus in virtual time, as a training thread sees it: ports joined by cards and wires that cost what a model says.

What the training thread may notice is the production bus's: frames of a link arrive in order; a link has credit for a
window of frames (``LinkSettings``), less where the receiver has not taken what waits; receipts come back a flight after
the arrival; bytes are those of the real encoding plus the real headers. Not simulated here: loss and membership
(``dagrad_bus.sim`` does that).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.blocks import Layout
from dagrad_bus.bus.framing import total_blocks
from dagrad_bus.codec import Codec, encode, from_wire
from dagrad_bus.events import Arrival, LinkState, Outcome, Outgoing, PeerNews, Selection, View
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.virtual import VirtualTime
from dagrad_bus.messages import CHUNK, StateRej, StateReq
from dagrad_bus.metrics import Metrics
from dagrad_bus.settings import LinkSettings
from dagrad_bus.sim.sizes import DATA_HEAD
from dagrad_bus.topology.live import TopologySpec

RECEIPT = 60
"""Bytes of an acknowledgement that found no frame to ride on, about; one a frame at the worst."""
BEAT_RATE = 620.0
"""Bytes a second that heartbeats and gossip cost each worker (docs/benchmarks.md)."""
ALL_CODECS = frozenset(Codec)
LONG_WAIT = 1.0
"""Seconds a waiting rule sleeps at most: an arrival wakes it, so looking more often would only cost events."""


@dataclass(slots=True)
class _Link:
    """What one port knows of its link to one peer."""

    generation: int = 1
    up: bool = True
    frames: int = 0
    """In flight: sent, no receipt yet."""
    size: int = 0
    """Bytes of those."""
    head_at: float = 0.0
    """When the head of the newest frame is there; no later one overtakes it, as on any connection."""
    whole_at: float = 0.0
    """When all of it is."""


class VirtualNet:
    """All workers' cards.

    Args:
        time: the clock and the scheduler.
        costs: what flights and bytes cost.
        layout: of the model, once known; sizes need it.
        seed: of the flights.
        link: window and mailbox limits.
        codecs: compressions that frames may use; empty: raw.
    """

    def __init__(
        self,
        time: VirtualTime,
        costs: Costs,
        seed: int,
        link: LinkSettings | None = None,
        codecs: frozenset[Codec] = ALL_CODECS,
    ) -> None:
        self.time, self.costs, self.codecs = time, costs, codecs
        self.link = link or LinkSettings()
        self.rng = np.random.default_rng([seed, 11])
        self.ports: dict[NodeId, VirtualPort] = {}

    def port(self, node: NodeId, name: str, peers: Sequence[NodeId], actor: int) -> VirtualPort:
        """Return a new port with links to ``peers``; ``actor`` is the number of its program."""
        made = self.ports[node] = VirtualPort(self, node, name, len(self.ports), peers, actor)
        return made

    def relink(self, graph: Mapping[NodeId, Sequence[NodeId]]) -> None:
        """Give every port the links of another graph; a port without an entry has left, and its links are down."""
        for node, port in self.ports.items():
            port.relink(graph.get(node, ()))


@dataclass(slots=True)
class _Flight:
    """One frame on its way to one peer."""

    outgoing: Outgoing
    values: NDArray[np.generic]
    size: int
    generation: int
    link: _Link
    """The sender's."""


class VirtualPort:
    """The port of one worker (``attach.port.Port``)."""

    def __init__(
        self, net: VirtualNet, node: NodeId, name: str, index: int, peers: Sequence[NodeId], actor: int
    ) -> None:
        self.node, self.name, self.index = node, name, index
        self.metrics = Metrics()
        self.layout: Layout | None = None
        self.sent_bytes = 0
        """Bytes handed to the network, headers and receipts included, heartbeats apart."""
        self.boundary_bytes = 0
        """Bytes handed over or taken since the program last asked (:meth:`take_load`)."""
        self.progress = (0, 0.0)
        self._net, self._actor = net, actor
        self._links = {peer: _Link() for peer in peers}
        self._generations: Counter[NodeId] = Counter(peers)
        self._waiting: list[Arrival] = []
        self._held: Counter[NodeId] = Counter()
        """Frames of each peer that wait for the training thread."""
        self._outcomes: list[Outcome] = []
        self._sketches: dict[NodeId, PeerNews] = {}
        self._send_free = self._receive_free = 0.0
        self._is_waiting = False

    @property
    def ages(self) -> Sequence[int]:
        """Histogram of the ages of the versions mixed, over ``metrics.AGE_EDGES``."""
        return cast("Sequence[int]", self.metrics.snapshot()["histograms"].get("age_steps", ()))

    # The training thread's side ----------------------------------------------------------------------------------

    def snapshot(self) -> Mapping[str, Mapping[str, object]]:
        """Return the numbers."""
        return self.metrics.snapshot()

    def view(self) -> View:
        """Swap out what waits and read the links."""
        arrivals = tuple(self._waiting)
        self.boundary_bytes += sum(arrival.size for arrival in self._waiting)
        self._held.clear()
        self._waiting = []
        outcomes, self._outcomes = tuple(self._outcomes), []
        states = tuple(
            LinkState(peer, ready=self._is_ready(peer, link), generation=link.generation)
            for peer, link in self._links.items()
            if link.up
        )
        news = {peer: said for peer, said in self._sketches.items() if peer in self._links}
        others = {peer: said for peer, said in self._sketches.items() if peer not in self._links}
        return View(states, arrivals, outcomes, news=news, others=others) if self._sketches else View(
            states, arrivals, outcomes
        )  # fmt: skip

    def _is_ready(self, peer: NodeId, link: _Link) -> bool:
        """Whether the window, in frames and in bytes, and the peer's mailbox have room for one frame more."""
        limits = self._net.link
        mean = link.size / link.frames if link.frames else 0.0
        window = max(2, min(limits.window, int(limits.window_bytes / mean))) if mean else limits.window
        window = min(window, limits.window)
        return link.frames < window and self._net.ports[peer]._held[self.node] < limits.mailbox_frames

    def publish(self, outgoing: Outgoing) -> bool:
        """Encode once and send to each link."""
        layout, net = self.layout, self._net
        if layout is None:
            raise AssertionError("publish before attach")
        chosen = outgoing.selection
        total = total_blocks(layout, outgoing.value_type)
        payload = encode(chosen.indices, chosen.values, chosen.scales, total=total, allow=net.codecs)
        size = len(payload.data) + DATA_HEAD * max(1, -(-len(payload.data) // CHUNK))
        values = np.asarray(from_wire(chosen.values, chosen.scales, outgoing.value_type))
        for peer in outgoing.links:
            link = self._links.get(peer)
            if link is None or not link.up:
                self._outcomes.append(Outcome(outgoing.job, peer, accepted=False))
                continue
            self.boundary_bytes += size
            self._send(peer, link, _Flight(outgoing, values, size, link.generation, link))
        return True

    def _send(self, peer: NodeId, link: _Link, flight: _Flight) -> None:
        """Put a frame on the wire: it waits for our card, then flies, then waits for the peer's card."""
        net, now = self._net, self._net.time.now()
        link.frames += 1
        link.size += flight.size
        self.sent_bytes += flight.size + RECEIPT
        self.metrics.count("bytes_sent", flight.size + RECEIPT)
        self.metrics.count("frames_sent")
        begin = max(now, self._send_free)
        self._send_free = begin + net.costs.transfer_time(flight.size, self.index, begin)
        link.head_at = max(link.head_at, begin + net.costs.flight_time(net.rng))
        net.time.world.at(link.head_at, net.ports[peer].hear, self, flight)

    def hear(self, sender: VirtualPort, flight: _Flight) -> None:
        """The head of a frame has arrived; the frame is here when our card has taken all of it."""
        net = self._net
        begin = max(net.time.now(), self._receive_free)
        slowest = max(
            net.costs.transfer_time(flight.size, self.index, begin),
            net.costs.transfer_time(flight.size, sender.index, begin),
        )
        self._receive_free = begin + net.costs.transfer_time(flight.size, self.index, begin)
        flight.link.whole_at = max(flight.link.whole_at, begin + slowest)
        net.time.world.at(flight.link.whole_at, self.accept, sender, flight)

    def accept(self, sender: VirtualPort, flight: _Flight) -> None:
        """A whole frame is here: into the mailbox, and a receipt goes back."""
        net, outgoing, now = self._net, flight.outgoing, self._net.time.now()
        link = self._links.get(sender.node)
        accepted = link is not None and link.up
        if accepted:
            selection = Selection(outgoing.selection.indices, flight.values)
            transit = now - outgoing.extracted_at
            self._waiting.append(
                Arrival(
                    sender.node, outgoing.kind, outgoing.value_type, selection, outgoing.step, outgoing.rate, transit,
                    now, flight.size, outgoing.request, outgoing.last,
                )
            )  # fmt: skip
            self._held[sender.node] += 1
            self.metrics.count("frames_accepted")
            self._rouse()
        back = now + net.costs.flight_time(net.rng)
        net.time.world.at(back, sender.receipt, (self.node, accepted), flight)

    def receipt(self, told: tuple[NodeId, bool], flight: _Flight) -> None:
        """The peer's answer to a frame is here."""
        peer, accepted = told
        link = self._links.get(peer)
        if link is not None and link.generation == flight.generation:
            link.frames -= 1
            link.size -= flight.size
        self._outcomes.append(Outcome(flight.outgoing.job, peer, accepted))
        self._rouse()

    def _rouse(self) -> None:
        """End the sleep of a rule that waits for news; a step that computes is not disturbed."""
        if self._is_waiting:
            self._net.time.wake(self._actor)

    def relink(self, peers: Sequence[NodeId]) -> None:
        """Hold links with ``peers`` and with nobody else."""
        for peer in [peer for peer in self._links if peer not in peers]:
            del self._links[peer]
        for peer in peers:
            if peer not in self._links:
                self._generations[peer] += 1
                self._links[peer] = _Link(generation=self._generations[peer])

    def wait(self, seconds: float) -> None:
        """Sleep until something arrives; a rule's short looks become one sleep that an arrival ends."""
        self._is_waiting = not self._waiting and not self._outcomes
        self._net.time.sleep(max(seconds, LONG_WAIT) if self._is_waiting else 0.0)
        self._is_waiting = False

    def take_load(self) -> int:
        """Return the bytes handed over or taken since the last call: the boundary's work."""
        load, self.boundary_bytes = self.boundary_bytes, 0
        return load

    def note_sketch(self, step: int, sketch: bytes) -> None:
        """Tell all, as heartbeats would."""
        for port in self._net.ports.values():
            if port is not self:
                port.heard(self.node, PeerNews(Step(step), self.progress[1], sketch))

    def heard(self, peer: NodeId, news: PeerNews) -> None:
        """Take what a heartbeat said."""
        self._sketches = {**self._sketches, peer: news}

    def tell(self, peer: NodeId, message: StateReq | StateRej) -> bool:
        """Take nothing: no state is transferred here."""
        del peer, message
        return False

    def set_syncing(self, syncing: bool) -> None:
        """Do nothing."""

    def explore(self, peers: tuple[NodeId, ...]) -> None:
        """Do nothing: links are the graph's."""

    def note_step(self, step: int, rate: float) -> None:
        """Keep it, for whoever looks on."""
        self.progress = step, rate

    def members(self) -> Mapping[str, str]:
        """Return everybody: nobody dies here."""
        return {port.name: "alive" for port in self._net.ports.values()}

    def rewire(self, spec: TopologySpec) -> bool:
        """Take nothing: the experiment says which links there are."""
        del spec
        return False

    def sample(self, step: int, values: NDArray[np.float32]) -> None:
        """Do nothing: the experiment looks at the replicas themselves."""

    def log(self, **numbers: float) -> None:
        """Do nothing."""

    def failure(self) -> Exception | None:
        """Return None: nothing fails here."""
        return None

    def close(self) -> None:
        """Leave: links go down on both sides."""
        for peer in tuple(self._links):
            other = self._net.ports[peer]._links
            other.pop(self.node, None)
        self._links.clear()
