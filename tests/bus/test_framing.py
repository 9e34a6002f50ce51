"""Selections to frames and back, and what is refused on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.framing import allowed, pack_frame, total_blocks, unpack_frame
from dagrad_bus.checksum import crc32c
from dagrad_bus.codec import Codec, Index, Value, to_wire
from dagrad_bus.errors import MalformedFrame, RemoteError
from dagrad_bus.events import Arrival, Outgoing, Selection
from dagrad_bus.ids import JobId, NodeId, Step
from dagrad_bus.link import Assembled, Packed
from dagrad_bus.wire import CHUNK, Kind

PEER = NodeId(b"p" * 16)
LAYOUT = Layout((Entry("x", (400,), "float32"),), (Entry("n", (8,), "int64"),), 4)
ALL = frozenset({Codec.ZLIB, Codec.BLOSC2_LZ4, Codec.BLOSC2_ZSTD})


def outgoing(value: Value, indices: list[int], rows: np.ndarray[Any, Any] | None = None) -> Outgoing:
    if rows is None:
        rows = np.arange(4 * len(indices)).reshape(-1, 4)
    exact = rows.astype(np.int64 if value is Value.I64 else np.float32)
    selection = Selection(np.array(indices, dtype=np.int64), *to_wire(exact, value))
    return Outgoing(JobId(1), (PEER,), Kind.STATE, value, selection, Step(7), 2.5, 0.0, refreshed=1, dirty=2)


def assembled(packed: Packed) -> Assembled:
    return Assembled(PEER, None, 1, packed.head, (packed.payload,), 12.5, len(packed.payload))


def unpack(packed: Packed, codecs: frozenset[Codec] = ALL) -> Arrival:
    return unpack_frame(assembled(packed), PEER, LAYOUT, codecs, 0.25)


@pytest.mark.parametrize("codec", ["auto", "raw", "zlib", "blosc2"])
@pytest.mark.parametrize(
    ("value", "indices"),
    [(value, [0, 3, 99]) for value in (Value.F32, Value.F16, Value.BF16, Value.INT8)] + [(Value.I64, [100, 101])],
)
def test_what_is_packed_comes_out(value: Value, indices: list[int], codec: Any) -> None:
    packed = pack_frame(outgoing(value, indices), LAYOUT, allowed(codec, [ALL]))
    arrival = unpack(packed)
    assert arrival.selection.indices.tolist() == indices
    exact = np.arange(4 * len(indices)).reshape(-1, 4)
    assert np.abs(arrival.selection.values.astype(np.float64) - exact).max() <= (0.05 if value is Value.INT8 else 0)
    assert (arrival.peer, arrival.kind, arrival.value_type, arrival.step) == (PEER, Kind.STATE, value, 7)
    assert (arrival.rate, arrival.transit, arrival.arrived_at) == (2.5, 0.25, 12.5)
    assert arrival.size == len(packed.payload)


def test_each_chunk_has_its_crc() -> None:
    layout = Layout((Entry("x", (1 << 18,), "float32"),), (), 64)
    rows = np.random.default_rng(0).normal(size=(1 << 12, 64)).astype(np.float32)
    selection = Selection(np.arange(1 << 12), rows)
    packed = pack_frame(replace(outgoing(Value.F32, [0]), selection=selection), layout, frozenset())
    cut = [packed.payload[at : at + CHUNK] for at in range(0, len(packed.payload), CHUNK)]
    assert len(cut) == packed.chunks == 5
    assert packed.crcs == tuple(map(crc32c, cut))


@pytest.mark.parametrize(
    ("name", "peers", "expected"),
    [
        ("auto", ALL, ALL),
        ("auto", frozenset({Codec.ZLIB}), {Codec.ZLIB}),
        ("raw", ALL, frozenset[Codec]()),
        ("zlib", frozenset[Codec](), frozenset[Codec]()),
        ("blosc2", frozenset({Codec.ZLIB}), frozenset[Codec]()),
    ],
)
def test_codecs_are_those_wanted_as_far_as_all_take_them(name: Any, peers: frozenset[Codec], expected: object) -> None:
    assert allowed(name, [ALL, peers]) == expected


def test_integer_blocks_stand_behind_the_floating_ones() -> None:
    assert (total_blocks(LAYOUT, Value.BF16), total_blocks(LAYOUT, Value.I64)) == (100, 102)


FLOATS = pack_frame(outgoing(Value.BF16, [0, 5]), LAYOUT, frozenset())


def test_a_codec_that_was_not_offered_is_refused_unread() -> None:
    packed = pack_frame(outgoing(Value.F32, list(range(100)), np.zeros((100, 4))), LAYOUT, ALL)
    assert packed.head.codec is not Codec.RAW
    unpack(packed)
    with pytest.raises(MalformedFrame, match="not offered"):
        unpack(replace(packed, payload=b"garbage"), frozenset())


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"layout": bytes(8)}, id="other layout"),
        pytest.param({"block": 8}, id="other block"),
        pytest.param({"kind": Kind.SWEEP}, id="a sweep that answers no request"),
        pytest.param({"request": 1}, id="a state frame that answers a request"),
        pytest.param({"count": 3}, id="another count"),
        pytest.param({"value": Value.F32}, id="another value type"),
        pytest.param({"raw_size": FLOATS.head.raw_size + 1}, id="another size"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RemoteError):
        unpack(replace(FLOATS, head=replace(FLOATS.head, **changes)))


def test_a_frame_of_a_state_transfer_keeps_its_request_and_costs_no_index() -> None:
    chosen = replace(outgoing(Value.F32, list(range(10, 90))), kind=Kind.SWEEP, request=7, last=True)
    packed = pack_frame(chosen, LAYOUT, frozenset())
    assert packed.head.index is Index.RANGES and packed.head.raw_size == 12 + 80 * 4 * 4
    arrival = unpack(packed)
    assert (arrival.kind, arrival.request, arrival.last) == (Kind.SWEEP, 7, True)
    assert np.array_equal(arrival.selection.values, chosen.selection.values)


def test_integer_values_on_floating_blocks_are_refused() -> None:
    with pytest.raises(MalformedFrame, match="integer values"):
        unpack(pack_frame(outgoing(Value.I64, [99, 100]), LAYOUT, frozenset()))


def test_floating_values_on_integer_blocks_are_refused() -> None:
    wide = Layout((Entry("x", (408,), "float32"),), (), 4)
    packed = pack_frame(outgoing(Value.F32, [100, 101]), wide, frozenset())
    with pytest.raises(MalformedFrame):
        unpack(replace(packed, head=replace(packed.head, layout=LAYOUT.digest)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    rows = np.zeros((1, 4))
    rows[0, 2] = bad
    for value in (Value.F32, Value.BF16):
        with pytest.raises(MalformedFrame, match="finite"):
            unpack(pack_frame(outgoing(value, [1], rows), LAYOUT, frozenset()))
