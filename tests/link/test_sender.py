"""The sending side of a link, state by state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dagrad_bus.codec import Codec, Index, Value
from dagrad_bus.events import Outcome, Send
from dagrad_bus.ids import EdgeId, JobId, NodeId, Step
from dagrad_bus.link import HISTORY, Action, Dropped, LinkUp, OutLink, Packed, Rejected, Settled, Stalled, State
from dagrad_bus.link.sender import SLOWEST, UNANSWERED
from dagrad_bus.settings import LinkSettings
from dagrad_bus.wire import (
    CHUNK,
    AckInfo,
    DataHead,
    Error,
    ErrorCode,
    Hello,
    HelloOk,
    Kind,
    Nack,
    NackCode,
    Ping,
    Pong,
)

PEER, EDGE = NodeId(b"p" * 16), EdgeId(7)
SETTINGS = LinkSettings(window=2)
HELLO = Hello(NodeId(b"s" * 16), bytes(16), 1, 0, bytes(8), "h", 1, 2, "s", 1 << 20)


def head(size: int = 100) -> DataHead:
    return DataHead(Kind.STATE, bytes(8), 1, 1, Index.GAPS8, Value.F32, Codec.RAW, size, size, Step(1), 1.0)


def packed(job: int, size: int = 100, at: float = 0.0) -> Packed:
    return Packed(JobId(job), head(size), bytes(size), (0,) * max(1, -(-size // CHUNK)), at)


def ok(edge: int = EDGE, resolved: int = 0, credit: int = 2, history: int = 0, backoff_ms: int = 0) -> HelloOk:
    info = AckInfo(resolved, history, credit)
    ack = info if edge else None
    fields = {name: getattr(HELLO, name) for name in ("job", "epoch", "incarnation", "layout", "host", "inbox_port")}
    return HelloOk(
        PEER, **fields, beat_port=2, name="p", max_frame=1 << 20, ack=ack, edge=EdgeId(edge), backoff_ms=backoff_ms
    )


def up(credit: int = 2) -> OutLink:
    link = OutLink(PEER, HELLO, SETTINGS)
    link.connected(0.0)
    link.hello_ok(ok(credit=credit), 0.0)
    return link


def send(link: OutLink, job: int, now: float = 0.0, size: int = 100) -> None:
    """Submit a frame and hand all its chunks over."""
    assert link.submit(packed(job, size, now), now) == []
    while link.next_chunk(now, None) is not None:
        link.chunk_sent(now)


def outcomes(actions: list[Action]) -> list[tuple[int, bool]]:
    return [(a.outcome.job, a.outcome.accepted) for a in actions if isinstance(a, Settled)]


def state_down() -> OutLink:
    return OutLink(PEER, HELLO, SETTINGS)


def state_greeting() -> OutLink:
    link = state_down()
    link.connected(0.0)
    return link


def state_stalled() -> OutLink:
    link = up()
    send(link, 1)
    link.tick(2.0)
    return link


def state_refused() -> OutLink:
    link = state_greeting()
    link.refused(Error(ErrorCode.LAYOUT, "no", fatal=True, backoff_ms=5000), 0.0)
    return link


STATES = {
    State.DOWN: state_down,
    State.GREETING: state_greeting,
    State.UP: up,
    State.STALLED: state_stalled,
    State.REFUSED: state_refused,
}
EVENTS: dict[str, Callable[[OutLink], list[Action]]] = {
    "connected": lambda link: link.connected(10.0),
    "broken": lambda link: link.broken(),
    "hello_ok": lambda link: link.hello_ok(ok(), 10.0),
    "no link": lambda link: link.hello_ok(ok(edge=0), 10.0),
    "error": lambda link: link.refused(Error(ErrorCode.LAYOUT, "no", fatal=True), 10.0),
    "mild error": lambda link: link.refused(Error(ErrorCode.LIMITS, "hm"), 10.0),
    "bad_edge": lambda link: link.nack(Nack(EDGE, 1, NackCode.BAD_EDGE), 10.0),
    "progress": lambda link: link.ack(AckInfo(1, 1, 3), 10.0),
    "tick": lambda link: link.tick(10.0),
}
D, G, U, S, R = State
TABLE = {
    #              DOWN GREETING UP STALLED REFUSED
    "connected": (G, G, G, G, G),
    "broken": (D, D, D, D, D),
    "hello_ok": (D, U, U, S, R),
    "no link": (D, R, U, S, R),
    "error": (R, R, R, R, R),
    "mild error": (D, G, U, S, R),
    "bad_edge": (D, G, G, G, R),
    "progress": (D, G, U, U, R),
    "tick": (D, G, U, S, G),
}


@pytest.mark.parametrize("event", TABLE)
@pytest.mark.parametrize("state", list(State))
def test_transitions(state: State, event: str) -> None:
    link = STATES[state]()
    assert link.state is state
    EVENTS[event](link)
    assert link.state is TABLE[event][list(State).index(state)]


def test_a_connection_is_greeted_with_what_was_used_so_far() -> None:
    link = state_down()
    (hello,) = link.connected(1.0)
    assert hello == Send(PEER, replace(HELLO, wanted=True))
    link.hello_ok(ok(), 1.0)
    send(link, 1)
    link.broken()
    (again,) = link.connected(2.0)
    assert again == Send(PEER, replace(HELLO, wanted=True, edge=EDGE, used=1))


def test_hello_is_repeated_until_it_is_answered() -> None:
    link = state_greeting()
    assert link.tick(1.9) == []
    assert [type(a.message) for a in link.tick(2.0) if isinstance(a, Send)] == [Hello]
    assert link.next_deadline() == 4.0


def test_an_answer_that_has_not_resolved_all_that_was_used_is_not_taken_as_up() -> None:
    link = up()
    send(link, 1)
    send(link, 2)
    link.broken()
    link.connected(1.0)
    assert link.hello_ok(ok(resolved=1, credit=3), 1.1) == []
    assert link.state is State.GREETING
    assert LinkUp(PEER) in link.hello_ok(ok(resolved=2, credit=4), 3.0)
    assert link.generation == 1  # the same link goes on
    link.submit(packed(3), 3.0)
    chunk = link.next_chunk(3.0, None)
    assert chunk is not None
    assert chunk.seq == 3


def test_another_edge_starts_afresh() -> None:
    link = up()
    send(link, 1)
    link.broken()
    link.connected(1.0)
    assert LinkUp(PEER) in link.hello_ok(ok(edge=9), 1.1)
    assert (link.edge, link.generation) == (9, 2)
    link.submit(packed(2), 1.2)
    chunk = link.next_chunk(1.2, None)
    assert chunk is not None
    assert chunk.seq == 1


def test_an_answer_without_a_receipt_is_no_answer() -> None:
    link = state_greeting()
    assert link.hello_ok(replace(ok(), ack=None), 0.1) == [Dropped("hello_ok_without_receipt")]
    assert link.state is State.GREETING


def test_a_frame_for_a_link_that_is_not_ready_is_lost_at_once() -> None:
    for link in (state_down(), state_greeting(), state_stalled(), state_refused(), up(credit=0)):
        assert outcomes(link.submit(packed(5), 0.0)) == [(5, False)]


def test_a_frame_beyond_what_the_peer_takes_is_lost_at_once() -> None:
    link = up()
    large = replace(packed(1), head=replace(head(), codec=Codec.ZLIB, raw_size=(1 << 20) + 1))
    assert outcomes(link.submit(large, 0.0)) == [(1, False)]


def test_one_job_waits_and_window_frames_fly() -> None:
    link = up(credit=2)
    link.submit(packed(1), 0.0)
    assert not link.ready
    assert outcomes(link.submit(packed(2), 0.0)) == [(2, False)]
    link.chunk_sent(0.0)
    assert link.ready
    send(link, 3)
    assert link.in_flight == 2
    assert not link.ready  # no credit


def test_chunks_come_in_order_and_only_the_first_says_what_the_frame_is() -> None:
    link = up()
    link.submit(packed(1, 2 * CHUNK + 5, at=0.5), 1.0)
    seen = []
    info = AckInfo(3, 1, 5)
    while (chunk := link.next_chunk(1.0, info)) is not None:
        assert chunk == link.next_chunk(1.0, info)  # the same one until it was taken
        seen.append((chunk.seq, chunk.chunk_ix, chunk.chunk_n, len(chunk.payload), chunk.ack is info))
        if chunk.head is not None:
            assert chunk.head.queued_ms == 500
        link.chunk_sent(1.0)
    assert seen == [(1, 0, 3, CHUNK, True), (1, 1, 3, CHUNK, False), (1, 2, 3, 5, False)]


def test_the_history_settles_each_frame_by_its_bit() -> None:
    link = up(credit=3)
    for job in (1, 2, 3):
        send(link, job)
    assert outcomes(link.ack(AckInfo(2, 0b01, 4), 0.5)) == [(1, False), (2, True)]
    assert outcomes(link.ack(AckInfo(2, 0b01, 4), 0.6)) == []  # said twice, settled once
    assert outcomes(link.ack(AckInfo(1, 0b1, 3), 0.7)) == []  # late and older
    assert outcomes(link.ack(AckInfo(3 + HISTORY, (1 << HISTORY) - 1, 99), 0.8)) == [(3, False)]  # beyond the history


def test_credit_never_falls() -> None:
    link = up(credit=2)
    link.ack(AckInfo(0, 0, 0), 0.1)
    assert link.ready


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_broken_connection_loses_what_flies_and_what_waits_once_each(chunks: int) -> None:
    link = up(credit=3)
    send(link, 1)
    link.submit(packed(2, (chunks - 1) * CHUNK + 5), 0.0)
    if chunks > 1:
        link.next_chunk(0.0, None)
        link.chunk_sent(0.0)  # half of it left
    assert outcomes(link.broken()) == [(1, False), (2, False)]
    assert outcomes(link.broken()) == []
    assert link.next_deadline() is None


def test_a_refused_frame_is_lost_at_once_and_its_rest_is_not_sent() -> None:
    link = up()
    link.submit(packed(1, 3 * CHUNK), 0.0)
    link.next_chunk(0.0, None)
    link.chunk_sent(0.0)
    actions = link.nack(Nack(EDGE, 1, NackCode.GAP), 0.1)
    assert actions == [Dropped("nacked_2"), Settled(Outcome(JobId(1), PEER, accepted=False))]
    assert link.next_chunk(0.1, None) is None
    assert link.ready
    assert outcomes(link.ack(AckInfo(1, 0, 3), 0.2)) == []


def test_a_link_without_progress_asks_once_a_second_what_became_of_its_frames() -> None:
    link = up()
    assert link.next_deadline() is None  # nothing is owed
    send(link, 1, now=1.0)
    assert link.next_deadline() == 3.0
    stalled, ping = link.tick(3.0)
    assert stalled == Stalled(PEER)
    assert isinstance(ping, Send)
    assert isinstance(ping.message, Ping)
    assert (ping.message.used, ping.message.edge) == (1, EDGE)
    assert link.tick(3.5) == []
    assert len(link.tick(4.0)) == 1
    link.ack(AckInfo(1, 1, 3), 4.1)
    assert link.state is State.UP


def test_a_link_without_credit_asks_too() -> None:
    link = up(credit=0)
    assert link.next_deadline() == 2.0
    assert Stalled(PEER) in link.tick(2.0)
    assert link.ack(AckInfo(0, 0, 2), 2.5) == []
    assert link.ready


def test_a_ping_speaks_of_frames_handed_over_completely() -> None:
    link = up()
    send(link, 1)
    link.submit(packed(2, 2 * CHUNK), 0.0)
    link.next_chunk(0.0, None)
    link.chunk_sent(0.0)
    pings = [a.message for a in link.tick(2.0) if isinstance(a, Send)]
    assert isinstance(pings[0], Ping)
    assert pings[0].used == 1


def test_a_job_that_waits_too_long_is_given_up_even_if_nothing_else_is_timed() -> None:
    link = up()
    link.submit(packed(1), 5.0)
    assert link.next_deadline() == 7.0
    assert outcomes(link.tick(6.9)) == []
    assert outcomes(link.tick(7.0)) == [(1, False)]
    assert link.state is State.UP
    assert link.next_deadline() is None
    assert link.ready
    link.submit(packed(2), 7.0)
    chunk = link.next_chunk(7.0, None)
    assert chunk is not None
    assert chunk.seq == 1  # it used no number


def test_a_started_frame_is_not_given_up() -> None:
    link = up()
    link.submit(packed(1, 2 * CHUNK), 0.0)
    link.next_chunk(0.0, None)
    link.chunk_sent(0.0)
    assert outcomes(link.tick(50.0)) == []


def test_a_refusal_waits_for_its_back_off_and_then_greets_again() -> None:
    link = state_greeting()
    actions = link.refused(Error(ErrorCode.LAYOUT, "other model", fatal=True, backoff_ms=60_000), 1.0)
    assert actions == [Rejected(PEER, 2, "other model")]
    assert link.next_deadline() == 61.0
    assert link.tick(60.0) == []
    assert [type(a.message) for a in link.tick(61.0) if isinstance(a, Send)] == [Hello]


def test_no_link_granted_waits_at_least_a_second() -> None:
    link = state_greeting()
    assert link.hello_ok(ok(edge=0, backoff_ms=10), 1.0) == [Rejected(PEER, 0, "no link granted")]
    assert link.next_deadline() == 2.0


def test_the_round_trip_is_smoothed_and_leaves_out_what_the_receipt_waited() -> None:
    link = up()
    send(link, 1, now=0.0)
    link.ack(AckInfo(1, 1, 3, held_ms=50), 0.15)
    assert link.srtt == pytest.approx(0.1)
    link.tick(0.2)
    send(link, 2, now=1.0)
    link.ack(AckInfo(2, 3, 4), 1.9)
    assert link.srtt == pytest.approx(0.1 + 0.8 / 8)


def test_a_pong_is_a_round_trip_once() -> None:
    link = state_stalled()
    assert link.pong(Pong(1, 1, 0), 2.25) == []
    assert link.srtt == pytest.approx(0.25)
    assert link.pong(Pong(1, 1, 0), 2.5) == [Dropped("late_pong")]
    assert link.pong(Pong(99, 1, 0), 2.5) == [Dropped("late_pong")]


def test_a_link_is_dead_when_nothing_is_answered() -> None:
    link = state_stalled()
    assert not link.is_dead(UNANSWERED)
    assert link.is_dead(UNANSWERED + 0.1)
    assert not up().is_dead(1e9)


def test_a_peer_that_answers_and_grants_nothing_is_not_dead() -> None:
    link = up(credit=0)
    for second in range(3, 500):
        for action in link.tick(float(second)):
            if isinstance(action, Send) and isinstance(action.message, Ping):
                link.pong(Pong(action.message.nonce, 1, 0), second + 0.1)
        assert not link.is_dead(float(second))


def test_what_is_on_its_way_over_a_slow_link_gets_its_time() -> None:
    link = up(credit=9)
    send(link, 1, size=SLOWEST * 30)
    link.tick(3.0)
    assert not link.is_dead(UNANSWERED + 29.0)
    assert link.is_dead(UNANSWERED + 31.0)


def test_a_greeting_that_stays_unanswered_ends_the_connection() -> None:
    link = OutLink(PEER, HELLO, SETTINGS)
    link.connected(5.0)
    for second in range(6, 15):
        link.tick(float(second))
        assert not link.is_dead(float(second))
    assert link.is_dead(5.0 + UNANSWERED + 0.1)
