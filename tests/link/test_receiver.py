"""The receiving side of a link: assembly, verdicts in order, receipts, credit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrad_bus.codec import Codec, Index, Value
from dagrad_bus.events import Send
from dagrad_bus.ids import EdgeId, NodeId, Step
from dagrad_bus.link import HISTORY, Action, Assembled, Dropped, InLink
from dagrad_bus.settings import LinkSettings
from dagrad_bus.wire import CHUNK, Ack, AckInfo, Data, DataHead, Kind, Nack, NackCode, Ping

PEER, EDGE = NodeId(b"p" * 16), EdgeId(7)
SETTINGS = LinkSettings(window=2, max_frame=1 << 20)


class Room:
    """A mailbox that has room, or not."""

    def __init__(self) -> None:
        self.free = True

    def __call__(self, peer: NodeId) -> bool:
        return self.free


def fresh(room: Room | None = None, window: int = 2) -> InLink:
    """Return a link as after its HELLO: the credit was told."""
    link = InLink(PEER, 1, EDGE, b"r", replace(SETTINGS, window=window), room or Room())
    link.ping(Ping(0, 0, EDGE), 0.0)
    return link


def chunk(seq: int, ix: int = 0, n: int = 1, size: int | None = None, raw: int | None = None) -> Data:
    total = (n - 1) * CHUNK + 10 if size is None else size
    payload = bytes(CHUNK if ix < n - 1 else total - (n - 1) * CHUNK)
    head = DataHead(Kind.STATE, bytes(8), 1, 1, Index.GAPS8, Value.F32, Codec.RAW, raw or total, total, Step(seq), 1.0)
    return Data(EDGE, seq, ix, n, head if ix == 0 else None, payload)


def receipts(actions: list[Action]) -> list[AckInfo]:
    return [a.message.info for a in actions if isinstance(a, Send) and isinstance(a.message, Ack)]


def nacks(actions: list[Action]) -> list[tuple[int, int]]:
    return [(a.message.refused, a.message.code) for a in actions if isinstance(a, Send) and isinstance(a.message, Nack)]


def dropped(actions: list[Action]) -> list[str]:
    return [a.reason for a in actions if isinstance(a, Dropped)]


def accept(link: InLink, seq: int, now: float = 0.0) -> list[Action]:
    (frame,) = link.data(chunk(seq), now)
    assert isinstance(frame, Assembled)
    return link.verdict(seq, 0, now)


def test_a_fresh_link_grants_its_window() -> None:
    link = InLink(PEER, 1, EDGE, b"r", SETTINGS, Room())
    assert link.info(0.0) == AckInfo(0, 0, 2)


def test_chunks_make_a_frame() -> None:
    link = fresh()
    assert link.data(chunk(1, 0, 3), 1.0) == []
    assert link.assembly_bytes == CHUNK
    assert link.data(chunk(1, 1, 3), 2.0) == []
    (frame,) = link.data(chunk(1, 2, 3), 3.0)
    assert isinstance(frame, Assembled)
    assert (frame.seq, frame.size, frame.first_chunk_at, sum(map(len, frame.parts))) == (
        1,
        2 * CHUNK + 10,
        1.0,
        frame.size,
    )
    assert frame.link is link
    assert link.assembly_bytes == 0
    assert link.resolved == 0  # no verdict yet


def test_acceptance_waits_for_company_unless_the_credit_is_used_up() -> None:
    link = fresh()
    assert accept(link, 1, 1.0) == []
    assert link.next_deadline() == 1.05
    assert link.tick(1.04) == []
    assert receipts(accept(link, 2, 1.02)) == [AckInfo(2, 0b11, 4, held_ms=20)]
    assert link.next_deadline() is None


def test_a_receipt_offered_and_not_sent_does_not_delay_the_next_one() -> None:
    link = fresh()
    accept(link, 1, 1.0)
    assert link.riding_ack(1.0) == AckInfo(1, 1, 3)  # nothing left to ride on: the sender still knows of 2 only
    assert receipts(accept(link, 2, 1.01)) == [AckInfo(2, 0b11, 4, held_ms=10)]


def test_a_receipt_rides_once() -> None:
    link = fresh()
    assert link.riding_ack(0.0) is None  # nothing new
    accept(link, 1, 1.0)
    assert link.riding_ack(1.0) is not None
    link.ack_sent()
    assert link.riding_ack(1.0) is None
    assert link.next_deadline() is None


def test_a_delayed_receipt_is_sent_by_the_clock() -> None:
    link = fresh()
    accept(link, 1, 1.0)
    assert receipts(link.tick(1.05)) == [AckInfo(1, 1, 3, held_ms=50)]
    assert link.tick(2.0) == []


@pytest.mark.row(24, layer="L1")
def test_a_number_seen_is_late() -> None:
    link = fresh(window=3)
    accept(link, 1)
    assert dropped(link.data(chunk(1), 0.1)) == ["late"]
    link.data(chunk(3), 0.1)
    assert dropped(link.data(chunk(3), 0.1)) == ["late"]
    assert dropped(link.data(chunk(2), 0.1)) == ["late"]  # below one in decoding: it would come out of order


def test_a_number_beyond_the_credit_is_refused_and_resolves_nothing() -> None:
    link = fresh()
    actions = link.data(chunk(3), 0.0)
    assert (dropped(actions), nacks(actions)) == (["overload"], [(3, NackCode.OVERLOAD)])
    assert link.resolved == 0


def test_a_number_jumped_over_keeps_bit_zero() -> None:
    link = fresh()
    (info,) = receipts(accept(link, 2))
    assert (info.resolved, info.history) == (2, 0b01)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([], id="no chunk 0"),
        pytest.param([chunk(1, 0, 3)], id="one between is missing"),
        pytest.param([chunk(1, 0, 2)], id="of another frame"),
    ],
)
def test_a_chunk_out_of_order_resolves_its_frame_as_refused(before: list[Data]) -> None:
    link = fresh()
    for message in before:
        link.data(message, 0.0)
    seq = 2 if before and before[0].chunk_n == 2 else 1
    actions = link.data(chunk(seq, 2 if seq == 1 else 1, 3), 0.0)
    assert (dropped(actions), nacks(actions)) == (["gap"], [(seq, NackCode.GAP)])
    assert (link.resolved, link.history & 1) == (seq, 0)
    assert link.assembly_bytes == 0


def test_a_new_frame_discards_a_partial_one() -> None:
    link = fresh()
    link.data(chunk(1, 0, 2), 0.0)
    (info,) = receipts(accept(link, 2))
    assert (info.resolved, info.history) == (2, 0b01)


def test_a_frame_over_the_limit_is_refused_at_its_first_chunk() -> None:
    link = fresh()
    actions = link.data(chunk(1, 0, 5, size=SETTINGS.max_frame + 1), 0.0)
    assert nacks(actions) == [(1, NackCode.TOO_BIG)]
    assert link.assembly_bytes == 0
    actions = link.data(chunk(2, raw=SETTINGS.max_frame + 1), 0.0)
    assert nacks(actions) == [(2, NackCode.TOO_BIG)]


def test_a_frame_of_another_size_than_it_says_is_refused() -> None:
    link = fresh()
    link.data(chunk(1, 0, 2), 0.0)
    actions = link.data(replace(chunk(1, 1, 2), payload=bytes(11)), 0.0)
    assert nacks(actions) == [(1, NackCode.LAYOUT)]


def test_a_refused_frame_is_nacked_and_has_bit_zero() -> None:
    link = fresh()
    link.data(chunk(1), 0.0)
    actions = link.verdict(1, NackCode.DECODE, 0.0)
    assert nacks(actions) == [(1, NackCode.DECODE)]
    assert link.info(0.0).history == 0


def test_a_damaged_chunk_ends_its_frame() -> None:
    link = fresh()
    link.data(chunk(1, 0, 3), 0.0)
    assert nacks(link.corrupt(1, 0.0)) == [(1, NackCode.CRC)]
    assert link.assembly_bytes == 0
    assert dropped(link.data(chunk(1, 2, 3), 0.1)) == ["late"]
    assert link.corrupt(1, 0.1) == []  # once
    assert link.corrupt(99, 0.1) == []  # beyond the credit


def test_a_refusal_behind_a_frame_in_decoding_waits_for_its_verdict() -> None:
    link = fresh()
    link.data(chunk(1), 0.0)
    actions = link.data(chunk(2, 1, 3), 0.0)
    assert (dropped(actions), nacks(actions), link.resolved) == (["gap"], [], 0)
    actions = link.verdict(1, 0, 0.1)
    assert nacks(actions) == [(2, NackCode.GAP)]
    assert receipts(actions)[-1].history == 0b10  # the first was accepted, and the sender hears of it


@given(st.permutations(range(1, 6)), st.lists(st.booleans(), min_size=5, max_size=5))
def test_verdicts_in_any_order_end_in_the_same_receipt(order: list[int], good: list[bool]) -> None:
    link = fresh(window=8)
    for seq in range(1, 6):
        link.data(chunk(seq), 0.0)
    for seq in order:
        link.verdict(seq, 0 if good[seq - 1] else NackCode.DECODE, 0.0)
    info = link.info(0.0)
    assert info.resolved == 5
    assert [bool(info.history >> (5 - seq) & 1) for seq in range(1, 6)] == good


def test_two_verdicts_on_a_frame_are_a_bug() -> None:
    link = fresh()
    link.data(chunk(1), 0.0)
    link.verdict(1, 0, 0.0)
    with pytest.raises(AssertionError):
        link.verdict(1, 0, 0.0)


def test_a_ping_resolves_all_that_can_no_longer_arrive() -> None:
    link = fresh()
    link.data(chunk(1, 0, 2), 0.0)
    (info,) = receipts(link.ping(Ping(1, 2, EDGE), 1.0))
    assert (info.resolved, info.history, info.credit) == (2, 0, 4)
    assert link.assembly_bytes == 0
    assert dropped(link.data(chunk(1, 1, 2), 1.0)) == ["late"]


def test_a_ping_leaves_a_partial_frame_beyond_it_alone() -> None:
    link = fresh()
    accept(link, 1)
    link.data(chunk(2, 0, 2), 0.0)
    link.ping(Ping(1, 1, EDGE), 0.5)
    assert [type(a) for a in link.data(chunk(2, 1, 2), 1.0)] == [Assembled]


def test_a_ping_waits_for_what_is_being_decoded() -> None:
    link = fresh()
    link.data(chunk(1), 0.0)
    assert link.ping(Ping(1, 1, EDGE), 0.5) == []
    assert receipts(link.verdict(1, 0, 1.0))[-1].history == 1


@pytest.mark.parametrize(("used", "resolved"), [(2, 2), (50, 50), (1 << 63, 1 << 63), ((1 << 64) - 1, 0)])
def test_a_sender_that_knows_of_more_is_believed_within_the_wire(used: int, resolved: int) -> None:
    link = fresh()
    (info,) = receipts(link.ping(Ping(1, used, EDGE), 0.0))
    assert info.resolved == resolved
    assert info.credit < 1 << 64


def test_credit_stops_without_room_and_returns_when_the_mailbox_is_emptied() -> None:
    room = Room()
    link = fresh(room)
    room.free = False
    accept(link, 1)
    (info,) = receipts(accept(link, 2))
    assert info.credit == 2  # what was granted, and no more
    assert link.drained(1.0) == []  # emptied, and filled again
    room.free = True
    (info,) = receipts(link.drained(1.0))
    assert info.credit == 4
    assert link.drained(1.0) == []


def test_credit_that_a_riding_receipt_did_not_deliver_still_returns() -> None:
    room = Room()
    link = fresh(room)
    room.free = False
    accept(link, 1)
    accept(link, 2)
    accept_at = link.info(1.0)
    assert accept_at.credit == 2
    room.free = True
    link.info(1.0)  # offered as company for a frame that never left
    assert len(receipts(link.drained(1.0))) == 1


def test_the_history_is_sixty_four_frames_long() -> None:
    link = fresh(window=32)
    for seq in range(1, 4 * HISTORY):
        link.ping(Ping(0, 0, EDGE), 0.0)
        accept(link, seq)
    assert link.history == (1 << HISTORY) - 1
    link.ping(Ping(1, 4 * HISTORY + HISTORY, EDGE), 0.0)
    assert link.history == 0


def test_another_connection_of_the_same_process_goes_on_with_the_link() -> None:
    link = fresh()
    accept(link, 1)
    link.rebind(b"other")
    assert (link.routing, link.resolved) == (b"other", 1)
