"""Messages to frames and back (wire v1), and every limit on what a peer may send.

A message is ``[F0 preamble, 36 bytes][F1 msgpack map, up to 4096 bytes][F2 payload, DATA only]``; F0 is little endian:

===  =====================  ==========  ==============================================================================
off  field                  type        meaning
===  =====================  ==========  ==============================================================================
0    magic, major, type     2 B, 2 u8   ``DB``, 1, :class:`MessageType`; these four bytes are the topic of a broadcast
4    flags                  u16         0
6    header length          u16         bytes of F1
8    edge                   u64         the edge meant; 0 = none
16   seq                    u64         DATA: frame number on the link, from 1; others: for diagnostics only
24   chunk index and count  u16, u16    0.. and 1..256; all chunks but the last have 262 144 bytes; not DATA: 0 and 1
28   payload crc            u32         crc32c(F2); 0 without F2. Its own, so that a broadcast computes it once
32   header crc             u32         crc32c(F0[0:32] + F1)
===  =====================  ==========  ==============================================================================

Which keys F1 has, with types, ranges and defaults, stands in :mod:`dagrad_bus.schema`, used in both directions: what
:func:`pack` lets through, :func:`parse` takes. Lists of records are cut into messages that fit by :func:`fit_records`.

:func:`parse` checks in the order frames, sizes, magic, major, type, flags, header length and crc, msgpack, schema,
semantics, payload crc, and raises nothing but :class:`~dagrad_bus.errors.RemoteError`, whatever the bytes.
Rates travel as float32 and come back rounded to it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import msgpack

from dagrad_bus.checksum import crc32c
from dagrad_bus.errors import LimitExceeded, MalformedFrame, RemoteError, UsageError, VersionMismatch
from dagrad_bus.ids import EdgeId
from dagrad_bus.messages import (
    ALL_ACCEPTED,
    BUCKETS,
    CHUNK,
    MAX_CHUNKS,
    MAX_FRAME,
    MAX_LINKS,
    MAX_RECORDS,
    NEVER_HEARD,
    Ack,
    AckInfo,
    Bye,
    ByeReason,
    Data,
    DataHead,
    Error,
    ErrorCode,
    Gossip,
    Heartbeat,
    Hello,
    HelloOk,
    Kind,
    LinkPhase,
    LinkReport,
    LinkRole,
    Links,
    LinksReq,
    MemberState,
    Message,
    MessageType,
    Nack,
    NackCode,
    Ping,
    PingReq,
    PingRes,
    Pong,
    PpDigest,
    PpRecords,
    Record,
    StateRej,
    StateRejection,
    StateReq,
)
from dagrad_bus.schema import ACK, HEAD, MAX_NEIGHBOURS, MAX_RANGES, SCHEMA, TYPE_OF, fill, is_host, take, write_record

__all__ = [
    "ALL_ACCEPTED", "BUCKETS", "CHUNK", "GOSSIP_TOPIC", "HEARTBEAT_TOPIC", "MAGIC", "MAJOR", "MAX_CHUNKS", "MAX_FRAME",
    "MAX_HEADER", "MAX_LINKS", "MAX_NEIGHBOURS", "MAX_RANGES", "MAX_RECORDS", "NEVER_HEARD", "Ack", "AckInfo", "Bye",
    "ByeReason", "CorruptPayload", "Data", "DataHead", "Error", "ErrorCode", "Gossip", "Heartbeat", "Hello", "HelloOk",
    "Kind", "LinkPhase", "LinkReport", "LinkRole", "Links", "LinksReq", "MemberState", "Message", "MessageType", "Nack", "NackCode", "Ping", "PingReq", "PingRes", "Pong", "PpDigest", "PpRecords",
    "Record", "StateRej", "StateRejection", "StateReq", "fit_records", "is_host", "pack", "parse", "peek",
]  # fmt: skip

Part = bytes | memoryview

MAGIC = b"DB"
MAJOR = 1
HEARTBEAT_TOPIC = MAGIC + bytes((MAJOR, MessageType.HEARTBEAT))
GOSSIP_TOPIC = MAGIC + bytes((MAJOR, MessageType.GOSSIP))
"""What a SUB subscribes to, beside :data:`HEARTBEAT_TOPIC`."""
MAX_HEADER = 4096
_BESIDE_RECORDS = 160
"""Bytes of F1 that a message with records needs for all else, at most: the spec, ``wanted``, keys and lengths."""

_F0 = struct.Struct("<2sBBHHQQHHII")
_FRONT = struct.Struct("<2sBBHHQQHHI")  # what the header crc covers, with F1
_EMPTY_MAP = b"\x80"


class CorruptPayload(MalformedFrame):
    """The payload's crc differs, while the header's is right: frame ``seq`` of ``edge`` can be refused by name."""

    code = "crc"

    def __init__(self, edge: EdgeId, seq: int) -> None:
        super().__init__(f"payload crc of frame {seq} on edge {edge:#x}")
        self.edge = edge
        self.seq = seq


_TYPES: dict[int, MessageType] = {int(code): code for code in MessageType}


def pack(message: Message) -> list[Part]:
    """Return the two or three parts of ``message``.

    Raises:
        UsageError: a field is outside the range that :func:`parse` takes.
    """
    if isinstance(message, Data):
        return _pack_data(message)
    if isinstance(message, Ack):
        return _frame(MessageType.ACK, message.edge, message.seq, fill({}, ACK, message.info))
    code = TYPE_OF[message.__class__]
    header = fill({}, SCHEMA[code], message)
    if isinstance(message, HelloOk) and message.ack is not None:
        fill(header, ACK, message.ack)
    return _frame(code, message.edge, message.seq, header)


def parse(parts: Sequence[Part]) -> Message:
    """Return the message in ``parts``.

    Raises:
        RemoteError: :class:`MalformedFrame`, :class:`LimitExceeded` or :class:`VersionMismatch`, and nothing else.
    """
    if not 2 <= len(parts) <= 3:
        raise MalformedFrame(f"{len(parts)} parts: 2 or 3 make a message")
    payload = parts[2] if len(parts) == 3 else None
    code, edge, seq, chunk_ix, chunk_n, crc = _parse_preamble(parts[0], parts[1], payload)
    header = _unpack(parts[1])
    if code is MessageType.DATA:
        if payload is None:
            raise MalformedFrame("DATA without a payload")
        return _parse_data(header, Data(edge, seq, chunk_ix, chunk_n, None, payload, crc=crc))
    if payload is not None or (chunk_ix, chunk_n, crc) != (0, 1, 0):
        raise MalformedFrame(f"{code.name} has neither payload nor chunks")
    if code is MessageType.ACK:
        return Ack(edge, seq, cast(AckInfo, take(header, ACK)))
    schema = SCHEMA[code]
    ack = {"ack": take(header, ACK)} if code is MessageType.HELLO_OK and "a" in header else {}
    return cast(Message, take(header, schema, edge=edge, seq=seq, **ack))


def fit_records(records: Iterable[Record]) -> list[tuple[Record, ...]]:
    """Cut ``records`` into pieces that GOSSIP and PP_RECORDS can carry, spec included; their order stays."""
    pieces: list[tuple[Record, ...]] = []
    piece: list[Record] = []
    room = 0
    for record in records:
        size = len(cast(bytes, msgpack.packb(write_record(record))))
        if not piece or len(piece) == MAX_RECORDS or size > room:
            if piece:
                pieces.append(tuple(piece))
            piece, room = [], MAX_HEADER - _BESIDE_RECORDS
        piece.append(record)
        room -= size
    return [*pieces, tuple(piece)] if piece else pieces


def peek(first: Part) -> MessageType | None:
    """Return the type that preamble ``first`` names, None if it is none of this version. Nothing else is checked."""
    if len(first) != _F0.size or bytes(first[:3]) != HEARTBEAT_TOPIC[:3]:
        return None
    return _TYPES.get(first[3])


def _frame(
    code: MessageType, edge: int, seq: int, header: dict[str, Any], chunk_ix: int = 0, chunk_n: int = 1, crc: int = 0
) -> list[Part]:
    body = cast(bytes, msgpack.packb(header, use_single_float=True)) if header else _EMPTY_MAP
    if len(body) > MAX_HEADER:
        raise UsageError(f"a header of {len(body)} bytes: at most {MAX_HEADER} (see fit_records)")
    try:
        front = _FRONT.pack(MAGIC, MAJOR, code, 0, len(body), edge, seq, chunk_ix, chunk_n, crc)
    except struct.error as error:
        raise UsageError(f"edge {edge}, seq {seq}: {error}") from error
    return [front + crc32c(front + body).to_bytes(4, "little"), body]


def _pack_data(data: Data) -> list[Part]:
    if flaw := data.flaw():
        raise UsageError(flaw)
    header: dict[str, Any] = {} if data.head is None else fill({}, HEAD, data.head)
    if data.ack is not None:
        fill(header, ACK, data.ack)
    crc = crc32c(data.payload) if data.crc is None else data.crc
    return [*_frame(MessageType.DATA, data.edge, data.seq, header, data.chunk_ix, data.chunk_n, crc), data.payload]


def _parse_preamble(first: Part, body: Part, payload: Part | None) -> tuple[MessageType, EdgeId, int, int, int, int]:
    """Return type, edge, seq, chunk index, chunk count and payload crc."""
    if len(first) != _F0.size or not body:
        raise MalformedFrame(f"parts of {len(first)} and {len(body)} bytes")
    if len(body) > MAX_HEADER or (payload is not None and not 1 <= len(payload) <= CHUNK):
        raise LimitExceeded(f"header of {len(body)} bytes (up to {MAX_HEADER}), or payload not of 1..{CHUNK}")
    magic, major, number, flags, length, edge, seq, chunk_ix, chunk_n, crc, header_crc = _F0.unpack(first)
    if magic != MAGIC:
        raise MalformedFrame(f"magic {magic!r}")
    if major != MAJOR:
        raise VersionMismatch(f"major version {major}, ours is {MAJOR}")
    code = _TYPES.get(number)
    if code is None or flags:
        raise MalformedFrame(f"type {number}, flags {flags}")
    if length != len(body):
        raise MalformedFrame(f"header of {len(body)} bytes, announced {length}")
    if crc32c(bytes(first[: _FRONT.size]) + body) != header_crc:
        raise MalformedFrame("header crc")
    return code, EdgeId(edge), seq, chunk_ix, chunk_n, crc


def _parse_data(header: Mapping[str, Any], chunk: Data) -> Data:
    edge, seq, chunk_ix, chunk_n, payload = chunk.edge, chunk.seq, chunk.chunk_ix, chunk.chunk_n, chunk.payload
    if chunk_ix == 0:
        head = take(header, HEAD)
        ack = take(header, ACK) if "a" in header else None
        chunk = Data(edge, seq, chunk_ix, chunk_n, head, payload, ack, chunk.crc)
    if flaw := chunk.flaw():
        raise MalformedFrame(flaw)
    if crc32c(payload) != chunk.crc:
        raise CorruptPayload(edge, seq)
    return chunk


def _unpack(body: Part) -> Mapping[str, Any]:
    if body == _EMPTY_MAP:
        return {}
    try:
        header = cast(object, msgpack.unpackb(body, **_UNPACK))
    except RemoteError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise MalformedFrame(f"msgpack: {error}") from error
    if header.__class__ is not dict:
        raise MalformedFrame("the header is no map")
    return cast(Mapping[str, Any], header)


def _unique(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise MalformedFrame("a key appears twice")
    return made


def _refuse_extension(code: int, data: bytes) -> object:
    raise MalformedFrame(f"msgpack extension {code} of {len(data)} bytes")


_UNPACK: dict[str, Any] = {
    "raw": False,
    "strict_map_key": True,
    "use_list": False,
    "max_str_len": 800,  # 200 characters of any kind
    "max_bin_len": MAX_HEADER,
    "max_array_len": 64,
    "max_map_len": 32,
    "max_ext_len": 0,
    "object_pairs_hook": _unique,
    "ext_hook": _refuse_extension,
}
