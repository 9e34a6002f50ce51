"""Laws of packing and parsing, and the refusal of everything else."""

from __future__ import annotations

import json
import math
import runpy
import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus import wire
from dagrad_bus.checksum import crc32c
from dagrad_bus.codec import Codec, Index, Value
from dagrad_bus.errors import LimitExceeded, MalformedFrame, UsageError, VersionMismatch
from dagrad_bus.ids import EdgeId, NodeId, Step
from dagrad_bus.schema import write_record
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.wire import (
    CHUNK,
    Ack,
    AckInfo,
    Bye,
    CorruptPayload,
    Data,
    DataHead,
    Gossip,
    Heartbeat,
    Kind,
    MemberState,
    Message,
    MessageType,
    Ping,
    PpRecords,
    Record,
    fit_records,
    pack,
    parse,
    peek,
)

FOLDER = Path(__file__).parent / "vectors"
MADE: dict[str, Any] = runpy.run_path(str(FOLDER / "make_vectors.py"))
MESSAGES: dict[str, Message] = MADE["messages"]()
VECTORS: dict[str, dict[str, Any]] = json.loads((FOLDER / "wire-v1.json").read_text())
HEAD = DataHead(Kind.STATE, b"layout-8", 2, 3, Index.GAPS8, Value.BF16, Codec.RAW, 15, 15, Step(1000), 12.5)
DATA = Data(EdgeId(7), 1, 0, 1, HEAD, bytes(15))
SHORT = Record(NodeId(bytes(16)), 1, 0, MemberState.SUSPECT, bytes(8))

WRONG: tuple[object, ...] = (None, -1, 1 << 63, 2.5, math.nan, "x" * 201, b"x" * 33, [], {}, [1, 2, 3])


def forge(
    code: int, header: object, *, edge: int = 7, seq: int = 1, ix: int = 0, n: int = 1, payload: bytes | None = None
) -> list[bytes]:
    """Return the parts of a message with right checksums and anything in it."""
    body = header if isinstance(header, bytes) else cast(bytes, msgpack.packb(header))
    crc = 0 if payload is None else crc32c(payload)
    front = struct.pack("<2sBBHHQQHHI", b"DB", 1, code, 0, len(body), edge, seq, ix, n, crc)
    return [front + struct.pack("<I", crc32c(front + body)), body, *([] if payload is None else [payload])]


def header_of(message: Message) -> dict[str, Any]:
    return cast(dict[str, Any], msgpack.unpackb(pack(message)[1]))


@pytest.mark.parametrize("name", MESSAGES)
def test_parse_undoes_pack(name: str) -> None:
    parts = pack(MESSAGES[name])
    assert parse(parts) == MESSAGES[name]
    assert parse([memoryview(part) for part in parts]) == MESSAGES[name]
    assert len(parts[0]) == 36 and len(parts) == 2 + isinstance(MESSAGES[name], Data)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_bytes_are_those_of_the_vectors(name: str) -> None:
    assert [bytes(part).hex() for part in pack(MESSAGES[name])] == VECTORS["messages"][name]
    assert parse([bytes.fromhex(part) for part in VECTORS["messages"][name]]) == MESSAGES[name]


def test_the_file_of_vectors_is_what_its_script_makes() -> None:
    made = json.loads(json.dumps(MADE["vectors"]()))
    for vectors in (made, VECTORS):
        for payload in vectors["payloads"].values():
            if payload["codec"] != Codec.RAW:
                del payload["data"]  # versions of the libraries may differ
    assert made == VECTORS


def test_every_type_has_a_vector_and_a_name_that_peek_finds() -> None:
    assert {peek(pack(message)[0]) for message in MESSAGES.values()} == set(MessageType)
    assert peek(b"") is None and peek(b"DB\x01\x7f" + bytes(32)) is None and peek(b"DB\x02\x10" + bytes(32)) is None
    beat = Heartbeat(NodeId(bytes(16)), 1, 0, 1, Step(2), 3.0)
    assert bytes(pack(beat)[0][:4]) == wire.HEARTBEAT_TOPIC == b"DB\x01\x60"
    assert bytes(pack(Gossip())[0][:4]) == wire.GOSSIP_TOPIC == b"DB\x01\x61"


@pytest.mark.row(23, layer="L1")
@pytest.mark.parametrize("name", MESSAGES)
def test_any_flipped_bit_is_noticed(name: str) -> None:
    parts = [bytes(part) for part in pack(MESSAGES[name])]
    for number, part in enumerate(parts):
        for at in range(len(part)):
            wrong = bytearray(part)
            wrong[at] ^= 1 << at % 8
            with pytest.raises((MalformedFrame, VersionMismatch)):
                parse([*parts[:number], bytes(wrong), *parts[number + 1 :]])


