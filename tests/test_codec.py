"""Laws of value types, index codings and compression."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dagrad_bus.codec import (
    MAX_RAW,
    Codec,
    Index,
    Payload,
    Value,
    decode,
    encode,
    fits_f16,
    from_wire,
    scale_count,
    scale_group,
    to_wire,
)
from dagrad_bus.errors import LimitExceeded, MalformedFrame, RemoteError, UsageError

FILE = Path(__file__).parent / "vectors" / "wire-v1.json"
PAYLOADS: dict[str, dict[str, Any]] = json.loads(FILE.read_text())["payloads"]
FLOATS = (Value.F32, Value.F16, Value.BF16, Value.INT8)
COMPRESSED = (Codec.ZLIB, Codec.BLOSC2_LZ4, Codec.BLOSC2_ZSTD)


def weights(count: int, block: int, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((count, block)) * 0.05).astype(np.float32)


def unpack(
    payload: Payload, *, count: int, block: int, total: int, value: Value, **claims: Any
) -> tuple[NDArray[np.int64], NDArray[np.generic], NDArray[np.float32] | None]:
    claim: dict[str, Any] = {"index": payload.index, "codec": payload.codec, "raw_size": payload.raw_size} | claims
    return decode(claim.pop("data", payload.data), count=count, block=block, total=total, value=value, **claim)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-60000, 60000, width=32)),
    st.sampled_from(FLOATS),
)
def test_a_value_comes_back_within_the_precision_of_its_type(values: NDArray[np.float32], value: Value) -> None:
    back = from_wire(*to_wire(values, value), value)
    group = scale_group(values.shape[1])
    peaks = [np.abs(values[at : at + group]).max() for at in range(0, len(values), group)]
    peak = np.repeat(peaks, group)[: len(values), None]
    bound = {Value.F32: 0 * peak, Value.F16: np.abs(values) / 2048 + 2.0**-25, Value.BF16: np.abs(values) / 256}
    assert (np.abs(back - values) <= bound.get(value, peak / 254 * 1.001) + 1e-37).all()
    assert back.dtype == np.float32 and back.flags.writeable and not np.shares_memory(back, values)


@pytest.mark.parametrize(("block", "count", "scales"), [(1, 64, 1), (1, 65, 2), (8, 17, 3), (64, 3, 3), (256, 2, 2)])
def test_one_scale_of_int8_serves_64_elements_or_a_block(block: int, count: int, scales: int) -> None:
    coded, found = to_wire(np.ones((count, block), np.float32), Value.INT8)
    assert found is not None
    assert len(found) == scale_count(count, block) == scales
    with pytest.raises(UsageError, match="scales for values"):
        encode(np.arange(count), coded, found[:-1], total=count, allow=set())


@given(st.integers(0, (1 << 32) - 1))
def test_bf16_rounds_to_nearest_even_and_keeps_inf_and_nan(bits: int) -> None:
    value = np.array([[bits]], dtype=np.uint32).view(np.float32)
    rounded = int(to_wire(value, Value.BF16)[0][0, 0])
    back = np.array([rounded << 16], dtype=np.uint32).view(np.float32)[0]
    if np.isnan(value[0, 0]):
        assert np.isnan(back)
    else:
        low, rest = divmod(bits, 1 << 16)
        assert rounded == low + (rest > 0x8000 or (rest == 0x8000 and low % 2 == 1))


def test_values_outside_f16_are_refused_by_name() -> None:
    values = np.array([[65519.0, 65520.0]], dtype=np.float32)
    assert fits_f16(values[:, :1]) and not fits_f16(values) and not fits_f16(values * np.float32(np.nan))
    with pytest.raises(UsageError, match=r"65520.* send bf16"):
        to_wire(values, Value.F16)
    with pytest.raises(UsageError, match="finite"):
        to_wire(np.array([[np.inf]], dtype=np.float32), Value.INT8)


@pytest.mark.parametrize("peak", [0.0, 1e-45, 1e-38, 1.0, float(np.finfo(np.float32).max)])
def test_int8_survives_zero_tiny_and_huge_blocks(peak: float) -> None:
    back = from_wire(*to_wire(np.array([[peak, -peak, 0]], dtype=np.float32), Value.INT8), Value.INT8)
    assert back == pytest.approx(np.array([[peak, -peak, 0]]), rel=0.01, abs=1e-40)


@pytest.mark.parametrize(("value", "bits"), [(Value.F16, 0x7C00), (Value.BF16, 0x7F80), (Value.BF16, 0xFFC0)])
def test_inf_and_nan_never_pass(value: Value, bits: int) -> None:
    with pytest.raises(MalformedFrame, match="finite"):
        from_wire(np.array([[0, bits]], dtype=np.uint16), None, value)
    with pytest.raises(MalformedFrame, match="finite"):
        from_wire(np.array([[0.0, np.nan]], dtype=np.float32), None, Value.F32)
    for scale in (np.inf, np.nan, np.float32(3e38)):
        with pytest.raises(MalformedFrame, match="finite"):
            from_wire(np.full((1, 2), 127, np.int8), np.array([scale], np.float32), Value.INT8)


@given(st.data(), st.sampled_from([1, 9, 700, 300_000]), st.sampled_from(list(Value)), st.sampled_from(list(Codec)))
def test_a_selection_comes_back_as_it_was(data: st.DataObject, total: int, value: Value, codec: Codec) -> None:
    chosen = data.draw(st.sets(st.integers(0, total - 1), min_size=1, max_size=60))
    run = data.draw(st.integers(0, total - 1))
    indices = np.array(sorted(chosen | set(range(run, min(total, run + data.draw(st.integers(0, 200)))))))
    block = data.draw(st.sampled_from([1, 4, 64]))
    exact = weights(len(indices), block)
    source = (exact * 1000).astype(np.int64) if value is Value.I64 else exact
    values, scales = to_wire(source, value)
    payload = encode(indices, values, scales, total=total, allow={codec})
    back, found, found_scales = unpack(payload, count=len(indices), block=block, total=total, value=value)
    assert np.array_equal(back, indices) and np.array_equal(found, values)
    assert (scales is None and found_scales is None) or np.array_equal(found_scales, scales)  # type: ignore[arg-type]  # both
    assert len(payload.data) <= payload.raw_size
    assert from_wire(found, found_scales, value).shape == (len(indices), block)


@pytest.mark.parametrize(
    ("indices", "total", "index", "size"),
    [
        ([0, 255, 256, 1000], 10**6, Index.GAPS8, 6),
        ([100_000, 200_000], 10**6, Index.GAPS16, 8),
        (list(range(0, 800, 3)), 800, Index.BITMAP, 100),
        (list(range(500, 900)), 10**6, Index.RANGES, 12),
        (list(range(500, 513)), 10**6, Index.RANGES, 12),
        (list(range(12)), 10**6, Index.GAPS8, 12),
        (list(range(13)), 97, Index.RANGES, 12),
        (list(range(13)), 96, Index.BITMAP, 12),
        ([65_535 + 65_534], 10**6, Index.GAPS16, 4),
    ],
)
def test_the_shortest_coding_is_sent(indices: list[int], total: int, index: Index, size: int) -> None:
    payload = encode(np.array(indices), np.zeros((len(indices), 1), np.float32), total=total, allow={Codec.RAW})
    assert (payload.index, payload.raw_size - 4 * len(indices)) == (index, size)


@pytest.mark.parametrize("indices", [[], [3, 3], [4, 3], [-1, 2], [10]])
def test_indices_out_of_order_or_range_are_the_callers_fault(indices: list[int]) -> None:
    with pytest.raises(UsageError, match=r"rise strictly within \[0, 10\)"):
        encode(np.array(indices, np.int64), np.zeros((len(indices), 1), np.float32), total=10, allow={Codec.RAW})


def test_the_shapes_must_agree_and_the_size_is_bounded() -> None:
    with pytest.raises(UsageError, match="only int8 has scales"):
        encode(np.array([1]), np.zeros((1, 4), np.int8), None, total=2, allow={Codec.RAW})
    huge = np.broadcast_to(np.float32(0), (MAX_RAW // 1024, 256))
    with pytest.raises(UsageError, match="fewer blocks"):
        encode(np.arange(len(huge)), huge, total=len(huge), allow={Codec.RAW})


@pytest.mark.parametrize("codec", COMPRESSED)
def test_compression_is_used_where_it_pays_and_only_there(codec: Codec) -> None:
    values, _ = to_wire(weights(47, 64), Value.BF16)
    payload = encode(np.arange(0, 470, 10), values, total=4700, allow={codec})
    assert payload.codec is codec and len(payload.data) < 0.8 * payload.raw_size
    noise = np.random.default_rng(1).integers(0, 1 << 16, (47, 64)).astype(np.uint16)
    assert encode(np.arange(0, 470, 10), noise, total=4700, allow={codec}).codec is Codec.RAW
    zeros = encode(np.arange(100), np.zeros((100, 256), np.float32), total=100, allow={codec})
    assert zeros.raw_size <= 64 * len(zeros.data)  # or the receiver refuses it


def test_small_frames_go_by_zlib_and_large_ones_by_blosc2_zstd() -> None:
    for count, codec in ((100, Codec.ZLIB), (1000, Codec.BLOSC2_ZSTD)):
        values, _ = to_wire(weights(count, 64), Value.BF16)
        assert encode(np.arange(count), values, total=count, allow=set(Codec)).codec is codec
        assert encode(np.arange(count), values, total=count, allow={Codec.RAW, Codec.ZLIB}).codec is Codec.ZLIB


VALID = {codec: encode(np.arange(0, 90, 3), to_wire(weights(30, 16), Value.BF16)[0], total=90, allow={codec}) for codec in Codec}  # fmt: skip
SHAPE: dict[str, Any] = {"count": 30, "block": 16, "total": 90, "value": Value.BF16}


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize(
    "claims",
    [
        {"count": 29}, {"count": 31}, {"count": 0}, {"count": 91}, {"block": 15}, {"block": 0}, {"total": 87},
        {"total": 29}, {"value": Value.F32}, {"index": Index.RANGES}, {"raw_size": 971}, {"raw_size": 0},
    ],
    ids=str,
)  # fmt: skip
def test_claims_that_do_not_fit_the_bytes_are_refused(codec: Codec, claims: dict[str, Any]) -> None:
    with pytest.raises(RemoteError):
        unpack(VALID[codec], **(SHAPE | claims))


@pytest.mark.parametrize("codec", Codec)
def test_bytes_missing_or_left_over_are_refused(codec: Codec) -> None:
    data = VALID[codec].data
    for wrong in (data[:-1], data + b"\0", b"", data[:20]):
        with pytest.raises(RemoteError):
            unpack(VALID[codec], **SHAPE, data=wrong)


def test_a_bomb_is_refused_before_anything_is_allocated() -> None:
    claims: tuple[dict[str, Any], ...]
    bomb: dict[str, Any] = {"data": zlib.compress(bytes(10_000_000))}
    claims = bomb | {"count": 1, "block": 9_999_000, "raw_size": 10_000_000}, {"raw_size": MAX_RAW + 1}
    for claim in claims:
        with pytest.raises(LimitExceeded, match="64 times"):
            unpack(VALID[Codec.ZLIB], **(SHAPE | claim))
    with pytest.raises(MalformedFrame, match="inflated length"):
        unpack(VALID[Codec.ZLIB], **(SHAPE | bomb))


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 8, 12, 16, 17, 22, 24, 31])
@pytest.mark.parametrize("codec", [Codec.BLOSC2_LZ4, Codec.BLOSC2_ZSTD])
def test_a_blosc2_header_that_we_would_not_write_never_reaches_the_library(codec: Codec, offset: int) -> None:
    payload = VALID[codec]
    at = payload.raw_size - 30 * 16 * 2 + offset  # behind the index
    wrong = bytearray(payload.data)
    wrong[at] ^= 0x42
    with pytest.raises(RemoteError):
        unpack(payload, **SHAPE, data=bytes(wrong))


@pytest.mark.parametrize(
    ("index", "data"),
    [
        (Index.GAPS8, b"\x03\xff"),  # ends in "more follows"
        (Index.GAPS8, b"\x06\x03"),  # 6, 10
        (Index.GAPS16, b"\x01\0\0"),
        (Index.BITMAP, b"\x03\x04"),  # bit 10 of 10
        (Index.BITMAP, b"\x07\0"),
        (Index.RANGES, b"\1\0\0\0" + b"\x09\0\0\0\x02\0\0\0"),  # 9, 10
        (Index.RANGES, b"\2\0\0\0" + b"\x04\0\0\0\1\0\0\0" * 2),  # twice the same
        (Index.RANGES, b"\2\0\0\0" + b"\x04\0\0\0\2\0\0\0" + b"\x07\0\0\0\0\0\0\0"),  # an empty range
        (Index.RANGES, b"\2\0\0\0" + b"\x04\0\0\0\2\0\0\0"),
    ],
)
def test_indices_that_do_not_rise_within_the_layout_are_refused(index: Index, data: bytes) -> None:
    with pytest.raises(MalformedFrame):
        decode(
            data + bytes(4), count=2, block=1, total=10, index=index, value=Value.F16, codec=Codec.RAW,
            raw_size=len(data) + 4,
        )  # fmt: skip


@settings(max_examples=300)
@given(st.sampled_from(list(Codec)), st.integers(0, 5000), st.integers(1, 255), st.sampled_from(list(Index)))
def test_whatever_is_mutated_decodes_to_checked_indices_or_is_refused(
    codec: Codec, at: int, flip: int, index: Index
) -> None:
    wrong = bytearray(VALID[codec].data)
    wrong[at % len(wrong)] ^= flip
    try:
        indices, values, _ = unpack(VALID[codec], **SHAPE, data=bytes(wrong), index=index)
    except RemoteError:
        return
    assert values.shape == (30, 16) and (np.diff(indices) > 0).all() and indices[0] >= 0 and indices[-1] < 90


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_vectors_decode(name: str) -> None:
    vector = PAYLOADS[name]
    value, count, block = Value(vector["value"]), len(vector["indices"]), vector["block"]
    indices, values, scales = decode(
        bytes.fromhex(vector["data"]), count=count, block=block, total=vector["total"], index=Index(vector["index"]),
        value=value, codec=Codec(vector["codec"]), raw_size=vector["raw_size"],
    )  # fmt: skip
    flat: NDArray[np.float64] = np.arange(count * block, dtype=np.float64).reshape(count, block)
    exact = flat - 3 if value is Value.I64 else (flat % 7 - 3) / 4
    assert indices.tolist() == vector["indices"]
    assert from_wire(values, scales, value) == pytest.approx(exact, abs=0.003 if value is Value.INT8 else 0)
