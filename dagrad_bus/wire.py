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

Which keys F1 has, with types, ranges and defaults, stands in ``_SCHEMA``, used in both directions: what :func:`pack`
lets through, :func:`parse` takes. A key at its default is left out, an unknown one is ignored. The acknowledgement of a
link (``_ACK``) is the body of ACK and may ride on HELLO_OK and on chunk 0 of DATA going the other way.

:func:`parse` checks in the order frames, sizes, magic, major, type, flags, header length and crc, msgpack, schema,
semantics, payload crc, and raises nothing but :class:`~dagrad_bus.errors.RemoteError`, whatever the bytes.
Rates travel as float32 and come back rounded to it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from operator import attrgetter
from typing import Any, NamedTuple, cast

import msgpack

from dagrad_bus.checksum import crc32c
from dagrad_bus.codec import MAX_RAW, Codec, Index, Value
from dagrad_bus.errors import LimitExceeded, MalformedFrame, RemoteError, UsageError, VersionMismatch
from dagrad_bus.ids import EdgeId
from dagrad_bus.messages import (
    ALL_ACCEPTED,
    CHUNK,
    MAX_CHUNKS,
    MAX_FRAME,
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
    MessageType,
    Nack,
    NackCode,
    Ping,
    Pong,
)

__all__ = [
    "ALL_ACCEPTED", "CHUNK", "HEARTBEAT_TOPIC", "MAGIC", "MAJOR", "MAX_CHUNKS", "MAX_FRAME", "MAX_HEADER", "Ack",
    "AckInfo", "Bye", "ByeReason", "CorruptPayload", "Data", "DataHead", "Error", "ErrorCode", "Heartbeat", "Hello",
    "HelloOk", "Kind", "Message", "MessageType", "Nack", "NackCode", "Ping", "Pong", "pack", "parse", "peek",
]  # fmt: skip

Part = bytes | memoryview

MAGIC = b"DB"
MAJOR = 1
HEARTBEAT_TOPIC = MAGIC + bytes((MAJOR, MessageType.HEARTBEAT))
MAX_HEADER = 4096

_F0 = struct.Struct("<2sBBHHQQHHII")
_FRONT = struct.Struct("<2sBBHHQQHHI")  # what the header crc covers, with F1
_F32 = struct.Struct("<f")
_F32_MAX = 3.4028234663852886e38
_U8, _U16, _U32, _U64 = 0xFF, 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF
_EMPTY_MAP = b"\x80"


class CorruptPayload(MalformedFrame):
    """The payload's crc differs, while the header's is right: frame ``seq`` of ``edge`` can be refused by name."""

    code = "crc"

    def __init__(self, edge: EdgeId, seq: int) -> None:
        super().__init__(f"payload crc of frame {seq} on edge {edge:#x}")
        self.edge = edge
        self.seq = seq


class _Key(NamedTuple):
    """One key of F1. ``low`` and ``high`` bound a number, the length of bytes and str, the items of a tuple."""

    key: str
    name: str
    type: type[Any]
    low: float
    high: float
    default: Any = None
    """None: the key is required."""


_PEER = (
    _Key("n", "node", bytes, 16, 16),
    _Key("j", "job", bytes, 16, 16),
    _Key("e", "epoch", int, 0, _U64),
    _Key("i", "incarnation", int, 0, _U32),
    _Key("lay", "layout", bytes, 8, 8),
    _Key("ho", "host", str, 0, 64),
    _Key("ip", "inbox_port", int, 0, _U16),
    _Key("bp", "beat_port", int, 0, _U16),
    _Key("nm", "name", str, 0, 32),
    _Key("mf", "max_frame", int, 1, MAX_FRAME),
    _Key("v", "minor", tuple, 0, _U8, (0, 0)),
    _Key("cap", "capabilities", int, 0, _U64, 0),
    _Key("pk", "public_key", bytes, 0, 32, b""),
)
_ACK = (
    _Key("a", "resolved", int, 0, _U64),
    _Key("h", "history", int, 0, _U64, ALL_ACCEPTED),
    _Key("c", "credit", int, 0, _U64),
    _Key("q", "queued", int, 0, _U16, 0),
    _Key("l", "latency_ms", int, 0, _U32, 0),
    _Key("d", "held_ms", int, 0, _U32, 0),
)
_HEAD = (
    _Key("k", "kind", Kind, 1, 3),
    _Key("lay", "layout", bytes, 8, 8),
    _Key("bs", "block", int, 1, 256),
    _Key("nb", "count", int, 1, _U32),
    _Key("ic", "index", Index, 0, 3),
    _Key("vt", "value", Value, 0, 4),
    _Key("co", "codec", Codec, 0, 4),  # "c" is the credit that may ride along
    _Key("r", "raw_size", int, 1, MAX_RAW),
    _Key("z", "size", int, 1, MAX_FRAME),
    _Key("sp", "step", int, 0, _U64),
    _Key("rt", "rate", float, 0, _F32_MAX),
    _Key("qa", "queued_ms", int, 0, _U32, 0),
    _Key("rf", "refreshed", int, 0, _U32, 0),
    _Key("dy", "dirty", int, 0, _U32, 0),
    _Key("rq", "request", int, 0, _U32, 0),
    _Key("fl", "last", bool, 0, 1, False),
)