@pytest.mark.parametrize("name", MESSAGES)
def test_every_key_is_required_or_has_a_default_and_unknown_ones_are_ignored(name: str) -> None:
    message = MESSAGES[name]
    parts = pack(message)
    payload = bytes(parts[2]) if len(parts) == 3 else None
    code = parts[0][3]
    place: dict[str, Any] = {"edge": message.edge, "seq": message.seq, "payload": payload}
    if isinstance(message, Data):
        place |= {"ix": message.chunk_ix, "n": message.chunk_n}
    header = header_of(message)
    assert parse(forge(code, header | {"new": [1, {"x": 2}]}, **place)) == message
    for key in header:
        without = {other: value for other, value in header.items() if other != key}
        try:
            assert parse(forge(code, without, **place)) != message
        except MalformedFrame as error:
            assert key in str(error)  # noqa: PT017  # either is right
        for wrong in WRONG:
            try:
                parse(forge(code, header | {key: wrong}, **place))
            except MalformedFrame:
                continue
            assert type(wrong) is type(header[key])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -1.0, 1e39, 5, True])
def test_a_rate_is_a_finite_float(value: object) -> None:
    beat = MESSAGES["heartbeat"]
    with pytest.raises(MalformedFrame, match="rt"):
        parse(forge(0x60, header_of(beat) | {"rt": value}, edge=0))


@pytest.mark.parametrize(
    "body",
    [
        b"\x82\xa1t\x01\xa1t\x02",  # a key twice
        b"\x82\xa1t\x01\xa1x\x82\xa1a\x01\xa1a\x02",  # the same deeper down
        b"\x81\xa1t\xc3",  # a bool is no number
        b"\x82\xa1t\x01\xa1x\xd4\x05\x00",  # an extension
        b"\x82\xa1t\x01\xa1x\xc7\x00\x05",
        b"\x82\xa1t\x01\xa1x\xdd\xff\xff\xff\xff",  # huge claims
        b"\x82\xa1t\x01\xa1x\xdb\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 4000,  # nesting
        b"\x81\xa1t\x01\x00",  # something behind
        b"\x82\xa1t\x01\x01\x02",  # a key that is no string
        b"\x82\xa1t\x01\xa1x\xa1\xff",  # not UTF-8
        b"\x90", b"\x01", b"\xc1", b"\x81",
    ],
)  # fmt: skip
def test_hostile_msgpack_is_refused(body: bytes) -> None:
    assert parse(forge(0x20, b"\x81\xa1t\x01")) == Ping(1, edge=EdgeId(7), seq=1)
    with pytest.raises(MalformedFrame):
        parse(forge(0x20, body))


@pytest.mark.row(29, 39, layer="L1")
@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ([], MalformedFrame),
        ([b""], MalformedFrame),
        ([b"", b""], MalformedFrame),
        ([bytes(36), b"\x80"], MalformedFrame),
        (pack(DATA)[:2], MalformedFrame),
        ([*pack(DATA), b"x"], MalformedFrame),
        ([*pack(Ping(1)), b"x"], MalformedFrame),
        (forge(0x20, {"t": 1}, n=2), MalformedFrame),
        (forge(0x7F, {}), MalformedFrame),
        (forge(0x20, {"t": 1, "x": [[b"x" * 2000], [b"x" * 2100]]}), LimitExceeded),
        (forge(0x10, header_of(DATA), payload=b""), LimitExceeded),
        (forge(0x10, header_of(DATA), payload=bytes(CHUNK + 1)), LimitExceeded),
        ([b"DB\x02" + bytes(33), b"\x80"], VersionMismatch),
    ],
)
def test_parts_sizes_and_versions_are_checked(parts: list[bytes], error: type[Exception]) -> None:
    with pytest.raises(error):
        parse(parts)


LARGE = replace(HEAD, size=CHUNK + 5, raw_size=CHUNK + 5)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(DATA, edge=EdgeId(0)),
        replace(DATA, seq=0),
        replace(DATA, chunk_n=0),
        replace(DATA, chunk_ix=1),
        replace(DATA, chunk_n=257),
        replace(DATA, payload=bytes(14)),
        replace(DATA, chunk_n=2, head=LARGE),  # chunk 0 of 2 must be full
        replace(DATA, chunk_n=3, head=LARGE, payload=bytes(CHUNK)),
        replace(DATA, head=replace(HEAD, raw_size=16)),  # raw, yet the sizes differ
        replace(DATA, head=replace(HEAD, codec=Codec.ZLIB)),  # compressed to the same size
        replace(DATA, head=replace(HEAD, codec=Codec.ZLIB, raw_size=64 * 15 + 1)),
    ],
)
def test_a_chunk_that_contradicts_itself_is_neither_packed_nor_parsed(wrong: Data) -> None:
    assert wrong.head is not None
    keys = {"r": "raw_size", "z": "size", "co": "codec"}
    header = header_of(DATA) | {key: int(getattr(wrong.head, name)) for key, name in keys.items()}
    place = {"edge": wrong.edge, "seq": wrong.seq, "ix": wrong.chunk_ix, "n": wrong.chunk_n}
    with pytest.raises(UsageError):
        pack(wrong)
    with pytest.raises(MalformedFrame):
        parse(forge(0x10, header, payload=bytes(wrong.payload), **place))


