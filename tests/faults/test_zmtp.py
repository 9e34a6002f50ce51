"""Messages end where they end, however the bytes arrive; the peer is known by its READY."""

from __future__ import annotations

import random

from hypothesis import example, given
from hypothesis import strategies as st

from dagrad_bus.faults.zmtp import GREETING, Framing, node_of, properties

IDENTITY = b"\1" + bytes(range(16)) + b"eightbyt"


def ready(identity: bytes) -> bytes:
    body = b"\x05READY" + b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
    body += b"\x08Identity" + len(identity).to_bytes(4, "big") + identity
    return b"\x04" + bytes([len(body)]) + body


def message(*parts: bytes) -> bytes:
    raw = b""
    for at, part in enumerate(parts):
        more = at + 1 < len(parts)
        long = len(part) > 255
        raw += bytes([more | 2 * long]) + len(part).to_bytes(8 if long else 1, "big") + part
    return raw


@example(shape=[[256]], seed=355)  # a frame's head in two parts
@given(st.lists(st.lists(st.integers(0, 600), min_size=1, max_size=3), max_size=5), st.integers(0, 1 << 30))
def test_cut_anywhere_the_messages_come_out_whole(shape: list[list[int]], seed: int) -> None:
    messages = [message(*(bytes(size) for size in sizes)) for sizes in shape]
    stream = bytes(GREETING) + ready(IDENTITY) + b"".join(messages)
    chance, framing, at = random.Random(seed), Framing(), 0
    found, current, everything = [], b"", b""
    while at < len(stream):
        step = chance.randint(1, 300)
        for piece in framing.feed(stream[at : at + step]):
            everything += piece.data
            if not piece.command:
                current += piece.data
                if piece.ends:
                    found.append(current)
                    current = b""
        at += step
    assert found == messages
    assert everything == stream
    assert framing.identity == IDENTITY


def test_metadata_is_read_as_far_as_it_makes_sense() -> None:
    assert properties(b"\x01a" + (2).to_bytes(4, "big") + b"xy") == {"a": b"xy"}
    assert properties(b"\x01a" + (9).to_bytes(4, "big") + b"xy") == {}
    assert node_of(IDENTITY) == bytes(range(16))
    assert node_of(b"other") == b""