class _Schema(NamedTuple):
    """A dataclass, its keys, and how to read their values off an instance in one go."""

    make: Callable[..., Any]
    keys: tuple[_Key, ...]
    read: Callable[[Any], tuple[Any, ...]]


def _schema(make: Callable[..., Any], *keys: _Key) -> _Schema:
    return _Schema(make, keys, attrgetter(*(key.name for key in keys)))  # all have two keys or more: a tuple


_ACK_SCHEMA = _schema(AckInfo, *_ACK)
_HEAD_SCHEMA = _schema(DataHead, *_HEAD)
_BACKOFF = _Key("b", "backoff_ms", int, 0, _U32, 0)
_SCHEMA: dict[MessageType, _Schema] = {
    MessageType.HELLO: _schema(
        Hello, *_PEER, _Key("ln", "wanted", bool, 0, 1, False), _Key("sq", "used", int, 0, _U64, 0)
    ),
    MessageType.HELLO_OK: _schema(HelloOk, *_PEER, _Key("mv", "chosen", int, 0, _U8, 0), _BACKOFF),
    MessageType.ERROR: _schema(
        Error,
        _Key("c", "code", int, 0, _U16),
        _Key("m", "text", str, 0, 200, ""),
        _Key("ft", "fatal", bool, 0, 1, False),
        _BACKOFF,
        _Key("e", "epoch", int, 0, _U64, 0),
    ),
    MessageType.BYE: _schema(Bye, _Key("why", "reason", int, 0, _U8), _BACKOFF),
    MessageType.NACK: _schema(Nack, _Key("q", "refused", int, 0, _U64), _Key("c", "code", int, 0, _U8)),
    MessageType.PING: _schema(Ping, _Key("t", "nonce", int, 0, _U64), _Key("sq", "used", int, 0, _U64, 0)),
    MessageType.PONG: _schema(
        Pong,
        _Key("t", "nonce", int, 0, _U64),
        _Key("e", "epoch", int, 0, _U64),
        _Key("i", "incarnation", int, 0, _U32),
        _Key("lg", "lag_ms", int, 0, _U32, 0),
        _Key("lh", "health", int, 0, _U8, 0),
    ),
    MessageType.HEARTBEAT: _schema(
        Heartbeat,
        _Key("n", "node", bytes, 16, 16),
        _Key("e", "epoch", int, 0, _U64),
        _Key("i", "incarnation", int, 0, _U32),
        _Key("s", "state", int, 0, _U8),
        _Key("sp", "step", int, 0, _U64),
        _Key("rt", "rate", float, 0, _F32_MAX),
        _Key("pg", "progress_ms", int, 0, _U32, 0),
        _Key("lg", "lag_ms", int, 0, _U32, 0),
        _Key("lh", "health", int, 0, _U8, 0),
        _Key("nm", "members", int, 0, _U32, 0),
    ),
}
"""F1 of all messages but DATA and ACK, which consist of ``_HEAD`` and ``_ACK``."""
_TYPE_OF: dict[object, MessageType] = {schema.make: code for code, schema in _SCHEMA.items()}
_TYPES: dict[int, MessageType] = {int(code): code for code in MessageType}
_ENUMS: dict[type[Any], dict[int, IntEnum]] = {kind: {int(m): m for m in kind} for kind in (Kind, Index, Value, Codec)}
_ABSENT: Any = object()


