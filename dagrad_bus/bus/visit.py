"""One visitor's end of its connections: greets, asks, and keeps what it hears. Who is asked for what, others decide."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from time import perf_counter

from dagrad_bus.bus.identity import Identity
from dagrad_bus.errors import LayoutMismatch, RemoteError
from dagrad_bus.ids import NodeId
from dagrad_bus.membership.records import bucket_of, fingerprint
from dagrad_bus.messages import VISITOR
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.transport import Transport
from dagrad_bus.wire import (
    BUCKETS,
    Heartbeat,
    Hello,
    HelloOk,
    Links,
    Message,
    Ping,
    Pong,
    PpDigest,
    PpRecords,
    Record,
    parse,
)

ASK_AGAIN = 0.3
"""Seconds between two attempts."""
POLL = 0.02
GREET_AGAIN = 4.0
"""Seconds between two greetings: a worker closes a connection that it did not need for 10 s."""
MOST_ANSWERS = 64
"""Messages that are taken in answer to one question about links."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The last heartbeat of a worker."""

    message: Heartbeat
    at: float
    """When it was heard, on the loop's clock."""


@dataclass(eq=False)
class Heard:
    """What a visitor was told so far."""

    beats: dict[NodeId, Beat] = field(default_factory=dict[NodeId, Beat])
    records: dict[NodeId, Record] = field(default_factory=dict[NodeId, Record])
    names: dict[NodeId, str] = field(default_factory=dict[NodeId, str])
    """Of those that greeted us, by their own word."""
    abilities: dict[NodeId, int] = field(default_factory=dict[NodeId, int])
    """Capability bits of each that answered our greeting."""
    rtts: dict[NodeId, list[float]] = field(default_factory=dict[NodeId, list[float]])
    """Seconds between each answered PING and its PONG, in the order of the answers."""
    links: dict[NodeId, list[Links]] = field(default_factory=dict[NodeId, list[Links]])
    """Answers to the last LINKS_REQ of each."""
    gone: set[NodeId] = field(default_factory=set[NodeId])
    """Those at whose address nobody listens."""
    told_by: NodeId | None = None
    """Who last spoke of its table."""
    answers: int = 0
    spec: TopologySpec | None = None
    """None while nobody spoke of a later one than the run began with."""


