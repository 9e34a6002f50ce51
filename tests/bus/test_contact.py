"""What waits for one contact, and in which order it leaves."""

from __future__ import annotations

from typing import cast

import pytest

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.contact import CONTROL_QUEUE, Contact, Port
from dagrad_bus.bus.identity import Identity
from dagrad_bus.checksum import crc32c
from dagrad_bus.codec import Codec, Index, Value
from dagrad_bus.ids import EdgeId, JobId, NodeId, Step
from dagrad_bus.link import Action, InLink, LinkUp, Packed, Settled
from dagrad_bus.settings import LinkSettings, Settings
from dagrad_bus.wire import CHUNK, AckInfo, Data, DataHead, Hello, HelloOk, Kind, Message, Ping, Pong, pack, parse

PEER, EDGE = NodeId(b"p" * 16), EdgeId(7)
LAYOUT = Layout((Entry("x", (8,), "float32"),), (), 1)
HELLO = Identity(Settings(run="r", name="a", members=("a", "b")), LAYOUT, 1).hello("tcp://h:1", "tcp://h:2")


class Socket:
    """Takes ``room`` messages, and then no more."""

    def __init__(self) -> None:
        self.room = 1000
        self.sent: list[Message] = []

    def send(self, peer: NodeId, message: Message) -> int:
        assert peer == PEER
        if len(self.sent) >= self.room:
            return 0
        parts = pack(message)
        self.sent.append(parse(parts))
        return sum(map(len, parts))

    @property
    def kinds(self) -> list[str]:
        return [type(message).__name__ for message in self.sent]


@pytest.fixture
def sock() -> Socket:
    return Socket()


@pytest.fixture
def contact(sock: Socket) -> Contact:
    made = Contact(PEER, HELLO, LinkSettings(window=2), cast(Port, sock))
    made.is_neighbour = True
    return made


def bring_up(contact: Contact) -> None:
    assert contact.opened(0.0) == []  # the HELLO was queued
    fields = {name: getattr(HELLO, name) for name in ("job", "epoch", "incarnation", "layout", "host", "inbox_port")}
    ok = HelloOk(PEER, **fields, beat_port=2, name="b", max_frame=1 << 20, ack=AckInfo(0, 0, 2), edge=EDGE)
    assert LinkUp(PEER) in contact.out.hello_ok(ok, 0.0)


def packed(job: int, chunks: int = 1) -> Packed:
    size = (chunks - 1) * CHUNK + 5
    head = DataHead(Kind.STATE, bytes(8), 1, 1, Index.GAPS8, Value.F32, Codec.RAW, size, size, Step(1), 1.0)
    data = bytes(size)
    return Packed(JobId(job), head, data, tuple(crc32c(data[at : at + CHUNK]) for at in range(0, size, CHUNK)), 0.0)


def lost(actions: list[Action]) -> int:
    return sum(isinstance(action, Settled) and not action.outcome.accepted for action in actions)


def test_nothing_leaves_before_the_handshake_and_then_the_hello_goes_first(contact: Contact, sock: Socket) -> None:
    contact.queue(Pong(1, 1, 0))
    assert not contact.pump(0.0)
    assert contact.idle  # nobody is there to take it
    contact.opened(0.0)
    assert not contact.idle
    assert not contact.pump(0.0)  # no chunk left
    assert sock.kinds == ["Hello", "Pong"]
    assert isinstance(sock.sent[0], Hello)
    assert sock.sent[0].wanted
    assert contact.idle
    assert contact.sent_bytes > 100


def test_control_goes_before_chunks_and_a_refused_message_stays_first(contact: Contact, sock: Socket) -> None:
    bring_up(contact)
    contact.out.submit(packed(1, chunks=3), 0.0)
    contact.queue(Ping(1))
    sock.room = 1
    assert not contact.pump(0.0)
    assert sock.kinds == ["Hello"]
    sock.room = 4
    assert contact.pump(0.0)
    assert sock.kinds == ["Hello", "Ping", "Data", "Data"]
    assert not contact.ready
    contact.queue(Ping(2))
    sock.room = 100
    assert contact.pump(0.0)
    assert sock.kinds[4:] == ["Ping", "Data"]
    chunks = [m.chunk_ix for m in sock.sent if isinstance(m, Data)]
    assert chunks == [0, 1, 2]
    assert contact.ready


def test_control_is_bounded_and_the_oldest_goes(contact: Contact, sock: Socket) -> None:
    for nonce in range(CONTROL_QUEUE + 10):
        contact.queue(Ping(nonce))
    contact.opened(0.0)
    contact.pump(0.0)
    assert len(sock.sent) == CONTROL_QUEUE
    assert isinstance(sock.sent[0], Hello)  # and it is never the one to go


def test_a_broken_connection_voids_what_waited_for_it(contact: Contact, sock: Socket) -> None:
    bring_up(contact)
    sock.room = 0
    contact.out.submit(packed(1), 0.0)
    contact.queue(Ping(1))
    contact.pump(0.0)
    assert lost(contact.broken()) == 1
    sock.room = 100
    assert not contact.pump(0.0)
    assert sock.sent == []


def test_a_receipt_rides_on_a_frame_and_is_due_no_more(contact: Contact, sock: Socket) -> None:
    bring_up(contact)
    incoming = InLink(PEER, 1, EdgeId(9), b"r", LinkSettings(window=8), lambda peer: True)
    contact.incoming = incoming
    incoming.ping(Ping(0, 1), 0.0)
    incoming.resolved = 0
    actions = incoming.data(data_chunk(1), 1.0)
    assert len(actions) == 1
    incoming.verdict(1, 0, 1.0)
    assert incoming.next_deadline() is not None
    contact.pump(1.0)
    assert incoming.next_deadline() is not None  # nothing to ride on
    contact.out.submit(packed(1), 1.01)
    assert contact.pump(1.01)
    assert isinstance(sock.sent[-1], Data)
    assert sock.sent[-1].ack is not None
    assert sock.sent[-1].ack.resolved == 1
    assert incoming.next_deadline() is None


def data_chunk(seq: int) -> Data:
    frame = packed(1)
    return Data(EdgeId(9), seq, 0, 1, frame.head, frame.payload)


def test_a_link_whose_frame_is_being_encoded_is_not_ready(contact: Contact) -> None:
    bring_up(contact)
    assert contact.ready
    contact.encoding = True
    assert not contact.ready
