"""Which keys the header F1 of each message has, with types, ranges and defaults; used in both directions.

What :func:`fill` lets through, :func:`take` takes. A key at its default is left out, an unknown one is ignored. The
receipt of a link (``ACK``) is the body of ACK and may ride on HELLO_OK and on chunk 0 of DATA going the other way.

Values that are more than a number or a text travel as positional arrays, and have a :class:`Form` each:

=========  ========================================================================================================
record     node, epoch, incarnation, state, accuser; and, unless all of them are empty or 0: host, inbox port, beat
           port, name, public key, sketch, step of the sketch
spec       version, author, kind, degree, seed, epoch, graph digest
ranges     pairs (first block, count), rising, apart or touching
links      peer, role, phase, and eleven numbers in the order of :class:`~dagrad_bus.messages.LinkReport`
=========  ========================================================================================================

Over 400 lines because the schema of one wire version stands in one place.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import partial
from itertools import pairwise
from operator import attrgetter
from typing import Any, NamedTuple, cast

from dagrad_bus.codec import MAX_RAW, Codec, Index, Value
from dagrad_bus.errors import MalformedFrame, UsageError
from dagrad_bus.ids import NodeId
from dagrad_bus.messages import (
    ALL_ACCEPTED,
    BUCKETS,
    MAX_FRAME,
    MAX_LINKS,
    MAX_RECORDS,
    AckInfo,
    Bye,
    DataHead,
    Error,
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
    MessageType,
    Nack,
    Ping,
    PingReq,
    PingRes,
    Pong,
    PpDigest,
    PpRecords,
    Record,
    StateRej,
    StateReq,
)
from dagrad_bus.topology.live import TopologySpec

MAX_RANGES = 16
MAX_NEIGHBOURS = 64
"""Block ranges that a STATE_REQ names at most, and neighbours that a HEARTBEAT lists."""
U8, U16, U32, U64 = 0xFF, 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF
REQUIRED: Any = object()
"""Default of a key that must be there."""

_F32 = struct.Struct("<f")
_F32_MAX = 3.4028234663852886e38
_HOST = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\])?")
_ABSENT: Any = object()


class Form(NamedTuple):
    """How a compound value travels."""

    name: str
    fits: Callable[[Any], bool]
    """Whether a value as it is given, or as it came and was read, is one that both ends take."""
    write: Callable[[Any], Any] | None = None
    """Dataclass to what msgpack packs; None: it is the same."""
    read: Callable[[Any], Any] | None = None
    """What msgpack unpacked (anything) to the dataclass; ValueError, TypeError: it is none. None: it is the same."""


class Key(NamedTuple):
    """One key of F1. ``low`` and ``high`` bound a number, the length of bytes and str, the length of a tuple."""

    key: str
    name: str
    type: type[Any] | Form
    low: float
    high: float
    default: Any = REQUIRED


class Schema(NamedTuple):
    """A dataclass, its keys, and how to read their values off an instance in one go."""

    make: type[Any]
    keys: tuple[Key, ...]
    read: Callable[[Any], tuple[Any, ...]]


def _schema(make: type[Any], *keys: Key) -> Schema:
    return Schema(make, keys, attrgetter(*(key.name for key in keys)))  # all have two keys or more: a tuple


def _read_nonce(message: LinksReq) -> tuple[Any, ...]:
    return (message.nonce,)


def _is_int(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_bytes(value: object, lengths: tuple[int, ...]) -> bool:
    return type(value) is bytes and len(value) in lengths


def _is_tuple(value: object, fits: Callable[[Any], bool]) -> bool:
    return value.__class__ is tuple and all(fits(item) for item in cast("tuple[object, ...]", value))


def is_host(text: object) -> bool:
    """Whether ``text`` is a host as it stands in an endpoint (IPv6 in brackets), up to 64 characters, or empty."""
    return type(text) is str and len(text) <= 64 and _HOST.fullmatch(text) is not None


# Records ---------------------------------------------------------------------------------------------------------

_FIELDS = attrgetter(
    "node", "epoch", "incarnation", "state", "accuser", "host", "inbox_port", "beat_port", "name", "public_key",
    "sketch", "sketch_step",
)  # fmt: skip
_FULL, _SHORT = 12, 5
_NOTHING = ("", 0, 0, "", b"", b"", 0)  # what the short form leaves out
_STATES = {int(state): state for state in MemberState}


def _record_fits(record: Record) -> bool:
    return (
        record.__class__ is Record
        and _is_bytes(record.node, (16,))
        and _is_int(record.epoch, 0 if record.state is MemberState.DEAD else 1, U64)
        and _is_int(record.incarnation, 0, U32)
        and record.state.__class__ is MemberState
        and _is_bytes(record.accuser, (0, 8))
        and is_host(record.host)
        and _is_int(record.inbox_port, 0, U16)
        and _is_int(record.beat_port, 0, U16)
        and record.name.__class__ is str
        and len(record.name) <= 32
        and _is_bytes(record.public_key, (0, 32))
        and _is_bytes(record.sketch, (0, 8))
        and _is_int(record.sketch_step, 0, U64)
    )


def write_record(record: Record) -> tuple[Any, ...]:
    """Return a record as it travels."""
    fields: tuple[Any, ...] = _FIELDS(record)
    plain = (*fields[:3], int(fields[3]), *fields[4:])
    return plain[:_SHORT] if plain[_SHORT:] == _NOTHING else plain


def _read_record(given: Any) -> Record:
    if given.__class__ is not tuple or len(given) not in (_SHORT, _FULL):
        raise ValueError(f"a record has {_SHORT} or {_FULL} fields")
    state: Any = _STATES.get(given[3]) if given[3].__class__ is int else None
    fields: tuple[Any, ...] = (*given[:3], state, *given[4:])
    return Record(*fields)


def _records_fit(records: Any) -> bool:
    return _is_tuple(records, _record_fits)


def _write_records(records: tuple[Record, ...]) -> tuple[Any, ...]:
    return tuple(write_record(record) for record in records)


def _read_records(given: Any) -> tuple[Record, ...]:
    if given.__class__ is not tuple:
        raise ValueError("records come in an array")
    return tuple(_read_record(one) for one in given)


_RECORDS = Form("records", _records_fit, _write_records, _read_records)


# The other compound values ---------------------------------------------------------------------------------------


def _spec_fits(spec: TopologySpec) -> bool:
    return (
        spec.__class__ is TopologySpec
        and _is_int(spec.version, 0, U64)
        and _is_bytes(spec.author, (16,))
        and len(spec.kind) <= 32
        and _is_int(spec.degree, 0, U8)
        and _is_int(spec.seed, 0, U64)
        and _is_int(spec.epoch, 0, U64)
        and _is_bytes(spec.graph, (0, 8))
    )


def _write_spec(spec: TopologySpec) -> tuple[Any, ...]:
    return spec.version, spec.author, spec.kind, spec.degree, spec.seed, spec.epoch, spec.graph


def _read_spec(given: Any) -> TopologySpec:
    version, author, kind, degree, seed, epoch, graph = cast("tuple[Any, ...]", given)  # or ValueError, TypeError
    if not _is_bytes(author, (16,)) or not _is_bytes(graph, (0, 8)) or kind.__class__ is not str:
        raise ValueError("author, kind or graph of a spec")
    if any(number.__class__ is not int for number in (version, degree, seed, epoch)):
        raise ValueError("a number of a spec is none")
    fields = version, NodeId(author), kind, degree, seed, epoch, graph
    return TopologySpec(*cast("tuple[Any, ...]", fields))


_SPEC = Form("spec", _spec_fits, _write_spec, _read_spec)


_COUNTS = attrgetter(
    "accepted", "lost", "in_flight", "received", "refused", "queued", "bytes_sent", "bytes_received", "rtt_us",
    "delay_ms", "heard_ms",
)  # fmt: skip
_COUNT_BOUNDS = (U64, U64, U16, U64, U64, U32, U64, U64, U32, U32, U32)


def _links_fit(links: Any) -> bool:
    return _is_tuple(links, _link_fits)


def _link_fits(link: LinkReport) -> bool:
    return (
        link.__class__ is LinkReport
        and _is_bytes(link.peer, (16,))
        and link.role.__class__ is LinkRole
        and link.phase.__class__ is LinkPhase
        and all(_is_int(number, 0, high) for number, high in zip(_COUNTS(link), _COUNT_BOUNDS, strict=True))
    )


def _write_links(links: tuple[LinkReport, ...]) -> tuple[Any, ...]:
    return tuple((link.peer, int(link.role), int(link.phase), *_COUNTS(link)) for link in links)


def _read_links(given: Any) -> tuple[LinkReport, ...]:
    if given.__class__ is not tuple:
        raise ValueError("links come in an array")
    return tuple(_read_link(one) for one in given)


def _read_link(given: Any) -> LinkReport:
    peer, role, phase, *counts = cast("tuple[Any, ...]", given)  # or ValueError, TypeError
    if role.__class__ is not int or phase.__class__ is not int or len(counts) != len(_COUNT_BOUNDS):
        raise ValueError("role or phase of a link, or its numbers")
    return LinkReport(peer, LinkRole(role), LinkPhase(phase), *counts)


_LINKS = Form("links", _links_fit, _write_links, _read_links)


def _numbers(high: int) -> Callable[[Any], bool]:
    return lambda value: _is_tuple(value, lambda item: _is_int(item, 0, high))


def _ranges_fit(ranges: Any) -> bool:
    pairs = _is_tuple(ranges, _numbers(U32)) and all(len(pair) == 2 and pair[1] for pair in ranges)
    apart = pairs and all(start + count <= after for (start, count), (after, _) in pairwise(ranges))
    return apart and (not ranges or sum(ranges[-1]) <= U32)


_RANGES = Form("ranges", _ranges_fit)
_MINOR = Form("minor", _numbers(U8))
_BUCKETS = Form("buckets", _numbers(U64))
_IDS = Form("ids", partial(_is_tuple, fits=partial(_is_bytes, lengths=(8,))))
_SKETCH = Form("sketch", partial(_is_bytes, lengths=(0, 8)))
_HOST_NAME = Form("host", is_host)


# The schema ------------------------------------------------------------------------------------------------------

_LIFE = (Key("e", "epoch", int, 0, U64), Key("i", "incarnation", int, 0, U32))
_PEER = (
    Key("n", "node", bytes, 16, 16),
    Key("j", "job", bytes, 16, 16),
    *_LIFE,
    Key("lay", "layout", bytes, 8, 8),
    Key("ho", "host", _HOST_NAME, 0, 64),
    Key("ip", "inbox_port", int, 0, U16),
    Key("bp", "beat_port", int, 0, U16),
    Key("nm", "name", str, 0, 32),
    Key("mf", "max_frame", int, 1, MAX_FRAME),
    Key("v", "minor", _MINOR, 2, 2, (0, 0)),
    Key("cap", "capabilities", int, 0, U64, 0),
    Key("pk", "public_key", bytes, 0, 32, b""),
)
ACK = _schema(
    AckInfo,
    Key("a", "resolved", int, 0, U64),
    Key("h", "history", int, 0, U64, ALL_ACCEPTED),
    Key("c", "credit", int, 0, U64),
    Key("q", "queued", int, 0, U16, 0),
    Key("l", "latency_ms", int, 0, U32, 0),
    Key("d", "held_ms", int, 0, U32, 0),
)
"""The receipt of a link."""
HEAD = _schema(
    DataHead,
    Key("k", "kind", Kind, 1, 3),
    Key("lay", "layout", bytes, 8, 8),
    Key("bs", "block", int, 1, 256),
    Key("nb", "count", int, 1, U32),
    Key("ic", "index", Index, 0, 3),
    Key("vt", "value", Value, 0, 4),
    Key("co", "codec", Codec, 0, 4),  # "c" is the credit that may ride along
    Key("r", "raw_size", int, 1, MAX_RAW),
    Key("z", "size", int, 1, MAX_FRAME),
    Key("sp", "step", int, 0, U64),
    Key("rt", "rate", float, 0, _F32_MAX),
    Key("qa", "queued_ms", int, 0, U32, 0),
    Key("rf", "refreshed", int, 0, U32, 0),
    Key("dy", "dirty", int, 0, U32, 0),
    Key("rq", "request", int, 0, U32, 0),
    Key("fl", "last", bool, 0, 1, False),
)
"""Chunk 0 of DATA."""
_BACKOFF = Key("b", "backoff_ms", int, 0, U32, 0)
_NONCE = Key("t", "nonce", int, 0, U64)
_USED = Key("sq", "used", int, 0, U64, 0)
_TARGET = Key("n", "target", bytes, 16, 16)
_REQUEST = Key("rq", "request", int, 1, U32)
_HEALTH = (Key("lg", "lag_ms", int, 0, U32, 0), Key("lh", "health", int, 0, U8, 0))
SCHEMA: dict[MessageType, Schema] = {
    MessageType.HELLO: _schema(Hello, *_PEER, Key("ln", "wanted", bool, 0, 1, False), _USED),
    MessageType.HELLO_OK: _schema(HelloOk, *_PEER, Key("mv", "chosen", int, 0, U8, 0), _BACKOFF),
    MessageType.ERROR: _schema(
        Error,
        Key("c", "code", int, 0, U16),
        Key("m", "text", str, 0, 200, ""),
        Key("ft", "fatal", bool, 0, 1, False),
        _BACKOFF,
        Key("e", "epoch", int, 0, U64, 0),
    ),
    MessageType.BYE: _schema(Bye, Key("why", "reason", int, 0, U8), _BACKOFF),
    MessageType.NACK: _schema(Nack, Key("q", "refused", int, 0, U64), Key("c", "code", int, 0, U8)),
    MessageType.PING: _schema(Ping, _NONCE, _USED),
    MessageType.PONG: _schema(Pong, _NONCE, *_LIFE, *_HEALTH),
    MessageType.PING_REQ: _schema(PingReq, _NONCE, _TARGET),
    MessageType.PING_RES: _schema(PingRes, _NONCE, _TARGET, Key("ok", "ok", bool, 0, 1)),
    MessageType.PP_DIGEST: _schema(
        PpDigest, Key("bk", "buckets", _BUCKETS, BUCKETS, BUCKETS), Key("ts", "spec", _SPEC, 0, 0)
    ),
    MessageType.PP_RECORDS: _schema(
        PpRecords,
        Key("mb", "records", _RECORDS, 0, MAX_RECORDS),
        Key("wt", "wanted", int, 0, U64, 0),
        Key("ts", "spec", _SPEC, 0, 0, None),
    ),
    MessageType.STATE_REQ: _schema(StateReq, _REQUEST, Key("rg", "ranges", _RANGES, 1, MAX_RANGES)),
    MessageType.STATE_REJ: _schema(StateRej, _REQUEST, Key("c", "code", int, 0, U8), _BACKOFF),
    MessageType.LINKS_REQ: Schema(LinksReq, (_NONCE,), _read_nonce),
    MessageType.LINKS: _schema(
        Links, _NONCE, Key("nl", "total", int, 0, U16), Key("ls", "reports", _LINKS, 0, MAX_LINKS, ())
    ),
    MessageType.HEARTBEAT: _schema(
        Heartbeat,
        Key("n", "node", bytes, 16, 16),
        *_LIFE,
        Key("s", "state", int, 0, U8),
        Key("sp", "step", int, 0, U64),
        Key("rt", "rate", float, 0, _F32_MAX),
        Key("pg", "progress_ms", int, 0, U32, 0),
        *_HEALTH,
        Key("nm", "members", int, 0, U32, 0),
        Key("nb", "neighbours", _IDS, 0, MAX_NEIGHBOURS, ()),
        Key("dg", "digest", int, 0, U64, 0),
        Key("te", "spec_version", int, 0, U64, 0),
        Key("sk", "sketch", _SKETCH, 0, 8, b""),
        Key("rb", "beacon", int, 0, U64, 0),
    ),
    MessageType.GOSSIP: _schema(
        Gossip, Key("rc", "records", _RECORDS, 0, MAX_RECORDS, ()), Key("ts", "spec", _SPEC, 0, 0, None)
    ),
}
"""F1 of all messages but DATA and ACK, which consist of :data:`HEAD` and :data:`ACK`."""
TYPE_OF: dict[object, MessageType] = {schema.make: code for code, schema in SCHEMA.items()}
_ENUMS: dict[type[Any], dict[int, IntEnum]] = {kind: {int(m): m for m in kind} for kind in (Kind, Index, Value, Codec)}


def _fits(kind: type[Any] | Form, low: float, high: float, value: Any) -> bool:
    if isinstance(kind, Form):
        return kind.fits(value) and (value.__class__ is not tuple or low <= len(value) <= high)
    if value.__class__ is not kind:  # so True is no int, and 1 no float
        return False
    if kind is bytes or kind is str:
        return low <= len(value) <= high
    return bool(low <= value <= high)  # nan is in no range


def fill(header: dict[str, Any], schema: Schema, message: object) -> dict[str, Any]:
    """Add the keys of ``message`` to ``header``, except those at their default.

    Raises:
        UsageError: a field is outside the range that :func:`take` takes.
    """
    for (key, name, kind, low, high, default), given in zip(schema.keys, schema.read(message), strict=True):
        if given == default:
            continue
        value = kind(given) if kind is float or (kind is int and isinstance(given, IntEnum)) else given
        if not _fits(kind, low, high, value):
            raise UsageError(f"{schema.make.__name__}.{name} is {given!r}: needs {_name(kind)} in {low}..{high}")
        write = kind.write if isinstance(kind, Form) else None
        header[key] = value if write is None else write(value)
    return header


def take(header: Mapping[str, Any], schema: Schema, **fields: Any) -> Any:
    """Make the dataclass of ``schema`` from the keys in ``header`` and from ``fields``, both checked.

    Raises:
        MalformedFrame: a required key is missing, or a value is not of its type or outside its range.
    """
    for key, name, kind, low, high, default in schema.keys:
        value = header.get(key, _ABSENT)
        if value is _ABSENT and default is not REQUIRED:
            fields[name] = default
            continue
        if isinstance(kind, Form):
            value = _read(kind, value)
        elif kind in _ENUMS:
            value = _ENUMS[kind].get(value) if value.__class__ is int else None
        if not _fits(kind, low, high, value):
            raise MalformedFrame(f"{schema.make.__name__}: {key} missing, or no {_name(kind)} in {low}..{high}")
        fields[name] = _F32.unpack(_F32.pack(value))[0] if kind is float else value
    return schema.make(**fields)


def _read(form: Form, value: Any) -> Any:
    try:
        return value if form.read is None else form.read(value)
    except (ValueError, TypeError):  # UsageError of a spec too
        return None


def _name(kind: type[Any] | Form) -> str:
    return kind.name if isinstance(kind, Form) else kind.__name__
