"""The sending side of one link: greeting, sequence numbers, credit, outcomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from dagrad_bus.events import Outcome, Send
from dagrad_bus.ids import NO_EDGE, JobId, NodeId
from dagrad_bus.link.actions import HISTORY, Action, Dropped, LinkUp, Rejected, Settled, Stalled
from dagrad_bus.settings import LinkSettings
from dagrad_bus.wire import CHUNK, AckInfo, Data, DataHead, Error, Hello, HelloOk, Nack, NackCode, Ping, Pong

UNANSWERED = 10.0
"""Seconds without any answer, nothing being on its way, after which a connection is taken for dead."""
MOST_NUMBERS = 1 << 62
"""A receipt beyond it is a lie: no link lives that long, and the wire's numbers must have room above it."""
SLOWEST = 26_000
"""Bytes a second of the slowest link supported."""


class State(Enum):
    """States of the sending side."""

    DOWN = "down"
    GREETING = "greeting"
    UP = "up"
    STALLED = "stalled"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """An encoded frame, shared by all links it goes to."""

    job: JobId
    head: DataHead
    payload: bytes
    crcs: tuple[int, ...]
    """crc32c of each chunk."""
    extracted_at: float

    @property
    def chunks(self) -> int:
        """How many chunks the payload makes."""
        return max(1, -(-len(self.payload) // CHUNK))


class OutLink:
    """The sending side of one link; at most one job waits, at most ``window`` are in flight.

    Args:
        peer: where the link leads.
        hello: this worker's HELLO; the link fills in ``edge``, ``used`` and ``wanted``.
        settings: windows and times.
    """

    def __init__(self, peer: NodeId, hello: Hello, settings: LinkSettings) -> None:
        self.peer = peer
        self.state = State.DOWN
        self.edge = NO_EDGE
        self.generation = 0
        self.srtt = 0.0
        self._hello = hello
        self._settings = settings
        self._seq = 0
        self._handed = 0
        self._credit = 0
        self._resolved = 0
        self._max_frame = 0
        self._in_flight: dict[int, tuple[JobId, float]] = {}
        self._waiting: Packed | None = None
        self._waiting_since = 0.0
        self._chunk_ix = 0
        self._progress_at = 0.0
        self._sign_at = 0.0
        """When the connection last showed that it lives: made, something taken, something answered."""
        self._frame_bytes = 0
        self._asked_at = 0.0
        self._retry_at = 0.0
        self._pings: dict[int, float] = {}
        self._nonce = 0

    @property
    def ready(self) -> bool:
        """Whether a frame handed over now would leave at once."""
        return self.state is State.UP and self._waiting is None and self._seq < self._credit

    @property
    def has_unsent(self) -> bool:
        """Whether a frame, or the rest of one, waits to be handed over."""
        return self._waiting is not None

    @property
    def in_flight(self) -> int:
        """Frames sent and not yet settled."""
        return len(self._in_flight)

    def next_deadline(self) -> float | None:
        """When :meth:`tick` has something to do; None while nothing is timed."""
        asking_at = self._asking_at()
        abandoned_at = self._abandoned_at() if self._waiting is not None else None
        if asking_at is None or abandoned_at is None:
            return abandoned_at if asking_at is None else asking_at
        return min(asking_at, abandoned_at)

    def _abandoned_at(self) -> float | None:
        if self._waiting is None or self._chunk_ix:
            return None
        return self._waiting_since + self._settings.abandon

    def _asking_at(self) -> float | None:
        state = self.state  # the frequent ones first: this is asked of each link after each burst
        if state is State.UP:
            is_owing = self._in_flight or self._seq >= self._credit
            return self._progress_at + max(self._settings.stalled, 4 * self.srtt) if is_owing else None
        if state is State.DOWN:
            return None
        if state is State.GREETING:
            return self._asked_at + self._settings.hello_repeat
        return self._asked_at + 1.0 if state is State.STALLED else self._retry_at

    def greet_as(self, hello: Hello) -> None:
        """Use another HELLO from now on."""
        self._hello = hello

    def connected(self, now: float) -> list[Action]:
        """Take note of a finished handshake: greet."""
        self._sign_at = now
        return self._greet(now)

    def broken(self) -> list[Action]:
        """Take note of a broken connection: whatever was on its way counts as lost."""
        self.state = State.DOWN
        return self._lose_all()

    def _greet(self, now: float) -> list[Action]:
        self.state = State.GREETING
        self._asked_at = now
        return [Send(self.peer, replace(self._hello, edge=self.edge, used=self._seq, wanted=True))]

    def _lose_all(self) -> list[Action]:
        jobs = [job for job, _ in self._in_flight.values()]
        if self._waiting is not None and self._chunk_ix == 0:
            jobs.append(self._waiting.job)
        self._in_flight.clear()
        self._waiting, self._chunk_ix = None, 0
        return [Settled(Outcome(job, self.peer, accepted=False)) for job in jobs]

    def submit(self, packed: Packed, now: float) -> list[Action]:
        """Take one frame to send. A link that is not ready answers at once with the outcome *lost*."""
        if not self.ready or packed.head.raw_size > self._max_frame:
            return [Settled(Outcome(packed.job, self.peer, accepted=False))]
        self._waiting, self._waiting_since, self._chunk_ix = packed, now, 0
        return []

    def next_chunk(self, now: float, ack: AckInfo | None) -> Data | None:
        """Return the message to hand over next, or None. It is the same one until :meth:`chunk_sent` is called."""
        packed = self._waiting
        if packed is None or self.state not in {State.UP, State.STALLED}:
            return None
        start = self._chunk_ix * CHUNK
        first = self._chunk_ix == 0
        head: DataHead | None = None
        if first:
            queued = max(0, round((now - packed.extracted_at) * 1000))
            head = packed.head if queued == packed.head.queued_ms else replace(packed.head, queued_ms=queued)
        return Data(
            edge=self.edge,
            seq=self._seq + 1 if first else self._seq,
            chunk_ix=self._chunk_ix,
            chunk_n=packed.chunks,
            head=head,
            payload=memoryview(packed.payload)[start : start + CHUNK],
            ack=ack if first else None,
            crc=packed.crcs[self._chunk_ix],
        )

    def chunk_sent(self, now: float) -> None:
        """Take note that the transport took the last message of :meth:`next_chunk`."""
        packed = self._waiting
        if packed is None:
            raise AssertionError("chunk_sent follows next_chunk, which returned a chunk of the waiting job")
        self._sign_at, self._frame_bytes = now, len(packed.payload)
        if self._chunk_ix == 0:
            self._progress_at = now if not self._in_flight else self._progress_at
            self._seq += 1
            self._in_flight[self._seq] = (packed.job, now)
        self._chunk_ix += 1
        if self._chunk_ix == packed.chunks:
            self._handed = self._seq
            self._in_flight[self._seq] = (packed.job, now)  # the round trip counts from the last chunk
            self._waiting, self._chunk_ix = None, 0

    def hello_ok(self, message: HelloOk, now: float) -> list[Action]:
        """Take the answer to a HELLO."""
        self._sign_at = now
        if self.state is not State.GREETING:
            return [Dropped("late_hello_ok")]
        if message.edge == NO_EDGE:
            return self._refused(0, "no link granted", max(1.0, message.backoff_ms / 1000), now)
        fresh = message.edge != self.edge
        if message.ack is None or message.ack.resolved > MOST_NUMBERS:
            return [Dropped("hello_ok_without_receipt")]
        if not fresh and message.ack.resolved < self._seq:
            return []  # frames we sent are still on their way: the repeated HELLO settles it
        actions: list[Action] = []
        if fresh:
            actions = self._lose_all()
            self.edge, self._credit = message.edge, 0
            self._seq = self._handed = self._resolved = message.ack.resolved  # 0 but where we had a link before
            self.generation += 1
        self.state = State.UP
        self._max_frame = message.max_frame
        self._progress_at = now
        return [*actions, LinkUp(self.peer), *self.ack(message.ack, now)]

    def refused(self, message: Error, now: float) -> list[Action]:
        """Take an ERROR: a fatal one closes the link for its back-off."""
        if not message.fatal:
            return [Dropped("error")]
        return self._refused(message.code, message.text, max(1.0, message.backoff_ms / 1000), now)

    def _refused(self, code: int, text: str, backoff: float, now: float) -> list[Action]:
        self.state = State.REFUSED
        self._retry_at = now + backoff
        return [*self._lose_all(), Rejected(self.peer, code, text)]

    def ack(self, info: AckInfo, now: float) -> list[Action]:
        """Take an acknowledgement, alone, on HELLO_OK or riding on a frame."""
        self._sign_at = now
        actions: list[Action] = []
        progress = info.credit > self._credit or info.resolved > self._resolved
        for seq in [s for s in self._in_flight if s <= info.resolved]:
            job, sent_at = self._in_flight.pop(seq)
            behind = info.resolved - seq
            accepted = behind < HISTORY and bool(info.history >> behind & 1)
            actions.append(Settled(Outcome(job, self.peer, accepted)))
            if seq == info.resolved:
                self._sample_rtt(now - sent_at - info.held_ms / 1000)
        self._resolved = max(self._resolved, info.resolved)
        self._credit = max(self._credit, info.credit)
        if progress:
            self._progress_at = now
            if self.state is State.STALLED:
                self.state = State.UP
        return actions

    def nack(self, message: Nack, now: float) -> list[Action]:
        """Take a NACK: the fast path of what the history says anyway. The rest of that frame is not sent."""
        reason = Dropped(f"nacked_{message.code}")
        if message.code == NackCode.BAD_EDGE and self.state in {State.UP, State.STALLED}:
            return [reason, *self._lose_all(), *self._greet(now)]
        actions: list[Action] = [reason]
        if message.refused == self._seq and self._waiting is not None and self._chunk_ix:
            self._handed, self._waiting, self._chunk_ix = self._seq, None, 0
        entry = self._in_flight.pop(message.refused, None)
        if entry is not None:
            actions.append(Settled(Outcome(entry[0], self.peer, accepted=False)))
        return actions

    def pong(self, message: Pong, now: float) -> list[Action]:
        """Take the answer to a PING: a round trip."""
        self._sign_at = now
        sent = self._pings.pop(message.nonce, None)
        if sent is None:
            return [Dropped("late_pong")]
        self._sample_rtt(now - sent)
        return []

    def _sample_rtt(self, sample: float) -> None:
        if sample >= 0:
            self.srtt = sample if self.srtt == 0 else self.srtt + (sample - self.srtt) / 8

    def tick(self, now: float) -> list[Action]:
        """Do what is due: repeat HELLO, notice a stall, ask, give a waiting job up."""
        actions: list[Action] = []
        abandoned_at, asking_at = self._abandoned_at(), self._asking_at()
        if self._waiting is not None and abandoned_at is not None and now >= abandoned_at:
            job, self._waiting = self._waiting.job, None
            actions += [Dropped("abandoned"), Settled(Outcome(job, self.peer, accepted=False))]
        if asking_at is None or now < asking_at:
            return actions
        if self.state in {State.GREETING, State.REFUSED}:
            return [*actions, *self._greet(now)]
        if self.state is State.UP:
            self.state = State.STALLED
            actions.append(Stalled(self.peer))
        return [*actions, self._ping(now)]

    def _ping(self, now: float) -> Send:
        self._asked_at = now
        self._nonce += 1
        self._pings = {n: t for n, t in self._pings.items() if now - t < self._settings.reset}
        self._pings[self._nonce] = now
        return Send(self.peer, Ping(edge=self.edge, seq=0, nonce=self._nonce, used=self._handed))

    def is_dead(self, now: float) -> bool:
        """Whether the connection should be made anew: HELLO or PING stay unanswered, and nothing moves.

        What is in flight is given the time of the slowest link supported, as an answer waits behind it; a peer that
        answers and grants no credit is not dead.
        """
        if self.state not in {State.STALLED, State.GREETING}:
            return False
        patience = UNANSWERED + len(self._in_flight) * self._frame_bytes / SLOWEST
        return now - self._sign_at > min(self._settings.reset, patience)
