"""What a process has of the virtual network: its port, the sockets it opened, and their connections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dagrad_bus.ids import NodeId
from dagrad_bus.messages import Message

if TYPE_CHECKING:
    from dagrad_bus.sim.network import Network

RETRY = 0.25
"""Seconds between two attempts to connect, at first."""
FOREVER = 1 << 60


class Endpoint(Protocol):
    """Whom the network tells what happens; a process."""

    def received(self, routing: bytes, message: Message) -> None:
        """Take a message of the inbox."""
        ...

    def damaged(self, routing: bytes, message: Message) -> None:
        """Take a message of the inbox whose checksum is wrong."""
        ...

    def beaten(self, peer: NodeId, message: Message) -> None:
        """Take a broadcast of ``peer``."""
        ...

    def connection(self, peer: NodeId, up: bool) -> None:
        """Take note of a connection made or broken."""
        ...

    def refused(self, peer: NodeId) -> None:
        """Take note that nobody listens where ``peer`` should be."""
        ...

    def writable(self, peer: NodeId) -> None:
        """Take note that a send may be tried again."""
        ...


@dataclass(slots=True)
class Weather:
    """What the network is like now. Seconds, bytes a second, shares."""

    latency: tuple[float, float] = (0.0005, 0.005)
    """Each pair of hosts draws its own from this range, once."""
    jitter: float = 0.2
    """Share of the latency by which single messages differ."""
    rate: float = 0.0
    """Bytes a second of a limited line; 0: no limit."""
    rate_share: float = 0.0
    """Share of the lines that are limited."""
    drop: float = 0.0
    """Share of the copies of broadcasts that are lost."""
    flip: float = 0.0
    """Share of the messages that arrive damaged."""
    full: float = 0.0
    """Share of the sends that find no room."""
    snap: float = 0.0
    """Share of the sends at which the connection breaks."""
    late: float = 0.2
    """Seconds until a broken connection is noticed, on average."""


class Dialer:
    """One connecting socket."""

    __slots__ = ("address", "closed", "ear", "line", "peer", "plug", "retry", "routing")

    def __init__(self, plug: Plug, peer: NodeId, address: str, routing: bytes, *, ear: bool) -> None:
        self.plug = plug
        self.peer = peer
        self.address = address
        self.routing = routing
        self.ear = ear
        self.line: Line | None = None
        self.retry = RETRY
        self.closed = False


class Line:
    """One connection, in the direction its messages go."""

    __slots__ = (
        "broken", "delivered", "dialer", "free_at", "held", "last_due", "latency", "lost_from", "rate", "refused", "sent",
        "sink", "source", "stuck",
    )  # fmt: skip

    def __init__(self, dialer: Dialer, source: Plug, sink: Plug, latency: float, rate: float) -> None:
        self.dialer = dialer
        self.source = source
        self.sink = sink
        self.latency = latency
        self.rate = rate
        self.sent = 0
        self.delivered = 0
        self.lost_from = FOREVER
        """Messages from this number on never arrive."""
        self.last_due = 0.0
        self.free_at = 0.0
        self.stuck = 0
        """How many faults keep it from delivering."""
        self.held: list[Message] = []
        self.broken = False
        self.refused = False

    def __repr__(self) -> str:
        """Name both ends."""
        return f"{self.source.name}{'~' if self.dialer.ear else '>'}{self.sink.name}"


@dataclass(slots=True)
class Counts:
    """What the network did, to tell whether a fault was felt."""

    sent: int = 0
    bytes: int = 0
    delivered: int = 0
    lost: int = 0
    broken: int = 0
    refused: int = 0
    broadcasts: int = 0
    full: int = 0
    damaged: int = 0
    by_kind: dict[str, int] = field(default_factory=dict[str, int])
    bytes_by_kind: dict[str, int] = field(default_factory=dict[str, int])


class Plug:
    """What one process has of the network: the port that its node sends through."""

    __slots__ = (
        "audience", "backlog", "beat", "dead", "dialers", "ears", "end", "host", "inbound", "inbox", "name", "network",
        "node", "paused",
    )  # fmt: skip

    def __init__(self, network: Network, node: NodeId, name: str, host: int, port: int) -> None:
        self.network = network
        self.node = node
        self.name = name
        self.host = host
        self.inbox = f"tcp://10.{host >> 16}.{host >> 8 & 255}.{host & 255}:{port}"
        self.beat = f"tcp://10.{host >> 16}.{host >> 8 & 255}.{host & 255}:{port + 1}"
        self.end: Endpoint | None = None
        self.dialers: dict[NodeId, Dialer] = {}
        self.ears: dict[NodeId, Dialer] = {}
        self.inbound: dict[Line, None] = {}
        self.audience: dict[Line, None] = {}
        self.paused = False
        self.dead = False
        self.backlog: list[tuple[Line | Dialer, Message | bool | None]] = []

    def connect(self, peer: NodeId, inbox: str, beat: str | None) -> None:
        """Open a connection, and listen at ``beat``; a former connection to ``peer`` is replaced."""
        self.disconnect(peer)
        network = self.network
        routing = b"\1" + self.node + network.world.rng.getrandbits(64).to_bytes(8, "little")
        dialer = self.dialers[peer] = Dialer(self, peer, inbox, routing, ear=False)
        network.dial(dialer)
        self.listen(peer, beat)

    def listen(self, peer: NodeId, beat: str | None) -> None:
        """Listen to the broadcasts of ``peer``, or no more."""
        known = self.ears.get(peer)
        if known is not None and known.address == beat:
            return
        if known is not None:
            self.network.hang_up(self.ears.pop(peer))
        if beat is not None:
            dialer = self.ears[peer] = Dialer(self, peer, beat, b"", ear=True)
            self.network.dial(dialer)

    def disconnect(self, peer: NodeId) -> None:
        """Close what is open towards ``peer``."""
        for dialers in (self.dialers, self.ears):
            dialer = dialers.pop(peer, None)
            if dialer is not None:
                self.network.hang_up(dialer)

    def address_of(self, peer: NodeId) -> str | None:
        """Return the inbox that is connected to, or None."""
        dialer = self.dialers.get(peer)
        return dialer.address if dialer is not None else None

    def send(self, peer: NodeId, message: Message) -> int:
        """Return the bytes taken; 0: not connected or no room."""
        dialer = self.dialers.get(peer)
        if dialer is None or dialer.line is None:
            return 0
        return self.network.send(dialer.line, message)

    def broadcast(self, message: Message) -> int:
        """Return the bytes of one copy."""
        return self.network.broadcast(self, message)
