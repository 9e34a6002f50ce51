"""ZeroMQ sockets on the loop's thread; the only importer of zmq.

Two listening sockets (``inbox`` ROUTER, receive only; ``beat`` PUB) and two a neighbour (DEALER, send only; SUB), after
ZeroMQ RFC 36. Plain sockets, drained by ``add_reader``: their descriptor signals *edges*, so a drain takes all that is
there or comes back unasked, and every send looks again for an edge it may have swallowed.

Sends never block: a full queue is answered with False, and :meth:`Handler.writable` says when to try again. All
sockets have linger 0 from birth; a DEALER that is closed gets a moment for its goodbye. docs/wire.md lists the socket options and why each has its value.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import secrets
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

from dagrad_bus.errors import PortInUse, StartError
from dagrad_bus.ids import NodeId
from dagrad_bus.log import get_logger
from dagrad_bus.settings import TransportSettings
from dagrad_bus.wire import GOSSIP_TOPIC, HEARTBEAT_TOPIC, Message, pack

Parts = Sequence[bytes | memoryview]

MAX_MESSAGE = 1 << 20
"""Largest single part taken from the network, in bytes."""
DRAIN_MESSAGES, DRAIN_BYTES = 64, 2 << 20
"""What one drain takes before it lets others run."""
GOODBYE_MS = 100
"""How long a closed DEALER may go on writing what it was given: the goodbye, and frames before it."""
SPARE_DESCRIPTORS = 16
"""Left free: a peer takes about ten."""
ZERO_COPY = 1 << 16
"""Parts from this size on are handed to libzmq without a copy."""

# No HEARTBEAT_IVL anywhere: docs/decisions/0017.
_EVERY_SOCKET: dict[int, int] = {
    zmq.LINGER: 0,
    zmq.IPV6: 1,
    zmq.MAXMSGSIZE: MAX_MESSAGE,
    zmq.HANDSHAKE_IVL: 10_000,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,
    zmq.TCP_KEEPALIVE_INTVL: 5,
    zmq.TCP_KEEPALIVE_CNT: 3,
    zmq.TCP_MAXRT: 15_000,
}
_MONITORED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_DELAYED | zmq.EVENT_CLOSED
REFUSED_WITHIN = 1.0
"""An attempt to connect that ends sooner was refused; one that nobody answers takes ``CONNECT_TIMEOUT``."""
_LISTENING: dict[int, int] = {zmq.BACKLOG: 512}
_CONNECTING: dict[int, int] = {zmq.CONNECT_TIMEOUT: 3000}


class Handler(Protocol):
    """Who is told what the sockets receive; called on the loop's thread, never reentrantly from a send."""

    def received(self, routing: bytes, parts: list[bytes]) -> None:
        """Take one message of the inbox."""

    def beaten(self, peer: NodeId, parts: list[bytes]) -> None:
        """Take one heartbeat; a SUB names no sender, the socket does."""

    def connection(self, peer: NodeId, *, up: bool) -> None:
        """Take note that the DEALER towards ``peer`` finished a handshake, or lost its connection."""

    def refused(self, peer: NodeId) -> None:
        """Take note that nobody listens at the address of ``peer``."""

    def writable(self, peer: NodeId) -> None:
        """Take note that the DEALER towards ``peer`` may take messages again."""


