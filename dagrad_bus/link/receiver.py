"""The receiving side of one link: assembly, verdicts, acknowledgement, credit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dagrad_bus.events import Send
from dagrad_bus.ids import EdgeId, NodeId
from dagrad_bus.link.actions import HISTORY, Action, Assembled, Dropped
from dagrad_bus.settings import LinkSettings
from dagrad_bus.wire import Ack, AckInfo, Data, DataHead, Nack, NackCode, Ping

_MASK = (1 << HISTORY) - 1


class InLink:
    """The receiving side of one link, bound to one connection (routing id) of one process of the peer.

    Args:
        peer: who sends.
        epoch: boot epoch of the sending process.
        edge: id of the link, as derived by both ends.
        routing: routing id the HELLO came from; frames from another one are refused.
        settings: windows and limits.
        has_room: asked whenever credit is computed: does the mailbox take more of this peer?
    """

    def __init__(
        self,
        peer: NodeId,
        epoch: int,
        edge: EdgeId,
        routing: bytes,
        settings: LinkSettings,
        has_room: Callable[[NodeId], bool],
    ) -> None:
        self.peer, self.epoch, self.edge, self.routing = peer, epoch, edge, routing
        self.resolved = 0
        self.history = 0
        self.credit = 0
        self._settings = settings
        self._has_room = has_room
        self._seq = 0
        self._head: DataHead | None = None
        self._parts: list[bytes | memoryview] = []
        self._size = 0
        self._chunk_n = 0
        self._first_at = 0.0
        self._decoding: deque[int] = deque()
        self._ping: Ping | None = None
        self._ack_since: float | None = None
        self._starved = False

    @property
    def assembly_bytes(self) -> int:
        """Bytes of the partial frame in assembly."""
        return self._size

    def rebind(self, routing: bytes) -> None:
        """Bind the link to a new connection of the same process; a partial frame of the old one stays void."""
        self.routing = routing

    def info(self, now: float) -> AckInfo:
        """Return what an acknowledgement says now."""
        self._grant()
        held = 0 if self._ack_since is None else round((now - self._ack_since) * 1000)
        return AckInfo(resolved=self.resolved, history=self.history, credit=self.credit, held_ms=held)

    def ack_sent(self) -> None:
        """Take note that an acknowledgement left: none is due any more."""
        self._ack_since = None

    def _grant(self) -> None:
        room = self._has_room(self.peer)
        self._starved = not room
        if room:
            self.credit = max(self.credit, self.resolved + self._settings.window)

    def riding_ack(self, now: float) -> AckInfo | None:
        """Return an acknowledgement to ride on a frame of the reverse link, or None if nothing is new.

        The caller says :meth:`ack_sent` once the frame has left.
        """
        return self.info(now) if self._ack_since is not None else None

    def _ack(self, now: float) -> Send:
        message = Ack(edge=self.edge, seq=0, info=self.info(now))
        self.ack_sent()
        return Send(self.peer, message)

    def _nack(self, seq: int, code: int) -> Send:
        return Send(self.peer, Nack(edge=self.edge, seq=0, refused=seq, code=code))

    def data(self, message: Data, now: float) -> list[Action]:
        """Take one chunk."""
        seq = message.seq
        if seq <= self.resolved or seq in self._decoding:
            return [Dropped("late")]
        if seq > self.credit:
            return [Dropped("overload"), self._nack(seq, NackCode.OVERLOAD)]
        if message.chunk_ix == 0:
            self._begin(message, now)
        elif seq != self._seq or self._head is None or message.chunk_ix != len(self._parts):
            self._forget_partial()
            return [Dropped("gap"), *self._settle(seq, False, now), self._nack(seq, NackCode.GAP)]
        self._parts.append(message.payload)
        self._size += len(message.payload)
        if len(self._parts) < self._chunk_n:
            return []
        return self._complete(seq, now)

    def _begin(self, message: Data, now: float) -> None:
        if message.head is None:
            raise AssertionError("the parser refuses a chunk 0 without a header")
        self._seq, self._head, self._chunk_n = message.seq, message.head, message.chunk_n
        self._parts, self._size, self._first_at = [], 0, now

    def _forget_partial(self) -> None:
        self._head, self._parts, self._size = None, [], 0

    def _complete(self, seq: int, now: float) -> list[Action]:
        head, size = self._head, self._size
        payload = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._forget_partial()
        if head is None:
            raise AssertionError("a frame in assembly has its header")
        if size != head.size or head.raw_size > self._settings.max_frame:
            code = NackCode.LAYOUT if size != head.size else NackCode.TOO_BIG
            return [Dropped("size"), *self._settle(seq, False, now), self._nack(seq, code)]
        self._decoding.append(seq)
        return [Assembled(self.peer, self, seq, head, payload, self._first_at, size)]

    def verdict(self, seq: int, code: int, now: float) -> list[Action]:
        """Take the decoder's word on a frame: ``code`` 0 accepted, else the NACK code. Called in order of seq."""
        if not self._decoding or self._decoding[0] != seq:
            raise AssertionError(f"verdict on {seq}, but decoding {list(self._decoding)}: one decoder keeps the order")
        self._decoding.popleft()
        actions = self._settle(seq, code == 0, now)
        if code:
            actions = [*actions, self._nack(seq, code)]
        if self._ping is not None and not self._decoding:
            ping, self._ping = self._ping, None
            actions += self.ping(ping, now)
        return actions

    def _settle(self, seq: int, ok: bool, now: float) -> list[Action]:
        """Resolve ``seq``; numbers jumped over keep bit 0. Acknowledge now if the sender cannot go on without."""
        if seq <= self.resolved:
            return []
        self.history = ((self.history << (seq - self.resolved)) | ok) & _MASK if seq - self.resolved < HISTORY else int(ok)
        self.resolved = seq
        if self._ack_since is None:
            self._ack_since = now
        return [self._ack(now)] if seq >= self.credit else []

    def ping(self, message: Ping, now: float) -> list[Action]:
        """Take a PING: nothing up to its ``used`` can still arrive, so all of it is resolved."""
        if self._decoding:
            self._ping = message  # its verdicts come first
            return []
        if self._head is not None and self._seq <= message.used:
            self._forget_partial()
        if message.used > self.resolved and message.used <= self.credit:
            self._settle(message.used, False, now)
        return [self._ack(now)]

    def drained(self, now: float) -> list[Action]:
        """Take note that the mailbox was emptied: credit that had stopped returns at once."""
        return [self._ack(now)] if self._starved and self._has_room(self.peer) else []

    def next_deadline(self) -> float | None:
        """When a delayed acknowledgement is due."""
        return None if self._ack_since is None else self._ack_since + self._settings.ack_delay

    def tick(self, now: float) -> list[Action]:
        """Send the acknowledgement that waited long enough."""
        deadline = self.next_deadline()
        return [self._ack(now)] if deadline is not None and now >= deadline else []