def test_only_chunk_0_describes_the_frame() -> None:
    for wrong in (replace(DATA, head=None), Data(EdgeId(7), 1, 1, 2, HEAD, b"x")):
        with pytest.raises(UsageError, match="only it"):
            pack(wrong)
    first, last = Data(EdgeId(7), 1, 0, 2, LARGE, bytes(CHUNK)), Data(EdgeId(7), 1, 1, 2, None, bytes(5))
    assert [parse(pack(chunk)) for chunk in (first, last)] == [first, last]
    assert bytes(pack(last)[1]) == b"\x80"


@pytest.mark.row(23, layer="L1")
def test_a_corrupt_payload_names_its_frame() -> None:
    parts = pack(DATA)
    with pytest.raises(CorruptPayload, match="frame 1 on edge 0x7") as caught:
        parse([*parts[:2], b"x" * 15])
    assert (caught.value.edge, caught.value.seq, caught.value.code) == (7, 1, "crc")


def test_a_broadcast_may_hand_in_the_crc_of_its_payload() -> None:
    parsed = parse(pack(DATA))
    assert isinstance(parsed, Data) and parsed.crc == crc32c(DATA.payload)
    assert pack(replace(DATA, crc=parsed.crc)) == pack(DATA)


def test_a_receipt_costs_few_bytes_when_all_is_well() -> None:
    info = AckInfo(1000, wire.ALL_ACCEPTED, 1002)
    assert len(pack(Ack(EdgeId(7), 1, info))[1]) <= 12
    assert "h" not in header_of(replace(DATA, ack=info))
    assert "h" in header_of(replace(DATA, ack=replace(info, history=5)))


@pytest.mark.parametrize(
    "wrong",
    [
        Ping(-1), Ping(1 << 64), Ping(True), Ping(1, edge=EdgeId(-1)), Ping(1, seq=1 << 64), Bye(256),
        replace(DATA, head=replace(HEAD, layout=b"short")), replace(DATA, head=replace(HEAD, rate=math.nan)),
    ],
)  # fmt: skip
def test_what_the_peer_would_refuse_is_never_packed(wrong: Message) -> None:
    with pytest.raises(UsageError):
        pack(wrong)


def test_codes_may_be_given_by_name() -> None:
    bye = parse(pack(Bye(wire.ByeReason.REWIRED, edge=EdgeId(3))))
    assert isinstance(bye, Bye) and bye.reason is not wire.ByeReason.REWIRED
    assert bye.reason == wire.ByeReason.REWIRED


def large_record(number: int) -> Record:
    """Return the largest record there is."""
    node = NodeId(number.to_bytes(16, "big"))
    long = {"host": "h" * 64, "name": "\N{WATCH}" * 32, "public_key": bytes(32), "sketch": bytes(8)}
    big = (1 << 64) - 1
    return Record(node, big, (1 << 32) - 1, MemberState.DEAD, bytes(8), inbox_port=65535, beat_port=65535, sketch_step=big, **long)  # type: ignore[arg-type]  # fmt: skip


@settings(max_examples=50)
@given(st.lists(st.booleans(), max_size=80))
def test_a_list_of_records_is_cut_into_messages_that_fit(large: list[bool]) -> None:
    records = [large_record(i) if big else replace(SHORT, epoch=i + 1) for i, big in enumerate(large)]
    spec = TopologySpec((1 << 64) - 1, NodeId(b"n" * 16), "static", 254, (1 << 64) - 1, (1 << 64) - 1, b"graph--8")
    pieces = fit_records(records)
    assert [record for piece in pieces for record in piece] == records
    for piece in pieces:
        assert 1 <= len(piece) <= wire.MAX_RECORDS
        for message in (Gossip(piece, spec), PpRecords(piece, (1 << 64) - 1, spec)):
            assert parse(pack(message)) == message
    for piece, after in pairwise(pieces):  # no message is sent half empty
        assert len(piece) == wire.MAX_RECORDS or len(pack(Gossip((*piece, after[0]), None))[1]) > 4096 - 160


def test_a_header_over_the_limit_is_never_packed() -> None:
    records = tuple(large_record(i) for i in range(wire.MAX_RECORDS))
    with pytest.raises(UsageError, match="fit_records"):
        pack(Gossip(records))
    with pytest.raises(LimitExceeded):
        parse(forge(0x61, {"rc": [list(write_record(record)) for record in records]}, edge=0))