def pack(message: Message) -> list[Part]:
    """Return the two or three parts of ``message``.

    Raises:
        UsageError: a field is outside the range that :func:`parse` takes.
    """
    if isinstance(message, Data):
        return _pack_data(message)
    if isinstance(message, Ack):
        return _frame(MessageType.ACK, message.edge, message.seq, _fill({}, _ACK_SCHEMA, message.info))
    code = _TYPE_OF[message.__class__]
    header = _fill({}, _SCHEMA[code], message)
    if isinstance(message, HelloOk) and message.ack is not None:
        _fill(header, _ACK_SCHEMA, message.ack)
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
        return Ack(edge, seq, cast(AckInfo, _take(header, _ACK_SCHEMA)))
    schema = _SCHEMA[code]
    ack = {"ack": _take(header, _ACK_SCHEMA)} if code is MessageType.HELLO_OK and "a" in header else {}
    return cast(Message, _take(header, schema, edge=edge, seq=seq, **ack))


def peek(first: Part) -> MessageType | None:
    """Return the type that preamble ``first`` names, None if it is none of this version. Nothing else is checked."""
    if len(first) != _F0.size or bytes(first[:3]) != HEARTBEAT_TOPIC[:3]:
        return None
    return _TYPES.get(first[3])


def _fits(kind: type[Any], low: float, high: float, value: Any) -> bool:
    if value.__class__ is not kind:  # so True is no int, and 1 no float
        return False
    if kind is bytes or kind is str:
        return low <= len(value) <= high
    if kind is tuple:
        return len(value) == 2 and all(item.__class__ is int and low <= item <= high for item in value)
    return bool(low <= value <= high)  # nan is in no range


def _fill(header: dict[str, Any], schema: _Schema, message: object) -> dict[str, Any]:
    """Add the keys of ``message`` to ``header``, except those at their default."""
    for (key, name, kind, low, high, default), given in zip(schema.keys, schema.read(message), strict=True):
        if given == default:
            continue
        value = kind(given) if kind is float or (kind is int and isinstance(given, IntEnum)) else given
        if not _fits(kind, low, high, value):
            raise UsageError(f"{schema.make.__name__}.{name} is {given!r}: needs {kind.__name__} in {low}..{high}")
        header[key] = value
    return header


def _take(header: Mapping[str, Any], schema: _Schema, **fields: Any) -> Any:
    """Make the dataclass of ``schema`` from the keys in ``header`` and from ``fields``, both checked."""
    for key, name, kind, low, high, default in schema.keys:
        value = header.get(key, _ABSENT)
        if value is _ABSENT and default is not None:
            fields[name] = default
            continue
        if kind in _ENUMS:
            value = _ENUMS[kind].get(value) if value.__class__ is int else None
        if not _fits(kind, low, high, value):
            raise MalformedFrame(f"{schema.make.__name__}: {key} missing, or no {kind.__name__} in {low}..{high}")
        fields[name] = _F32.unpack(_F32.pack(value))[0] if kind is float else value
    return schema.make(**fields)


def _frame(
    code: MessageType, edge: int, seq: int, header: dict[str, Any], chunk_ix: int = 0, chunk_n: int = 1, crc: int = 0
) -> list[Part]:
    body = cast(bytes, msgpack.packb(header, use_single_float=True)) if header else _EMPTY_MAP
    try:
        front = _FRONT.pack(MAGIC, MAJOR, code, 0, len(body), edge, seq, chunk_ix, chunk_n, crc)
    except struct.error as error:
        raise UsageError(f"edge {edge}, seq {seq}: {error}") from error
    return [front + crc32c(front + body).to_bytes(4, "little"), body]


def _pack_data(data: Data) -> list[Part]:
    if flaw := data.flaw():
        raise UsageError(flaw)
    header: dict[str, Any] = {} if data.head is None else _fill({}, _HEAD_SCHEMA, data.head)
    if data.ack is not None:
        _fill(header, _ACK_SCHEMA, data.ack)
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
        head = _take(header, _HEAD_SCHEMA)
        ack = _take(header, _ACK_SCHEMA) if "a" in header else None
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
