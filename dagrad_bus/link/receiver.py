"""The receiving side of one link: assembly, verdicts, acknowledgement, credit."""

from __future__ import annotations

from collections.abc import Callable

from dagrad_bus.events import Send
from dagrad_bus.ids import EdgeId, NodeId
from dagrad_bus.link.actions import HISTORY, Action, Assembled, Dropped
from dagrad_bus.settings import LinkSettings
from dagrad_bus.wire import Ack, AckInfo, Data, DataHead, Nack, NackCode, Ping

_MASK = (1 << HISTORY) - 1
_MAX_SEQ = 1 << 63
"""No honest sender gets there; credit beyond it still fits the wire's u64."""


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
        self._verdicts: dict[int, int | None] = {}
        """Frames being decoded, and those behind them that were refused already: seq to NACK code, None while open."""
        self._ping: Ping | None = None
        self._ack_since: float | None = None
        self._last_size = 0
        self._told = 0
        """The credit that the last acknowledgement spoke of; ``credit`` may be ahead of it."""

    @property
    def assembly_bytes(self) -> int:
        """Bytes of the partial frame in assembly."""
        return self._size

    def rebind(self, routing: bytes) -> None:
        """Bind the link to a new connection of the same process; a partial frame of the old one stays void."""
        self.routing = routing

    def begin_anew(self) -> bool:
        """Forget a partial frame, as its sender has; False: frames are still being decoded, their numbers are open."""
        self._forget_partial()
        return not self._verdicts

    def info(self, now: float) -> AckInfo:
        """Return what an acknowledgement says now."""
        self._grant()
        held = 0 if self._ack_since is None else round((now - self._ack_since) * 1000)
        return AckInfo(resolved=self.resolved, history=self.history, credit=self.credit, held_ms=held)

    def ack_sent(self) -> None:
        """Take note that an acknowledgement left: none is due any more."""
        self._ack_since = None
        self._told = self.credit

    def _grant(self) -> None:
        if self._has_room(self.peer):
            self.credit = max(self.credit, self.resolved + self._window())

    def _window(self) -> int:
        """Return the frames the sender may have in flight: few large ones, which age, but many small ones.

        A round trip takes several steps where workers outnumber cores; a link that waits for it skips exchanges.
        """
        settings = self._settings
        return max(min(2, settings.window), min(settings.window, settings.window_bytes // max(1, self._last_size)))

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
        if seq <= self._newest:
            return [Dropped("late")]
        if seq > self.credit:
            return [Dropped("overload"), self._nack(seq, NackCode.OVERLOAD)]
        if message.head is not None:
            if message.head.raw_size > self._settings.max_frame:
                return [Dropped("size"), *self._refuse(seq, NackCode.TOO_BIG, now)]
            self._begin(message, message.head, now)
        elif seq != self._seq or self._head is None or message.chunk_ix != len(self._parts):
            return [Dropped("gap"), *self._refuse(seq, NackCode.GAP, now)]
        self._parts.append(message.payload)
        self._size += len(message.payload)
        if len(self._parts) < self._chunk_n:
            return []
        return self._complete(seq, now)

    @property
    def _newest(self) -> int:
        """The highest number with a verdict, or waiting for one."""
        return max(self.resolved, *self._verdicts) if self._verdicts else self.resolved

    def _begin(self, message: Data, head: DataHead, now: float) -> None:
        self._seq, self._head, self._chunk_n = message.seq, head, message.chunk_n
        self._parts, self._size, self._first_at = [], 0, now

    def _forget_partial(self) -> None:
        self._head, self._parts, self._size = None, [], 0

    def _complete(self, seq: int, now: float) -> list[Action]:
        head, size = self._head, self._size
        parts = tuple(self._parts)
        self._forget_partial()
        if head is None:
            raise AssertionError("a frame in assembly has its header")
        if size != head.size:
            return [Dropped("size"), *self._refuse(seq, NackCode.LAYOUT, now)]
        self._verdicts[seq] = None
        self._last_size = size
        return [Assembled(self.peer, self, seq, head, parts, self._first_at, size)]

    def verdict(self, seq: int, code: int, now: float) -> list[Action]:
        """Take the decoder's word on a frame: ``code`` 0 accepted, else the NACK code. Applied in order of seq."""
        if self._verdicts.get(seq, code) is not None:
            raise AssertionError(f"verdict on {seq}, but decoding {self._verdicts}: one verdict for each frame")
        self._verdicts[seq] = code
        actions: list[Action] = []
        while self._verdicts:
            first, known = next(iter(self._verdicts.items()))
            if known is None:
                break
            del self._verdicts[first]
            actions += self._settle(first, known == 0, now)
            if known:
                actions.append(self._nack(first, known))
        if self._ping is not None and not self._verdicts:
            ping, self._ping = self._ping, None
            actions += self.ping(ping, now)
        return actions

    def corrupt(self, seq: int, now: float) -> list[Action]:
        """Take note that a chunk of frame ``seq`` arrived damaged; the rest of the frame is of no use."""
        if seq <= self._newest or seq > self.credit:
            return []
        return self._refuse(seq, NackCode.CRC, now)

    def _refuse(self, seq: int, code: int, now: float) -> list[Action]:
        """Refuse a frame before any decoding; the word on it waits for frames before it that are being decoded."""
        self._forget_partial()
        self._verdicts[seq] = None
        return self.verdict(seq, code, now)

    def _settle(self, seq: int, ok: bool, now: float) -> list[Action]:
        """Resolve ``seq``; numbers jumped over keep bit 0. Acknowledge now if the sender will soon need it."""
        if seq <= self.resolved:
            return []
        self.history = (
            ((self.history << (seq - self.resolved)) | ok) & _MASK if seq - self.resolved < HISTORY else int(ok)
        )
        self.resolved = seq
        if self._ack_since is None:
            self._ack_since = now
        urgent = self._told - seq <= self._window() // 4
        return [self._ack(now)] if urgent else []

    def ping(self, message: Ping, now: float) -> list[Action]:
        """Take a PING: nothing up to its ``used`` can still arrive, so all of it is resolved."""
        if self._verdicts:
            self._ping = message  # what is being decoded comes first
            return []
        if self._head is not None and self._seq <= message.used:
            self._forget_partial()
        if self.resolved < message.used <= _MAX_SEQ:  # beyond the credit too: a sender that knows of more is right
            self._settle(message.used, False, now)
        return [self._ack(now)]

    def drained(self, now: float) -> list[Action]:
        """Take note that the mailbox was emptied: credit that had stopped returns at once."""
        starved = self.resolved >= self._told
        return [self._ack(now)] if starved and self._has_room(self.peer) else []

    def next_deadline(self) -> float | None:
        """When a delayed acknowledgement is due."""
        return None if self._ack_since is None else self._ack_since + self._settings.ack_delay

    def tick(self, now: float) -> list[Action]:
        """Send the acknowledgement that waited long enough."""
        deadline = self.next_deadline()
        return [self._ack(now)] if deadline is not None and now >= deadline else []
