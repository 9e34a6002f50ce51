"""A TCP proxy that hurts what passes: delay, rate, hang, cut, reset, bit flips, replay, a second connection.

It stands before the listening sockets of workers, which advertise its ports instead of their own
(``TransportSettings.advertise_inbox_port``). Each direction of each connection is a :class:`~dagrad_bus.faults.conduit.Conduit`
with :class:`~dagrad_bus.faults.conduit.Faults` that may change at any time. Connections are told apart by the routing id in their
first ZMTP command.

What it cannot do: refuse a connection. The kernel accepts before the proxy knows that nobody listens behind it, so a
peer that was killed looks like one that hangs up at once.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self

from dagrad_bus.faults.conduit import READ, Conduit, Faults, Tape
from dagrad_bus.faults.zmtp import GREETING, node_of

Direction = Literal["up", "down"]
"""``up``: from who connected to who listens."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: close() sends RST."""


@dataclass(slots=True, eq=False)
class Connection:
    """Both directions of one connection through the proxy."""

    route: str
    client: socket.socket
    server: socket.socket
    up: Conduit
    down: Conduit
    task: asyncio.Task[None] | None = None

    @property
    def peer(self) -> str:
        """Node id, in hex, of who connected; empty while unknown."""
        return node_of(self.up.framing.identity).hex()

    def conduit(self, direction: Direction) -> Conduit:
        """Return one direction."""
        return self.up if direction == "up" else self.down

    async def run(self) -> None:
        """Forward until either side ends."""
        rude = False
        try:
            async with asyncio.TaskGroup() as group:
                for conduit in (self.up, self.down):
                    group.create_task(conduit.read())
                    group.create_task(self._finish(conduit))
        except* _Finished:
            pass
        except* (OSError, asyncio.CancelledError):
            rude = True
        for sock in (self.client, self.server):
            if rude:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()

    async def _finish(self, conduit: Conduit) -> None:
        await conduit.write()
        raise ConnectionResetError if conduit.is_cut else _Finished

    def reset(self) -> None:
        """End both sides with RST."""
        if self.task is not None:
            self.task.cancel()


class _Finished(Exception):
    """One side ended in order: so does the other."""


