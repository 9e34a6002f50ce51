"""Which core a message is for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import pytest

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.contact import Contact, Port
from dagrad_bus.bus.identity import Identity
from dagrad_bus.bus.reception import Reception
from dagrad_bus.codec import Codec, Index, Value
from dagrad_bus.events import Send
from dagrad_bus.ids import EdgeId, Step, derive_edge_id
from dagrad_bus.link import Action, Assembled, Dropped, Left, LinkUp, Rejected, State
from dagrad_bus.settings import LinkSettings, Settings
from dagrad_bus.wire import (
    Ack,
    AckInfo,
    Bye,
    ByeReason,
    Data,
    DataHead,
    Error,
    ErrorCode,
    Heartbeat,
    Hello,
    HelloOk,
    Kind,
    Message,
    Nack,
    NackCode,
    Ping,
    Pong,
)

LAYOUT = Layout((Entry("x", (8,), "float32"),), (), 1)
LINK = LinkSettings(window=2)
ROUTING = b"routing"


@dataclass
class End:
    """One worker's reception and its only contact."""

    identity: Identity
    hello: Hello
    reception: Reception
    contact: Contact


def end(name: str, epoch: int) -> End:
    settings = Settings(run="r", name=name, members=("a", "b"), key=b"k", link=LINK)
    identity = Identity(settings, LAYOUT, epoch)
    other = "b" if name == "a" else "a"
    peer = next(node for node, known in identity.roster.items() if known == other)
    hello = identity.hello("tcp://h:1", "tcp://h:2")
    contact = Contact(peer, hello, LINK, cast(Port, None))
    contact.is_neighbour = True
    return End(identity, hello, Reception(identity, hello, LINK, lambda peer: True), contact)


@pytest.fixture
def a() -> End:
    return end("a", 1)


@pytest.fixture
def b() -> End:
    return end("b", 2)


def message_in(actions: list[Action]) -> Message:
    (send,) = [action for action in actions if isinstance(action, Send)]
    return send.message


def greet(sender: End, receiver: End, used: int = 0) -> HelloOk:
    """Let ``sender`` greet ``receiver``; return the answer."""
    hello = replace(sender.hello, wanted=True, edge=sender.contact.out.edge, used=used)
    answer = message_in(receiver.reception.greeted(receiver.contact, ROUTING, hello, 0.0))
    assert isinstance(answer, HelloOk)
    return answer


def bring_up(sender: End, receiver: End) -> EdgeId:
    sender.contact.opened(0.0)
    answer = greet(sender, receiver)
    assert LinkUp(receiver.identity.node) in sender.reception.answered(sender.contact, answer, 0.0)
    return answer.edge


def data(edge: EdgeId, seq: int, ack: AckInfo | None = None) -> Data:
    head = DataHead(Kind.STATE, LAYOUT.digest, 1, 1, Index.GAPS8, Value.F32, Codec.RAW, 5, 5, Step(1), 1.0)
    return Data(edge, seq, 0, 1, head, bytes(5), ack)


def test_a_greeting_is_answered_with_the_edge_and_a_receipt(a: End, b: End) -> None:
    answer = greet(a, b)
    assert answer.edge == derive_edge_id(a.identity.node, 1, b.identity.node, 2)
    assert answer.ack == AckInfo(0, 0, 2)
    assert answer.node == b.identity.node
    assert b.contact.incoming is not None
    assert b.contact.incoming.routing == ROUTING


def test_a_link_that_goes_on_keeps_its_state_and_resolves_what_was_used(a: End, b: End) -> None:
    bring_up(a, b)
    running = b.contact.incoming
    hello = replace(a.hello, wanted=True, edge=a.contact.out.edge, used=5)
    answer = message_in(b.reception.greeted(b.contact, b"new", hello, 0.0))
    assert b.contact.incoming is running
    assert running is not None
    assert running.routing == b"new"
    assert isinstance(answer, HelloOk)
    assert answer.ack == AckInfo(5, 0, 7)


def test_a_sender_that_begins_anew_uses_no_number_twice(a: End, b: End) -> None:
    edge = bring_up(a, b)
    running = b.contact.incoming
    assert running is not None
    for seq in (1, 2, 3):
        (frame,) = b.reception.handle(b.contact, ROUTING, data(edge, seq), 0.0)
        assert isinstance(frame, Assembled)
        if seq == 3:
            assert b.reception.greeted(b.contact, b"new", replace(a.hello, wanted=True), 0.0) == []  # still decoding
        running.verdict(seq, 0, 0.0)
    again = end("a", 1)
    assert bring_up(again, b) == edge
    assert b.contact.incoming is running
    assert again.contact.out._seq == 3
    for seq in (1, 2, 3):  # recorded, and sent once more
        assert b.reception.handle(b.contact, ROUTING, data(edge, seq), 0.0) == [Dropped("late")]


