"""Laws of a link over a wire that breaks: two workers with real admission, links and outcomes, in virtual time."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import pytest

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.contact import Contact, Port
from dagrad_bus.bus.identity import Identity
from dagrad_bus.bus.reception import Reception
from dagrad_bus.checksum import crc32c
from dagrad_bus.codec import Codec, Index, Value
from dagrad_bus.events import Broken, Connected, Send, Tick
from dagrad_bus.fakewire import Event, FakeWire, Received
from dagrad_bus.ids import JobId, NodeId, Step, derive_node_id
from dagrad_bus.link import Action, Assembled, InLink, Packed, Settled
from dagrad_bus.settings import LinkSettings, Settings
from dagrad_bus.wire import CHUNK, Ack, Data, DataHead, Hello, HelloOk, Kind, Message

LAYOUT = Layout((Entry("x", (8,), "float32"),), (), 1)
LINK = LinkSettings(window=2)
A, B = derive_node_id("sim", "a"), derive_node_id("sim", "b")
NAMES = {A: "a", B: "b"}
ZEROS = bytes(3 * CHUNK)
CRCS = tuple(crc32c(ZEROS[: min(CHUNK, len(ZEROS) - at)]) for at in range(0, len(ZEROS), CHUNK))


class Line(Contact):
    """A neighbour whose messages go to a list instead of a socket."""

    outbox: deque[Message]

    def _send(self, message: Message) -> bool:
        self.outbox.append(message)
        return True


@dataclass
class Worker:
    """One worker: publishes versions of one value, and publishes again what was lost."""

    node: NodeId
    epoch: int
    rng: np.random.Generator
    versions: int = 50
    period: float = 0.2
    chunks: int = 1
    room: bool = True
    jobs: Iterable[int] = field(default_factory=lambda: itertools.count(1))
    version_of: dict[int, int] = field(default_factory=dict[int, int])
    submitted: list[int] = field(default_factory=list[int])
    outcomes: dict[int, list[bool]] = field(default_factory=dict[int, list[bool]])
    delivered: list[int] = field(default_factory=list[int])
    sent: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    version: int = 0
    due: float = 0.0
    stall_filter: Callable[[Message], bool] = lambda message: True

    def __post_init__(self) -> None:
        settings = Settings(run="sim", name=NAMES[self.node], members=("a", "b"), key=b"k", link=LINK)
        self.identity = Identity(settings, LAYOUT, self.epoch)
        hello = self.identity.hello("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")
        self.peer = B if self.node == A else A
        self.line = Line(self.peer, hello, LINK, cast(Port, None))
        self.line.is_neighbour = True
        self.line.outbox = deque()
        self.reception = Reception(self.identity, hello, LINK, lambda _: self.room)
        self.decoding: deque[tuple[float, Assembled]] = deque()
        self.credits: dict[InLink, int] = {}

    # The core ------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Send]:
        line = self.line
        match event:
            case Connected():
                self.act(line.opened(now), now)
            case Broken():
                self.act(line.broken(), now)
            case Received(message=Hello() as hello):
                self.identity.admit(hello)
                self.act(self.reception.greeted(line, b"routing", hello, now), now)
            case Received(message=HelloOk() as answer):
                self.act(self.reception.answered(line, answer, now), now)
            case Received(message=message):
                self.act(self.reception.handle(line, b"routing", message, now), now)
            case Tick():
                self.tick(now)
        return self.out(now)

    def tick(self, now: float) -> None:
        self.act(self.line.out.tick(now), now)
        if self.line.incoming is not None:
            self.act(self.line.incoming.tick(now), now)
        while self.decoding and self.decoding[0][0] <= now:
            _, frame = self.decoding.popleft()
            self.delivered.append(int(bytes(frame.parts[0][:8]).hex(), 16))
            if self.line.incoming is not None and frame.link is self.line.incoming:
                self.act(self.line.incoming.verdict(frame.seq, 0, now), now)
        if now >= self.due and self.version < self.versions:
            self.due = now + self.period
            self.version += 1
        if self.is_unsaid:
            self.publish(now)

    def publish(self, now: float) -> None:
        """Send the newest version if the link takes it; it is tried again at the next tick otherwise."""
        if not self.line.ready:
            return
        job = next(iter(self.jobs))
        size = (self.chunks - 1) * CHUNK + 100
        payload = job.to_bytes(8, "big") + ZEROS[: size - 8]
        head = DataHead(
            Kind.STATE, LAYOUT.digest, 1, 1, Index.GAPS8, Value.F32, Codec.RAW, size, size, Step(self.version), 1.0
        )
        self.version_of[job] = self.version
        self.submitted.append(job)
        self.act(self.line.out.submit(Packed(JobId(job), head, payload, (0,) * self.chunks, now), now), now)

    def act(self, actions: Sequence[Action], now: float) -> None:
        for action in actions:
            match action:
                case Send():
                    self.line.queue(action.message)
                case Settled():
                    self.outcomes.setdefault(action.outcome.job, []).append(action.outcome.accepted)
                case Assembled():
                    self.decoding.append((now + float(self.rng.exponential(0.02)), action))
                case _:
                    pass

    def out(self, now: float) -> list[Send]:
        self.line.pump(now)
        sends = [Send(self.peer, message) for message in self.line.outbox if self.stall_filter(message)]
        for message in self.line.outbox:
            if isinstance(message, Data):
                self.sent.append((message.edge, message.seq, message.chunk_ix))
        self.line.outbox.clear()
        self.check_bounds()
        return sends

    def check_bounds(self) -> None:
        assert self.line.out.in_flight <= LINK.window
        incoming = self.line.incoming
        if incoming is not None:
            assert incoming.credit >= self.credits.get(incoming, 0), "credit fell"
            self.credits[incoming] = incoming.credit

    def next_deadline(self) -> float | None:
        incoming = self.line.incoming
        dues = [
            self.line.out.next_deadline(),
            incoming.next_deadline() if incoming else None,
            self.decoding[0][0] if self.decoding else None,
            self.due if self.version < self.versions else None,
            self.due if self.is_unsaid and self.line.ready else None,
        ]
        return min((due for due in dues if due is not None), default=None)

    # What the laws look at -----------------------------------------------------------------------------------

    @property
    def is_unsaid(self) -> bool:
        """Whether no frame with the newest version is on its way or accepted."""
        newest = [job for job, version in self.version_of.items() if version == self.version]
        return self.version > 0 and not any(self.outcomes.get(job, [None])[0] in {True, None} for job in newest)

    @property
    def newest_accepted(self) -> bool:
        return any(v == self.version and self.outcomes.get(j) == [True] for j, v in self.version_of.items())


def world(seed: int, breaks: float, **options: int) -> tuple[FakeWire, Worker, Worker]:
    rng = np.random.default_rng(seed)
    a, b = Worker(A, 100, rng, **options), Worker(B, 200, rng, **options)  # type: ignore[arg-type]  # plain numbers
    latency, outage = [(0.03, 0.2), (0.2, 0.02)][seed % 2]  # the second brings old tails after new heads
    return FakeWire({A: a, B: b}, rng, latency=latency, breaks=breaks, outage=outage), a, b


def check_laws(sender: Worker, receiver: Worker) -> None:
    """Assert what holds of one direction at the end of any run in which nothing is on its way any more."""
    assert sorted(sender.outcomes) == sender.submitted  # each job has an outcome
    assert all(len(found) == 1 for found in sender.outcomes.values())  # and one only
    accepted = {job for job, found in sender.outcomes.items() if found[0]}
    assert accepted <= set(receiver.delivered)
    assert len(set(receiver.delivered)) == len(receiver.delivered)
    assert receiver.delivered == sorted(receiver.delivered)  # and versions never go back
    heads = [(edge, seq) for edge, seq, chunk_ix in sender.sent if chunk_ix == 0]
    for edge in {edge for edge, _ in heads}:
        seqs = [seq for e, seq in heads if e == edge]
        assert seqs == list(range(1, len(seqs) + 1))


@pytest.mark.row(22, layer="L2")
@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("seed", range(25))
def test_the_newest_version_arrives_over_a_wire_that_breaks(seed: int, chunks: int) -> None:
    wire, a, b = world(seed, 0.2, chunks=chunks)
    wire.run(60.0)
    assert wire.broken > 5, "the fault was not felt"
    wire.breaks = 0.0
    wire.run(400.0)
    for sender, receiver in ((a, b), (b, a)):
        assert sender.version == 50
        assert sender.newest_accepted, sender.line.out.state
        assert sender.version_of[receiver.delivered[-1]] == 50
        check_laws(sender, receiver)
        assert sender.line.out.ready
    assert {False, True} <= {found[0] for w in (a, b) for found in w.outcomes.values()}


@pytest.mark.parametrize("seed", range(5))
def test_over_a_whole_wire_nothing_is_lost_and_nothing_stalls(seed: int) -> None:
    wire, a, b = world(seed, 0.0, chunks=2)
    wire.run(60.0)
    for sender, receiver in ((a, b), (b, a)):
        assert [found for found in sender.outcomes.values() if found != [True]] == []
        check_laws(sender, receiver)
        assert sender.line.out.generation == 1


@pytest.mark.parametrize("seed", range(10))
def test_lost_receipts_are_healed_by_asking(seed: int) -> None:
    wire, a, b = world(seed, 0.0)
    rng = np.random.default_rng(seed)
    b.stall_filter = lambda message: not isinstance(message, Ack) or rng.random() < 0.3
    a.stall_filter = lambda message: not (isinstance(message, Data) and message.ack is not None)
    wire.run(300.0)
    a.stall_filter = b.stall_filter = lambda message: True
    wire.run(600.0)
    check_laws(a, b)
    assert a.newest_accepted
    assert a.version_of[b.delivered[-1]] == 50


@pytest.mark.parametrize("seed", range(10))
def test_withheld_credit_stops_the_sender_and_returns_when_the_mailbox_is_emptied(seed: int) -> None:
    wire, a, b = world(seed, 0.0)
    wire.run(2.0)
    b.room = False
    wire.run(8.0)
    held = len(b.delivered)
    wire.run(20.0)
    assert len(b.delivered) == held  # at most what was granted before arrived
    assert not a.line.ready
    b.room = True
    assert b.line.incoming is not None
    b.act(b.line.incoming.drained(wire.now), wire.now)
    wire.hand(B, b.out(wire.now))
    wire.run(20.0 + 0.95 * LINK.stalled / 2)
    assert len(b.delivered) > held  # at once, not by the ping of the stalled sender
    wire.run(60.0)
    check_laws(a, b)
    assert a.newest_accepted


@pytest.mark.parametrize("seed", range(10))
def test_credit_that_returns_without_a_word_is_found_by_asking(seed: int) -> None:
    wire, a, b = world(seed, 0.02)
    wire.run(2.0)
    b.room = False
    wire.run(10.0)
    b.room = True  # and drained() is never called: the acknowledgement that it sends may be lost as well
    wire.breaks = 0.0
    wire.run(100.0)
    check_laws(a, b)
    assert a.newest_accepted


@pytest.mark.parametrize("seed", range(15))
def test_a_restarted_receiver_starts_afresh_and_what_it_never_got_is_lost(seed: int) -> None:
    wire, a, b = world(seed, 0.02)
    wire.run(5.0 + seed / 10)
    again = Worker(B, 300, np.random.default_rng(seed))
    again.jobs = itertools.count(1000)
    wire.replace(B, again)
    wire.breaks = 0.0
    before = a.line.out.generation
    wire.run(300.0)
    assert a.line.out.generation == before + 1
    assert a.line.out.edge == again.line.out.edge
    assert sorted(a.outcomes) == a.submitted
    assert all(len(found) == 1 for found in a.outcomes.values())
    accepted = {job for job, found in a.outcomes.items() if found[0]}
    assert accepted <= {*b.delivered, *again.delivered}
    assert not set(b.delivered) & set(again.delivered)
    assert a.newest_accepted
    assert again.newest_accepted
    check_laws(again, replace_delivered(a, b))


def replace_delivered(receiver: Worker, former: Worker) -> Worker:
    """Return a stand-in for ``receiver`` that got only what the restarted worker sent."""
    stand_in = replace(receiver)
    stand_in.delivered = [job for job in receiver.delivered if job >= 1000]
    assert former.submitted == [job for job in former.submitted if job < 1000]
    return stand_in


def test_the_laws_would_notice() -> None:
    wire, a, b = world(0, 0.0)
    wire.run(5.0)
    b.delivered.append(b.delivered[-1])
    with pytest.raises(AssertionError):
        check_laws(a, b)
    assert Counter(b.delivered).most_common(1)[0][1] == 2