class Proxy:
    """All routes of one proxy, on the running loop; an async context manager.

    Args:
        seed: of every random choice: jitter and bit flips.
    """

    def __init__(self, seed: int = 0) -> None:
        self.counts: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._rules: dict[tuple[str, str, Direction], Faults] = {}
        self._keep: dict[str, int] = {}
        self._tapes: dict[tuple[str, str], Tape] = {}
        self._connections: dict[int, Connection] = {}

    async def __aenter__(self) -> Self:
        """Start."""
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._servers: list[asyncio.Task[None]] = []
        return self

    async def __aexit__(self, *_: object) -> None:
        """End every connection and every listener."""
        for task in self._servers:
            task.cancel()
        for connection in list(self._connections.values()):
            connection.reset()
        await self._group.__aexit__(None, None, None)

    def open(self, route: str, upstream: tuple[str, int], *, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen for ``route`` and forward to ``upstream``; return the port.

        Raises:
            OSError: the address cannot be bound.
        """
        listener = socket.create_server((host, port), backlog=512)
        listener.setblocking(False)
        self._servers.append(self._group.create_task(self._accept(route, listener, upstream)))
        return int(listener.getsockname()[1])

    async def _accept(self, route: str, listener: socket.socket, upstream: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                client, _ = await loop.sock_accept(listener)
                self._group.create_task(self._forward(route, client, upstream))

    async def _forward(self, route: str, client: socket.socket, upstream: tuple[str, int]) -> None:
        server = socket.socket(socket.AF_INET6 if ":" in upstream[0] else socket.AF_INET)
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().sock_connect(server, upstream)
        except (OSError, asyncio.CancelledError):
            client.close()
            server.close()
            return
        connection = Connection(
            route,
            client,
            server,
            Conduit(client, server, self._rng, self.counts),
            Conduit(server, client, self._rng, self.counts),
        )
        self.counts["connections"] += 1
        number = self.counts["connections"]
        self._connections[number] = connection
        self._apply(connection)
        connection.up.on_named = lambda: self._named(connection)
        connection.task = self._group.create_task(connection.run())
        connection.task.add_done_callback(lambda _: self._connections.pop(number))

    def _named(self, connection: Connection) -> None:
        """Apply the rules for the peer, now that it is known who connected."""
        kept = self._keep.get(connection.route, 0)
        if kept:
            key = connection.route, connection.peer
            connection.up.tape = self._tapes.setdefault(key, Tape(deque(maxlen=kept)))
        self._apply(connection)

    # Orders ----------------------------------------------------------------------------------------------------

    def set(
        self, route: str = "", peer: str = "", direction: Direction | Literal["both"] = "both", **change: object
    ) -> int:
        """Change faults of matching connections, those to come included; return how many match now.

        Args:
            route: name given to :meth:`open`; empty: all.
            peer: node id in hex of who connects; empty: all.
            direction: ``up``, ``down`` or ``both``.
            change: fields of :class:`Faults`; the others stay.
        """
        ways: tuple[Direction, ...] = ("up", "down") if direction == "both" else (direction,)
        for way in ways:
            former = self._rules.get((route, peer, way), Faults())
            self._rules[route, peer, way] = replace(former, **change)  # type: ignore[arg-type]  # fields by name
        found = list(self.matching(route, peer))
        for connection in found:
            self._apply(connection)
        return len(found)

    def _apply(self, connection: Connection) -> None:
        ways: tuple[Direction, ...] = ("up", "down")
        for way in ways:
            conduit = connection.conduit(way)
            route, peer = connection.route, connection.peer
            for at in ((route, peer), (route, ""), ("", peer), ("", "")):  # the closest rule wins
                rule = self._rules.get((*at, way))
                if rule is not None:
                    conduit.faults = rule
                    break
            conduit.changed.set()

    def matching(self, route: str = "", peer: str = "") -> Iterator[Connection]:
        """Yield the connections of a route, of a peer; the oldest first."""
        for connection in list(self._connections.values()):
            if route in {"", connection.route} and peer in {"", connection.peer}:
                yield connection

    def reset(self, route: str = "", peer: str = "") -> int:
        """End matching connections with RST on both sides; return how many."""
        found = list(self.matching(route, peer))
        for connection in found:
            connection.reset()
        self.counts["resets"] += len(found)
        return len(found)

    def cut(self, route: str = "", peer: str = "", *, after: int = 0, direction: Direction = "up") -> int:
        """Reset matching connections after so many more bytes, wherever that is; return how many."""
        found = list(self.matching(route, peer))
        for connection in found:
            connection.conduit(direction).cut_after = after
        self.counts["cuts"] += len(found)
        return len(found)

    def record(self, route: str, messages: int) -> None:
        """Keep the last ``messages`` messages of each peer that connects to ``route`` from now on."""
        self._keep[route] = messages

    def tape(self, route: str, peer: str) -> Tape:
        """Return what ``peer`` sent to ``route``; empty where nothing was recorded."""
        return self._tapes.get((route, peer), Tape(deque()))

    def replay(self, route: str, peer: str, messages: list[bytes]) -> int:
        """Slip raw messages into the live connections of ``peer``, between two of its own; return how many connections."""
        found = list(self.matching(route, peer))
        for connection in found:
            connection.up.inject(messages)
        return len(found)

    async def impersonate(self, upstream: tuple[str, int], handshake: bytes, messages: list[bytes]) -> None:
        """Open a second connection with another's handshake, routing id included, and send messages on it.

        Returns once the listener hung up, or 2 s after the last message.
        """
        reader, writer = await asyncio.open_connection(*upstream)
        try:
            writer.write(handshake)
            async with asyncio.timeout(2):
                await reader.readexactly(GREETING + 1)  # messages that come before the answer are lost
            writer.write(b"".join(messages))
            await writer.drain()
            self.counts["impersonated"] += 1
            async with asyncio.timeout(2):
                while await reader.read(READ):
                    pass
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