def test_a_restarted_sender_gets_a_fresh_link(a: End, b: End) -> None:
    edge = bring_up(a, b)
    running = b.contact.incoming
    answer = greet(end("a", 9), b)
    assert b.contact.incoming is not running
    assert answer.edge != edge


def test_frames_and_pings_of_another_edge_or_connection_are_refused_by_name(a: End, b: End) -> None:
    early = b.reception.handle(b.contact, ROUTING, data(EdgeId(3), 1), 0.0)
    edge = bring_up(a, b)
    wrong = EdgeId(edge ^ 1)
    for actions in (
        early,
        b.reception.handle(b.contact, ROUTING, data(wrong, 1), 0.0),
        b.reception.handle(b.contact, ROUTING, Ping(1, 0, wrong), 0.0),
        b.reception.handle(b.contact, b"other", data(edge, 1), 0.0),
    ):
        assert actions[0] == Dropped("bad_edge")
        nack = message_in(actions)
        assert isinstance(nack, Nack)
        assert nack.code == NackCode.BAD_EDGE


def test_a_frame_goes_to_the_receiving_side_and_its_receipt_to_the_sending_one(a: End, b: End) -> None:
    edge = bring_up(a, b)
    bring_up(b, a)
    before = b.contact.out._credit
    (frame,) = b.reception.handle(b.contact, ROUTING, data(edge, 1, AckInfo(0, 0, before + 5)), 0.0)
    assert isinstance(frame, Assembled)
    assert b.contact.out._credit == before + 5


def test_a_ping_is_answered_by_pong_and_receipt(a: End, b: End) -> None:
    edge = bring_up(a, b)
    sends = b.reception.handle(b.contact, ROUTING, Ping(8, 3, edge), 0.0)
    pong, ack = [action.message for action in sends if isinstance(action, Send)]
    assert pong == Pong(8, 2, 0, edge=edge)
    assert isinstance(ack, Ack)
    assert ack.info.resolved == 3


def test_receipts_and_refusals_of_another_edge_are_ignored(a: End, b: End) -> None:
    edge = bring_up(a, b)
    other = EdgeId(edge ^ 1)
    for message in (Ack(other, 0, AckInfo(0, 0, 50)), Nack(other, 1, NackCode.BAD_EDGE)):
        assert a.reception.handle(a.contact, ROUTING, message, 0.0) == []
    heartbeat = Heartbeat(b.identity.node, 2, 0, 1, Step(0), 0.0)
    assert a.reception.handle(a.contact, ROUTING, heartbeat, 0.0) == [Dropped("unexpected")]
    assert a.contact.out.state is State.UP
    a.reception.handle(a.contact, ROUTING, Ack(edge, 0, AckInfo(0, 0, 50)), 0.0)
    assert a.contact.out._credit == 50


def test_the_answer_tells_which_codecs_the_peer_takes(a: End, b: End) -> None:
    bring_up(a, b)
    assert a.contact.codecs == b.identity.codecs


def test_an_error_is_kept_as_the_refusal_until_the_peer_greets(a: End, b: End) -> None:
    error = Error(ErrorCode.LAYOUT, "another model", fatal=True)
    a.contact.is_neighbour = True
    actions = a.reception.handle(a.contact, ROUTING, error, 0.0)
    assert actions == [Rejected(b.identity.node, ErrorCode.LAYOUT, "another model")]
    assert a.contact.out.state is State.REFUSED
    assert a.contact.refusal == "another model"
    greet(b, a)
    assert a.contact.refusal == ""
    a.reception.handle(a.contact, ROUTING, Error(ErrorCode.INTERNAL, fatal=True), 0.0)
    assert a.contact.refusal == "error 5"


def test_an_error_to_one_without_a_link_makes_none(a: End, b: End) -> None:
    a.contact.is_neighbour = False
    error = Error(ErrorCode.LAYOUT, "another model", fatal=True)
    actions = a.reception.handle(a.contact, ROUTING, error, 0.0)
    assert actions == [Rejected(b.identity.node, ErrorCode.LAYOUT, "another model")]
    assert a.contact.out.state is State.DOWN
    assert a.contact.out.tick(100.0) == []


def test_a_goodbye_takes_the_link_down(a: End, b: End) -> None:
    bring_up(a, b)
    actions = a.reception.handle(a.contact, ROUTING, Bye(ByeReason.LEAVE), 0.0)
    assert actions == [Left(a.contact.peer)]
    assert a.contact.out.state is State.DOWN