class Visit(Heard):
    """One visit, on the running loop; made by :func:`~dagrad_bus.bus.visitor.enter`."""

    def __init__(self, transport: Transport, identity: Identity) -> None:
        super().__init__()
        hello = identity.hello(transport.inbox, transport.beat)
        self.hello = replace(hello, capabilities=hello.capabilities | VISITOR)
        self.transport = transport
        self._loop = asyncio.get_running_loop()
        self._identity = identity
        self._speakers: dict[bytes, NodeId] = {}
        """Who speaks on which connection, by a greeting with the run's proof."""
        self._strangers: set[NodeId] = set()
        """Connected workers that were not told yet who we are."""
        self._known: dict[NodeId, float] = {}
        """Those that were, and when."""
        self._pings: dict[int, tuple[NodeId, float]] = {}
        self._asked: dict[NodeId, int] = {}
        """Nonce of the last LINKS_REQ to each."""
        self._nonces = secrets.randbits(32)
        self._failure: Exception | None = None
        transport.start(self, self._fail)

    def _fail(self, error: Exception) -> None:
        self._failure = error

    # What arrives ----------------------------------------------------------------------------------------------

    def received(self, routing: bytes, parts: list[bytes]) -> None:
        """Take an answer, of somebody who holds the key."""
        message = _parsed(parts)
        if isinstance(message, Hello | HelloOk):
            self._greeted(routing, message)
            return
        peer = self._speakers.get(routing)
        if peer is None:
            return
        match message:
            case PpRecords():
                self.answers += 1
                self.told_by = peer
                self.records.update({record.node: record for record in message.records})
                self.spec = message.spec if message.spec is not None else self.spec
            case Pong() if self._pings.get(message.nonce, (None, 0.0))[0] == peer:
                self.rtts.setdefault(peer, []).append(perf_counter() - self._pings.pop(message.nonce)[1])
            case Links() if message.nonce == self._asked.get(peer) and len(self.links.get(peer, ())) < MOST_ANSWERS:
                self.links.setdefault(peer, []).append(message)
            case _:
                pass

    def _greeted(self, routing: bytes, message: Hello | HelloOk) -> None:
        try:
            self._identity.admit(message)
        except LayoutMismatch:
            pass  # a visitor trains nothing
        except RemoteError:
            return
        self._speakers[routing] = message.node
        self.names[message.node] = message.name
        if isinstance(message, HelloOk):
            self.abilities[message.node] = message.capabilities

    def beaten(self, peer: NodeId, parts: list[bytes]) -> None:
        """Take a heartbeat."""
        message = _parsed(parts)
        if isinstance(message, Heartbeat) and message.node == peer:
            self.beats[peer] = Beat(message, self._loop.time())

    def connection(self, peer: NodeId, *, up: bool) -> None:
        """Take note whom to introduce ourselves to."""
        (self._strangers.add if up else self._strangers.discard)(peer)
        self._known.pop(peer, None)
        if up:
            self.gone.discard(peer)
        else:
            self.abilities.pop(peer, None)

    def refused(self, peer: NodeId) -> None:
        """Take note that nobody is there."""
        self.gone.add(peer)

    def writable(self, peer: NodeId) -> None:
        """Nothing waits here."""

    # What is asked ---------------------------------------------------------------------------------------------

    def digest(self, spec: TopologySpec) -> PpDigest:
        """Return the question for all that is not known yet."""
        buckets = [0] * BUCKETS
        for record in self.records.values():
            buckets[bucket_of(record.node)] ^= fingerprint(record, is_behind=False)
        if not self.records:  # an empty table is like that of a worker that knows nobody yet
            buckets = list(range(1, BUCKETS + 1))
        return PpDigest(buckets=tuple(buckets), spec=self.spec or spec)

    def who_adopted(self, version: int) -> set[NodeId]:
        """Return the workers whose last heartbeat spoke of this spec, or of a later one."""
        return {node for node, beat in self.beats.items() if beat.message.spec_version >= version}

    def nonce(self) -> int:
        """Return a number that no question had before."""
        self._nonces += 1
        return self._nonces

    def ping(self, peer: NodeId) -> bool:
        """Send a PING; False: nobody is connected, or the connection takes nothing."""
        nonce, at = self.nonce(), perf_counter()  # the loop's time stands still for a millisecond under uvloop
        if peer not in self._known or not self.transport.send(peer, Ping(nonce)):
            return False
        self._pings[nonce] = peer, at
        return True

    def expect_links(self, peer: NodeId) -> int:
        """Return the nonce of a new question about links; answers to earlier ones are forgotten."""
        self._asked[peer] = self.nonce()
        self.links.pop(peer, None)
        return self._asked[peer]

    def introduce(self) -> None:
        """Say hello, before anything else, on each new connection; and again before it is closed for want of use."""
        if self._failure is not None:
            raise self._failure
        now = self._loop.time()
        for peer in [*self._strangers, *(one for one, at in self._known.items() if now - at > GREET_AGAIN)]:
            if self.transport.send(peer, self.hello):
                self._strangers.discard(peer)
                self._known[peer] = now

    def is_known_to(self, peer: NodeId) -> bool:
        """Whether we said hello to ``peer`` on the present connection."""
        return peer in self._known

    async def ask(self, peers: Iterable[NodeId], message: Message, done: Callable[[], bool], until: float) -> bool:
        """Send ``message`` to some again and again until ``done()``; False: time is up, or nobody is there."""
        peers, again = list(peers), dict[NodeId, float]()
        while not done():
            now = self._loop.time()
            if now >= until or self.gone.issuperset(peers):
                return False
            self.introduce()
            for peer in peers:
                if self.is_known_to(peer) and now >= again.get(peer, 0.0) and self.transport.send(peer, message):
                    again[peer] = now + ASK_AGAIN
            await asyncio.sleep(POLL)
        return True


def _parsed(parts: list[bytes]) -> Message | None:
    try:
        return parse(parts)
    except RemoteError:
        return None
