"""One direction of a proxied connection, and what is done to it."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from dagrad_bus.faults.zmtp import Framing, Piece

READ = 1 << 16
"""Bytes read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What happens to one direction. Seconds and bytes."""

    delay: float = 0.0
    jitter: float = 0.0
    """Uniform, added to or taken from the delay; bytes never overtake one another."""
    rate: float = 0.0
    """Bytes a second; 0: unlimited."""
    hang: bool = False
    """Nothing passes; what has been read waits. In one direction only: a one-way blackhole."""
    flip_every: int = 0
    """One bit is flipped in about so many bytes, behind the handshake; 0: none."""
    buffer: int = 1 << 20
    """Bytes held back at most; beyond, the sender's own buffers fill."""


@dataclass(slots=True)
class Tape:
    """What one peer sent to one listener, whatever the connection: raw ZMTP, message by message."""

    messages: deque[bytes]
    handshake: bytes = b""
    """Greeting and READY of the newest connection."""


@dataclass(slots=True, eq=False)
class Conduit:
    """One direction of one connection."""

    source: socket.socket
    sink: socket.socket
    rng: random.Random
    counts: Counter[str]
    faults: Faults = Faults()
    framing: Framing = field(default_factory=Framing)
    cut_after: int = -1
    """Bytes until the connection is reset, wherever that is in a message; -1: never."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    on_named: Callable[[], None] | None = None
    """Called when it is known who speaks."""
    tape: Tape | None = None
    is_cut: bool = False
    _handshake: bytes = b""
    _message: bytearray = field(default_factory=bytearray)
    _queue: deque[tuple[float, bytes]] = field(default_factory=deque[tuple[float, bytes]])
    _held: int = 0
    _due: float = 0.0
    _slots: deque[bytes] = field(default_factory=deque[bytes])
    """Messages to slip in at the next boundary."""
    _ended: bool = False
    _started: bool = False
    """A message has passed: the handshake is over."""

    def inject(self, messages: list[bytes]) -> None:
        """Slip whole messages in where the present one ends."""
        self._slots.extend(messages)
        if not self._message:
            self._flush_slots()
        self.changed.set()

    async def read(self) -> None:
        """Take in bytes until the source ends or the conduit is cut."""
        loop = asyncio.get_running_loop()
        while not self._ended:
            while self._held >= self.faults.buffer:
                self.changed.clear()
                await self.changed.wait()
            data = await loop.sock_recv(self.source, READ)
            if not data:
                break
            unnamed = not self.framing.identity
            pieces = self.framing.feed(data)
            if unnamed and self.framing.identity and self.on_named is not None:
                self.on_named()
            for piece in pieces:
                self._take(piece)
            self.changed.set()
        self._ended = True
        self.changed.set()

    def _take(self, piece: Piece) -> None:
        self._note(piece)
        if self.cut_after < 0:
            self._put(self._flipped(piece) if self._started else piece.data)
            if piece.ends:
                self._flush_slots()
            return
        self._put(piece.data[: self.cut_after])
        self.cut_after -= len(piece.data)
        if self.cut_after <= 0 and not self._ended:
            self.counts["cut_within"] += int(self.cut_after < 0 or not piece.ends)
            self._ended = self.is_cut = True

    def _note(self, piece: Piece) -> None:
        """Keep the handshake and whole messages."""
        tape = self.tape
        if piece.command:
            if not self._started:
                self._handshake += piece.data
                if tape is not None:
                    tape.handshake = self._handshake
            return
        self._started = True
        self._message += piece.data
        if piece.ends:
            self.counts["messages"] += 1
            if tape is not None:
                tape.messages.append(bytes(self._message))
            self._message.clear()

    def _flush_slots(self) -> None:
        while self._slots:
            self._put(self._slots.popleft())
            self.counts["injected"] += 1

    def _flipped(self, piece: Piece) -> bytes:
        every = self.faults.flip_every
        if not every:
            return piece.data
        data = bytearray(piece.data)
        at = int(self.rng.expovariate(1 / every))
        while at < len(data):
            data[at] ^= 1 << self.rng.randrange(8)
            self.counts["flips"] += 1
            at += 1 + int(self.rng.expovariate(1 / every))
        return bytes(data)

    def _put(self, data: bytes) -> None:
        faults = self.faults
        now = asyncio.get_running_loop().time()
        extra = self.rng.uniform(-faults.jitter, faults.jitter) if faults.jitter else 0.0
        self._due = max(self._due, now + max(0.0, faults.delay + extra))
        self._queue.append((self._due, data))
        self._held += len(data)

    async def write(self) -> None:
        """Pass on what is due, until all is written that came."""
        loop = asyncio.get_running_loop()
        while True:
            while self.faults.hang or not self._queue:
                if self._ended and not self._queue:
                    return
                self.counts["hung"] += int(self.faults.hang and bool(self._queue))
                self.changed.clear()
                await self.changed.wait()
            due, data = self._queue[0]
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
                continue
            self._queue.popleft()
            if self.faults.rate:
                await self._write_slowly(data)
            else:
                await loop.sock_sendall(self.sink, data)
            self._held -= len(data)
            self.counts["bytes"] += len(data)
            self.changed.set()

    async def _write_slowly(self, data: bytes) -> None:
        """Write in pieces of about 20 ms each."""
        loop = asyncio.get_running_loop()
        at = 0
        while at < len(data):
            rate = self.faults.rate
            step = max(1, int(rate / 50)) if rate else len(data)
            await loop.sock_sendall(self.sink, data[at : at + step])
            at += step
            if rate:
                await asyncio.sleep(min(step, len(data)) / rate)
