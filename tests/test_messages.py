"""What a message says of itself."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from dagrad_bus.codec import Codec, Index, Value
from dagrad_bus.ids import EdgeId, Step
from dagrad_bus.messages import CHUNK, MAX_CHUNKS, MAX_FRAME, Data, DataHead, Kind, Ping

HEAD = DataHead(Kind.STATE, b"layout-8", 2, 3, Index.GAPS8, Value.BF16, Codec.ZLIB, 20, 15, Step(1000), 12.5)
DATA = Data(EdgeId(7), 1, 0, 1, HEAD, bytes(15))


def test_messages_cannot_change_after_they_are_made() -> None:
    with pytest.raises(FrozenInstanceError):
        Ping(1).nonce = 2  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(
    ("chunk", "flaw"),
    [
        (DATA, ""),
        (Data(EdgeId(7), 1, 1, 2, None, b"rest"), ""),
        (replace(DATA, seq=0), "seq 0"),
        (replace(DATA, payload=b""), "has 0 bytes"),
        (replace(DATA, head=None), "only it"),
        (replace(DATA, head=replace(HEAD, size=14)), "14 bytes in 1 chunks, the first of 15"),
        (replace(DATA, head=replace(HEAD, raw_size=15)), "ZLIB made 15 of 15 bytes"),
    ],
)
def test_a_chunk_names_its_flaw(chunk: Data, flaw: str) -> None:
    assert flaw in chunk.flaw() and bool(flaw) == bool(chunk.flaw())


def test_a_payload_of_the_largest_size_fits_the_chunks() -> None:
    assert CHUNK * MAX_CHUNKS == MAX_FRAME == 64 << 20