class Drain:
    """One receiving socket on the loop: reads until nothing is left, within a budget."""

    def __init__(
        self, sock: zmq.Socket[bytes], receive: Callable[[list[bytes]], None], fail: Callable[[Exception], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._receive = receive
        self._fail = fail
        self._fd = int(sock.get(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        self._loop.call_soon(self._drain)

    def stop(self) -> None:
        """Leave the loop and close the socket, in this order."""
        self._loop.remove_reader(self._fd)
        self._sock.close(linger=0)

    def take_now(self) -> None:
        """Take what has arrived, without being called by the loop."""
        self._drain()

    def _drain(self) -> None:
        """Take what has arrived. The descriptor signals edges: take all of it, or come back unasked."""
        try:
            more = self._take()
        except Exception as error:  # noqa: BLE001  # outermost line of a callback: the owner ends with it
            self._fail(error)
            return
        if more and not self._sock.closed:
            self._loop.call_soon(self._drain)

    def _take(self) -> bool:
        """Receive up to the budget; return whether something may be left."""
        size = 0
        for _ in range(DRAIN_MESSAGES):
            if self._sock.closed or size >= DRAIN_BYTES:
                break
            try:
                parts = self._sock.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            self._receive(parts)
            size += sum(map(len, parts))
        return True


class Outlet:
    """One sending socket on the loop: never blocks, and says when a refused send may be tried again."""

    def __init__(self, sock: zmq.Socket[bytes], on_room: Callable[[], None], fail: Callable[[Exception], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_room = on_room
        self._fail = fail
        self._refused = False
        self._fd = int(sock.get(zmq.FD))
        self._loop.add_reader(self._fd, self._look)

    def stop(self) -> None:
        """Leave the loop and close the socket, in this order."""
        self._loop.remove_reader(self._fd)
        self._sock.close(linger=GOODBYE_MS)

    def send(self, parts: Parts) -> bool:
        """Hand one message to libzmq; False: not connected or no room, nothing was taken."""
        copy = all(len(part) < ZERO_COPY for part in parts)
        try:
            self._sock.send_multipart(parts, zmq.NOBLOCK, copy=copy)
        except zmq.Again:
            self._refused = True
            self._loop.call_soon(self._look)  # the refused send may have swallowed the edge that says 'room again'
            return False
        return True

    def _look(self) -> None:
        if self._sock.closed:
            return
        # Reading EVENTS is what takes the signal off the descriptor: left there, the loop would call this for ever.
        if int(self._sock.get(zmq.EVENTS)) & zmq.POLLOUT and self._refused:
            self._refused = False
            try:
                self._on_room()
            except Exception as error:  # noqa: BLE001  # outermost line of a callback: the owner ends with it
                self._fail(error)


class Ear:
    """The SUB that hears one peer's broadcasts: a SUB names no sender, the socket does."""

    def __init__(self, transport: Transport, peer: NodeId, beat: str) -> None:
        self.beat = beat
        sock = _socket(transport.ctx, zmq.SUB, _CONNECTING)
        _spread_reconnects(sock)
        sock.set(zmq.RCVHWM, 256)
        for topic in (HEARTBEAT_TOPIC, GOSSIP_TOPIC):
            sock.set(zmq.SUBSCRIBE, topic)
        sock.connect(beat)
        self.drain = Drain(sock, lambda parts: transport.handler.beaten(peer, parts), transport.fail)

    def close(self) -> None:
        """Hear no more."""
        self.drain.stop()


class Peer:
    """The DEALER towards one peer, with its monitor, and the SUB that hears it where that is wanted."""

    def __init__(self, transport: Transport, peer: NodeId, inbox: str) -> None:
        self._handler = transport.handler
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self._trying_since = 0.0
        self.inbox = inbox
        self.ear: Ear | None = None
        self._dealer = _socket(transport.ctx, zmq.DEALER, _CONNECTING)
        _spread_reconnects(self._dealer)
        self._dealer.set(zmq.ROUTING_ID, b"\1" + transport.self_id + secrets.token_bytes(8))
        self._dealer.set(zmq.IMMEDIATE, 1)
        self._dealer.set(zmq.SNDHWM, 2)
        monitor = self._dealer.get_monitor_socket(_MONITORED)
        self._dealer.connect(inbox)
        self._monitor = Drain(monitor, self._monitored, transport.fail)
        self._outlet = Outlet(self._dealer, lambda: self._handler.writable(peer), transport.fail)
        self.send = self._outlet.send

    def _monitored(self, parts: list[bytes]) -> None:
        match parse_monitor_message(parts)["event"]:
            case zmq.EVENT_CONNECT_DELAYED:
                self._trying_since = self._loop.time()
            case zmq.EVENT_CLOSED:
                if self._loop.time() - self._trying_since < REFUSED_WITHIN:
                    self._handler.refused(self._peer)
            case event:
                self._handler.connection(self._peer, up=event == zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def close(self) -> None:
        """Close all sockets. The monitor goes first: closing a monitored socket can hang on its PAIR."""
        self._dealer.disable_monitor()
        self._monitor.stop()
        self._outlet.stop()
        if self.ear is not None:
            self.ear.close()


class Transport:
    """All sockets of one worker. Made by :func:`open_transport`; used on the loop's thread only."""

    def __init__(self, ctx: zmq.Context[zmq.Socket[bytes]], self_id: NodeId, settings: TransportSettings) -> None:
        self.ctx = ctx
        self.self_id = self_id
        self._peers: dict[NodeId, Peer] = {}
        self.starved = 0
        """Connections not opened for want of descriptors."""
        self._is_starved = False
        self._drain: Drain | None = None
        self._router = _socket(ctx, zmq.ROUTER, _LISTENING)
        self._router.set(zmq.RCVHWM, 8)
        self._router.set(zmq.ROUTER_HANDOVER, 1)
        self._router.set(zmq.ROUTER_MANDATORY, 1)
        self._beat = _socket(ctx, zmq.PUB, _LISTENING)
        self._beat.set(zmq.SNDHWM, 256)
        self.inbox = _bind(self._router, "inbox", settings, settings.inbox_port, settings.advertise_inbox_port)
        self.beat = _bind(self._beat, "beat", settings, settings.beat_port, settings.advertise_beat_port)

    def start(self, handler: Handler, fail: Callable[[Exception], None]) -> None:
        """Tell ``handler`` from now on what arrives, and ``fail`` what it raised.

        Binding comes before this: a socket whose bind failed must not be registered with the loop.
        """
        self.handler, self.fail = handler, fail
        self._drain = Drain(self._router, self._received, fail)

    def _received(self, parts: list[bytes]) -> None:
        self.handler.received(parts[0], parts[1:])

    def connect(self, peer: NodeId, inbox: str, beat: str | None) -> None:
        """Open (or replace, where the address changed) the sockets towards ``peer``; without ``beat`` no SUB."""
        self.disconnect(peer)
        if self._has_descriptors():
            self._peers[peer] = Peer(self, peer, inbox)
            self.listen(peer, beat)

    def _has_descriptors(self) -> bool:
        """Whether there are enough for one more peer; libzmq may abort the process where it finds none.

        Without them nothing is opened: whoever wants the connection asks again, and those that stand go on.
        """
        limit, used = _descriptors()
        if used + SPARE_DESCRIPTORS <= limit:
            self._is_starved = False
            return True
        self.starved += 1
        if not self._is_starved:
            self._is_starved = True
            get_logger().error("descriptors_exhausted", limit=limit, used=used, help="raise it: ulimit -n 4096")
        return False

    def listen(self, peer: NodeId, beat: str | None) -> None:
        """Hear the broadcasts of a connected peer at ``beat`` from now on, or with None no more."""
        found = self._peers.get(peer)
        if found is None or (found.ear is not None and found.ear.beat == beat):
            return
        if found.ear is not None:
            found.ear.close()
        found.ear = Ear(self, peer, beat) if beat and self._has_descriptors() else None

    def hear_now(self) -> None:
        """Take all that has arrived at once: a loop that was late hears out the others before it judges them."""
        drains = [peer.ear.drain for peer in self._peers.values() if peer.ear is not None]
        for drain in [*drains, *([self._drain] if self._drain is not None else [])]:
            drain.take_now()

    def disconnect(self, peer: NodeId) -> None:
        """Close the sockets towards ``peer``, if there are any."""
        if (found := self._peers.pop(peer, None)) is not None:
            found.close()

    def address_of(self, peer: NodeId) -> str | None:
        """Return the inbox endpoint connected to, or None."""
        return found.inbox if (found := self._peers.get(peer)) else None

    def send(self, peer: NodeId, message: Message) -> int:
        """Send one message to ``peer`` and return its bytes; 0: nobody there or no room, nothing was taken."""
        parts = pack(message)
        return sum(map(len, parts)) if self.send_parts(peer, parts) else 0

    def send_parts(self, peer: NodeId, parts: Parts) -> bool:
        """Send what is packed already; False: nobody there or no room, nothing was taken."""
        found = self._peers.get(peer)
        return found is not None and found.send(parts)

    def broadcast(self, message: Message) -> int:
        """Publish a heartbeat or news and return the bytes of one copy; subscribers that cannot take it miss it."""
        parts = pack(message)
        self.broadcast_parts(parts)
        return sum(map(len, parts))

    def broadcast_parts(self, parts: Parts) -> None:
        """Publish what is packed already."""
        self._beat.send_multipart(parts, zmq.NOBLOCK)

    def close(self) -> None:
        """Close every socket, the listening ones last."""
        for peer in list(self._peers):
            self.disconnect(peer)
        if self._drain is not None:
            self._drain.stop()
        self._router.close(linger=0)
        self._beat.close(linger=0)


@contextmanager
def open_transport(self_id: NodeId, settings: TransportSettings) -> Generator[Transport]:
    """Bind the listening sockets; on leaving close everything and end the context.

    Raises:
        StartError: an address cannot be bound; the message names it and the cause.
    """
    ctx: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    ctx.set(zmq.MAX_SOCKETS, 4096)
    transport: Transport | None = None
    try:
        transport = Transport(ctx, self_id, settings)
        yield transport
    finally:
        # A context left to the collector may block whatever thread collects it: it ends here, in its own thread.
        if transport is not None:
            transport.close()
        ctx.destroy(linger=0)


def _socket(ctx: zmq.Context[zmq.Socket[bytes]], kind: int, options: dict[int, int]) -> zmq.Socket[bytes]:
    sock = ctx.socket(kind)
    for option, value in (_EVERY_SOCKET | options).items():
        sock.set(option, value)
    return sock


def _descriptors() -> tuple[int, int]:
    """Return how many descriptors this process may have, and how many it has."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        return limit, len(os.listdir("/proc/self/fd"))
    except OSError as error:
        return limit, limit if error.errno == errno.EMFILE else 0


def _spread_reconnects(sock: zmq.Socket[bytes]) -> None:
    """Draw both intervals anew for each socket: together they switch libzmq's own jitter off."""
    sock.set(zmq.RECONNECT_IVL, 150 + secrets.randbelow(200))
    sock.set(zmq.RECONNECT_IVL_MAX, 4000 + secrets.randbelow(2000))


def _bind(sock: zmq.Socket[bytes], what: str, settings: TransportSettings, port: int, told: int) -> str:
    """Bind and return the endpoint to tell others; ``told`` is the port it names, 0 the bound one."""
    address, span = settings.bind, settings.port_range
    ports = [port] if port or span is None else list(range(span[0], span[1] + 1))
    secrets.SystemRandom().shuffle(ports)  # in order, workers that start together would all try the same ones
    for at in ports:
        try:
            sock.bind(f"tcp://{f'[{address}]' if ':' in address else address}:{at or '*'}")
            break
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise StartError(f"cannot bind the {what} socket to {address}:{at}: {error.strerror}") from None
    else:
        raise _no_port(what, address, ports)
    bound = bytes(sock.get(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode().rpartition(":")[2]
    host = settings.advertise or ("127.0.0.1" if address == "*" else address)
    return f"tcp://{f'[{host}]' if ':' in host else host}:{told or bound}"


def _no_port(what: str, address: str, tried: Sequence[int]) -> StartError:
    which = f"{address}:{tried[0]}" if len(tried) == 1 else f"{address}, ports {min(tried)} to {max(tried)}"
    hint = "is another worker using it? port 0 takes any free one" if len(tried) == 1 else "widen DAGRAD_PORT_RANGE"
    kind = PortInUse if len(tried) == 1 else StartError
    return kind(f"cannot bind the {what} socket to {which}: Address already in use ({hint})")
