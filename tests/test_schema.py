"""Which values of compound keys are taken, in both directions; numbers and texts are tested with the wire."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.errors import MalformedFrame, UsageError
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.messages import (
    MAX_LINKS,
    Gossip,
    Heartbeat,
    LinkPhase,
    LinkReport,
    LinkRole,
    Links,
    LinksReq,
    MemberState,
    MessageType,
    PingRes,
    PpDigest,
    PpRecords,
    Record,
    StateReq,
)
from dagrad_bus.schema import MAX_NEIGHBOURS, MAX_RANGES, SCHEMA, TYPE_OF, U32, U64, fill, is_host, take
from dagrad_bus.topology.live import TopologySpec

NODE = NodeId(b"n" * 16)
RECORD = Record(NODE, 5, 1, MemberState.ALIVE, b"", "host.example", 1, 2, "worker", b"", b"sketch-8", 3)
SPEC = TopologySpec(2, NODE, "ring")


def written(message: object) -> dict[str, Any]:
    """Return F1 as the other end unpacks it."""
    header = fill({}, SCHEMA[TYPE_OF[type(message)]], message)
    return cast("dict[str, Any]", msgpack.unpackb(msgpack.packb(header), use_list=False))


def read(code: MessageType, header: dict[str, Any]) -> Any:
    return take(header, SCHEMA[code])


ids = st.binary(min_size=16, max_size=16).map(NodeId)
short = st.sampled_from([b"", b"8 bytes!"])
u64 = st.integers(0, U64)
records = st.builds(
    Record, ids, st.integers(1, U64), st.integers(0, U32), st.sampled_from(MemberState), short,
    st.sampled_from(["", "h", "10.0.0.1", "[fe80::1%eth0]", "h" * 64]), st.integers(0, 65535), st.integers(0, 65535),
    st.text(max_size=32).filter(lambda text: text.isprintable()), st.binary(max_size=0), short, u64,
)  # fmt: skip
specs = st.builds(
    TopologySpec, u64, ids, st.sampled_from(["hash-rings", "ring", "complete"]), st.integers(1, 127).map(lambda n: 2 * n),
    u64, u64,
)  # fmt: skip


@settings(max_examples=50)
@given(st.lists(records, max_size=24).map(tuple), st.none() | specs, u64)
def test_what_is_written_is_read(some: tuple[Record, ...], spec: TopologySpec | None, wanted: int) -> None:
    for message in (Gossip(some, spec), PpRecords(some, wanted, spec)):
        assert read(TYPE_OF[type(message)], written(message)) == message


def test_a_record_without_an_address_is_short() -> None:
    bare = Record(NODE, 5, 1, MemberState.DEAD, b"accuser!")
    assert [len(one) for one in written(Gossip((RECORD, bare)))["rc"]] == [12, 5]
    full = (*written(Gossip((bare,)))["rc"][0], "", 0, 0, "", b"", b"", 0)
    assert read(MessageType.GOSSIP, {"rc": (full,)}) == Gossip((bare,))


WRONG: tuple[object, ...] = (None, True, -1, 1 << 64, 2.5, math.nan, "h" * 65, bytes(33), (), {}, (1, 2))


@pytest.mark.parametrize("place", range(12))
@pytest.mark.parametrize("wrong", WRONG)
def test_a_record_with_a_wrong_field_is_refused(place: int, wrong: object) -> None:
    (plain,) = written(Gossip((RECORD,)))["rc"]
    forged = (*plain[:place], wrong, *plain[place + 1 :])
    with pytest.raises(MalformedFrame, match="rc"):
        read(MessageType.GOSSIP, {"rc": (forged,)})


@pytest.mark.parametrize(
    "wrong",
    [
        replace(RECORD, epoch=0, state=MemberState.ALIVE),  # an expected member stays at home
        replace(RECORD, epoch=0, state=MemberState.SUSPECT),
        replace(RECORD, accuser=b"short"),
        replace(RECORD, host="tcp://host"),
        replace(RECORD, host="host:5555"),
        replace(RECORD, host="*"),
        replace(RECORD, host="host\n"),
        replace(RECORD, state=cast("Any", 0)),
        replace(RECORD, name=cast("Any", b"worker")),
    ],
)
def test_a_record_that_the_peer_would_refuse_is_never_written(wrong: Record) -> None:
    with pytest.raises(UsageError, match="records"):
        written(Gossip((wrong,)))


@pytest.mark.parametrize(
    "given",
    [None, 1, "x", b"x", {}, (1,), ((),), ((1,) * 5,), ((b"n" * 16,),), ((NODE, 5, 1, 9, b""),), ((NODE,) * 13,)],
)
def test_what_is_no_list_of_records_is_refused(given: object) -> None:
    with pytest.raises(MalformedFrame):
        read(MessageType.GOSSIP, {"rc": given})


def test_a_message_has_at_most_so_many_records() -> None:
    (plain,) = written(Gossip((RECORD,)))["rc"]
    assert len(read(MessageType.GOSSIP, {"rc": (plain,) * 24}).records) == 24
    with pytest.raises(MalformedFrame):
        read(MessageType.GOSSIP, {"rc": (plain,) * 25})


@pytest.mark.parametrize("place", range(7))
@pytest.mark.parametrize("wrong", [None, True, -1, 1 << 64, 3.0, "kademlia", "hash-rings\n", b"short", (), {}])
def test_a_spec_with_a_wrong_field_is_malformed(place: int, wrong: object) -> None:
    plain = written(Gossip(spec=SPEC))["ts"]
    forged = (*plain[:place], wrong, *plain[place + 1 :])
    with pytest.raises(MalformedFrame, match="ts"):
        read(MessageType.GOSSIP, {"ts": forged})
    with pytest.raises(MalformedFrame):
        read(MessageType.GOSSIP, {"ts": plain[:-1]})


@pytest.mark.parametrize("degree", [0, 1, 3, 255, 256])
def test_a_spec_out_of_its_own_bounds_is_malformed(degree: int) -> None:
    plain = written(Gossip(spec=SPEC))["ts"]
    with pytest.raises(MalformedFrame):
        read(MessageType.PP_RECORDS, {"mb": (), "ts": (*plain[:3], degree, *plain[4:])})


@pytest.mark.parametrize("count", [0, 63, 65])
def test_a_digest_has_64_buckets(count: int) -> None:
    with pytest.raises(UsageError):
        written(PpDigest((0,) * count, SPEC))
    with pytest.raises(MalformedFrame):
        read(MessageType.PP_DIGEST, written(PpDigest((0,) * 64, SPEC)) | {"bk": (0,) * count})


@pytest.mark.parametrize(
    "ranges",
    [
        (), ((0, 0),), ((5, 1), (0, 1)), ((0, 2), (1, 1)), ((0, 1), (0, 1)), ((-1, 2),), ((0, 1 << 32),),
        ((U32, 1),), ((0, 1, 2),), ((0,),), ((True, 1),), (0, 1), tuple((2 * i, 1) for i in range(MAX_RANGES + 1)),
    ],
)  # fmt: skip
def test_ranges_rise_and_lie_apart(ranges: Any) -> None:
    most = tuple((2 * i, 2) for i in range(MAX_RANGES))
    assert read(MessageType.STATE_REQ, written(StateReq(1, most))) == StateReq(1, most)
    with pytest.raises(UsageError):
        written(StateReq(1, ranges))
    with pytest.raises(MalformedFrame):
        read(MessageType.STATE_REQ, {"rq": 1, "rg": ranges})


def test_a_request_has_a_number() -> None:
    with pytest.raises(UsageError):
        written(StateReq(0, ((0, 1),)))


@pytest.mark.parametrize("near", [(b"short",), (NODE,), (1,), (b"8 bytes!",) * (MAX_NEIGHBOURS + 1), None, b"8 bytes!"])
def test_a_heartbeat_lists_the_beginnings_of_ids(near: Any) -> None:
    beat = Heartbeat(NODE, 1, 0, 1, Step(2), 3.0, neighbours=(b"8 bytes!",) * MAX_NEIGHBOURS)
    assert read(MessageType.HEARTBEAT, written(beat)) == beat
    with pytest.raises(UsageError):
        written(replace(beat, neighbours=near))
    with pytest.raises(MalformedFrame):
        read(MessageType.HEARTBEAT, written(beat) | {"nb": near})


@pytest.mark.parametrize("sketch", [b"1234567", b"123456789", "12345678", None, 8])
def test_a_sketch_has_8_bytes_or_none(sketch: Any) -> None:
    beat = Heartbeat(NODE, 1, 0, 1, Step(2), 3.0, sketch=b"8 bytes!")
    with pytest.raises(UsageError):
        written(replace(beat, sketch=sketch))
    with pytest.raises(MalformedFrame):
        read(MessageType.HEARTBEAT, written(beat) | {"sk": sketch})


def test_whether_a_target_answered_is_said_either_way() -> None:
    for ok in (True, False):
        assert written(PingRes(1, NODE, ok))["ok"] is ok
    with pytest.raises(MalformedFrame, match="ok"):
        read(MessageType.PING_RES, {"t": 1, "n": NODE})


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("", True), ("10.0.0.7", True), ("node-3.cluster_a", True), ("[::1]", True), ("[fe80::1%eth0]", True),
        ("-x", False), ("a b", False), ("a/b", False), ("::1", False), ("[::1", False), ("h" * 65, False), (b"h", False),
    ],
)  # fmt: skip
def test_a_host_is_what_may_stand_in_an_endpoint(text: object, good: bool) -> None:
    assert is_host(text) is good


LINK = LinkReport(NODE, LinkRole.NEIGHBOUR, LinkPhase.UP, 9, 1, 2, 8, 0, 1, 1 << 40, 7, 250, 3, 12)


@settings(max_examples=50)
@given(
    st.lists(
        st.builds(
            LinkReport, ids, st.sampled_from(LinkRole), st.sampled_from(LinkPhase), u64, u64, st.integers(0, 65535), u64,
            u64, st.integers(0, U32), u64, u64, st.integers(0, U32), st.integers(0, U32), st.integers(0, U32),
        ),
        max_size=MAX_LINKS,
    ).map(tuple)
)  # fmt: skip
def test_reports_of_links_come_back_and_fit_a_header(reports: tuple[LinkReport, ...]) -> None:
    message = Links(7, len(reports), reports)
    assert read(MessageType.LINKS, written(message)) == message
    assert len(cast("bytes", msgpack.packb(fill({}, SCHEMA[MessageType.LINKS], message)))) <= 4096
    assert read(MessageType.LINKS_REQ, written(LinksReq(U64))) == LinksReq(U64)


@pytest.mark.parametrize("place", range(14))
@pytest.mark.parametrize("wrong", WRONG)
def test_a_report_with_a_wrong_field_is_refused(place: int, wrong: object) -> None:
    (plain,) = written(Links(7, 1, (LINK,)))["ls"]
    forged = (*plain[:place], wrong, *plain[place + 1 :])
    with pytest.raises(MalformedFrame, match="ls"):
        read(MessageType.LINKS, {"t": 7, "nl": 1, "ls": (forged,)})


def test_a_message_has_at_most_so_many_reports() -> None:
    (plain,) = written(Links(7, 1, (LINK,)))["ls"]
    for wrong in ((plain,) * (MAX_LINKS + 1), ((),), (plain[:-1],), ((*plain, 0),), 5, ("x",)):
        with pytest.raises(MalformedFrame):
            read(MessageType.LINKS, {"t": 7, "nl": 1, "ls": wrong})
