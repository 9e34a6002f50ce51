"""Whatever the bytes: a message that packs back to an equal one, or a RemoteError. All else is a bug."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, cast

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dagrad_bus.checksum import crc32c
from dagrad_bus.errors import RemoteError
from dagrad_bus.wire import pack, parse

FILE = Path(__file__).parents[1] / "vectors" / "wire-v1.json"
FRAMES = [[bytes.fromhex(part) for part in parts] for parts in json.loads(FILE.read_text())["messages"].values()]


def one_input(data: bytes) -> None:
    """Take bytes as parts: u16 length and content of each. A first byte of 1 has the checksums put right."""
    parts: list[bytes] = []
    at = 1
    while at + 2 <= len(data):
        (length,) = struct.unpack_from("<H", data, at)
        parts.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    if data[:1] == b"\1" and len(parts) > 1 and len(parts[0]) == 36:
        payload = struct.pack("<I", crc32c(parts[2]) if len(parts) > 2 else 0)
        front = parts[0][:6] + struct.pack("<H", len(parts[1]) & 0xFFFF) + parts[0][8:28] + payload
        parts[0] = front + struct.pack("<I", crc32c(front + parts[1]))
    try:
        message = parse(parts)
    except RemoteError:
        return
    assert parse(pack(message)) == message


def joined(parts: list[bytes], *, mend: bool) -> bytes:
    return bytes([mend]) + b"".join(struct.pack("<H", len(part)) + part for part in parts)


@pytest.mark.row(32, layer="L1")
@given(st.binary(max_size=300))
@example(b"")
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    one_input(data)


@pytest.mark.row(32, layer="L1")
@settings(max_examples=500)
@given(st.data(), st.sampled_from(FRAMES), st.booleans())
def test_mutated_frames_parse_or_are_refused(data: st.DataObject, frame: list[bytes], mend: bool) -> None:
    whole = bytearray(joined(frame, mend=mend))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(1, len(whole)))
        whole[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    one_input(bytes(whole))
    parts = [bytearray(part) for part in frame]  # and with the lengths of the parts kept
    for part in parts:
        for _ in range(data.draw(st.integers(0, 2))):
            part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    one_input(joined([bytes(part) for part in parts], mend=True))


SCALARS = (
    st.none() | st.booleans() | st.integers(-1, 1 << 64) | st.floats() | st.text(max_size=40) | st.binary(max_size=40)
)
THINGS = st.recursive(
    SCALARS.filter(lambda thing: not isinstance(thing, int) or -(1 << 63) <= thing < 1 << 64),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def _replaced(value: Any, path: list[int], thing: object) -> Any:
    """Return ``value`` with what lies at ``path`` inside its arrays replaced."""
    if not path or value.__class__ is not tuple or not value:
        return thing
    items: tuple[Any, ...] = value
    at = path[0] % len(items)
    return (*items[:at], _replaced(items[at], path[1:], thing), *items[at + 1 :])


@settings(max_examples=300)
@given(st.data(), st.sampled_from([frame for frame in FRAMES if frame[1] != b"\x80"]), THINGS)
def test_any_value_at_any_key_parses_or_is_refused(data: st.DataObject, frame: list[bytes], thing: object) -> None:
    header = cast("dict[str, Any]", msgpack.unpackb(frame[1], use_list=False))
    key = data.draw(st.sampled_from(sorted(header)))
    header[key] = _replaced(header[key], data.draw(st.lists(st.integers(0, 70), max_size=2)), thing)
    body = cast("bytes", msgpack.packb(header))
    if len(body) <= 4096:
        one_input(joined([frame[0], body, *frame[2:]], mend=True))
