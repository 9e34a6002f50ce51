"""Value types, index codings and compression of one selection of blocks, with every size checked.

A payload before the codec is ``index | scales (INT8 only) | values``, in index order, little endian; the length of the
index is what the announced raw size leaves beside the other two. Two streams with different statistics, so:

* ``ZLIB``: one deflate stream over the index, the scales and the values *as byte planes*. Each part ends its deflate
  block (Z_BLOCK), so that it gets a Huffman code of its own; no match search (Z_HUFFMAN_ONLY), since weights do not
  repeat. Only exponent bytes shrink; mantissas are stored at 8 bits.
* ``BLOSC2_*``: index and scales as they are, then one chunk with the values, shuffled by blosc2 (typesize = element).

Measured with bf16 of N(0, 0.05): share of the raw bytes / microseconds of :func:`encode` / of :func:`decode`:

============================  ==================  ==================  ====================
frame (raw bytes)             47 of 64 (6066)     3010 of 1 (9277)    4000 of 64 (516 313)
============================  ==================  ==================  ====================
RAW                           1.00 /  35 /  12    1.00 /  52 /  18    1.00 /   96 /   21
ZLIB                          0.67 / 105 /  36    0.77 / 152 /  53    0.67 / 3480 / 1890
BLOSC2_LZ4 5, bit shuffle     0.77 /  60 /  22    0.85 /  74 /  29    0.76 /  320 /  190
BLOSC2_ZSTD 1, byte shuffle   0.71 /  91 /  36    0.81 / 111 /  45    0.70 / 1250 /  420
============================  ==================  ==================  ====================

Turned down: zlib 1 with matches (0.78, 0.86, 0.72; slower), zstd 3 and above (3 to 90 times the time). Hence
``_PREFERENCE``: up to 64 KiB zlib, the smallest; above zstd, 4 % more in a third of the time; only if 5 % smaller.

Over 400 lines because the sizes of index, scales and values are checked against one another, on the way out and in.

blosc2 is not safe on hostile bytes (c-blosc2 #801, #738): allow it on authenticated links only. A chunk is handed to
it only if its header is one that :func:`encode` could have written.
"""

from __future__ import annotations

import zlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.errors import LimitExceeded, MalformedFrame, NotFinite, UsageError

SCALED_ELEMENTS = 64
"""Elements that one scale of INT8 serves, at least."""
MAX_RAW = 64 << 20
"""Bytes of a payload before the codec, at most; and at most so many times the bytes that came:"""
MAX_RATIO = 64
_PAYS = 0.95
_SMALL = 65536
ONE_RANGE = 12
"""Bytes of an index that is one range; any other coding of more blocks, among enough others, is longer."""
_F16_BOUND = 65520.0  # from here on round-to-nearest gives inf
_CHUNK_BLOCK = 65536
_MAX_SCALE = np.nextafter(np.float32(np.finfo(np.float32).max / 127), np.float32(0))  # 127 of them stay finite

Buffer = bytes | bytearray | memoryview


class Value(IntEnum):
    """Type of the values on the wire."""

    F32 = 0
    F16 = 1
    BF16 = 2
    INT8 = 3
    """With one float32 scale for each :func:`scale_group` of blocks."""
    I64 = 4
    """Integer buffers; the receiver takes the maximum."""


class Index(IntEnum):
    """Coding of the block numbers; the shortest is sent."""

    GAPS8 = 0
    """Bytes: number of blocks skipped since the previous one; 255 means 255 skipped and more follows."""
    GAPS16 = 1
    """The same with u16 and 65535."""
    BITMAP = 2
    """A bit for each of the ``total`` blocks, lowest bit first; unused bits are 0."""
    RANGES = 3
    """Number of ranges, then (start, count) of each, all u32."""


class Codec(IntEnum):
    """Compression of a payload; 2 is kept free."""

    RAW = 0
    ZLIB = 1
    BLOSC2_LZ4 = 3
    BLOSC2_ZSTD = 4


_DTYPE: dict[Value, np.dtype[np.generic]] = {
    Value.F32: np.dtype("<f4"),
    Value.F16: np.dtype("<u2"),
    Value.BF16: np.dtype("<u2"),
    Value.INT8: np.dtype("i1"),
    Value.I64: np.dtype("<i8"),
}
_DECODE_OPTIONS: dict[str, Any] = {"nthreads": 1}
_GAP: dict[Index, np.dtype[np.generic]] = {Index.GAPS8: np.dtype("u1"), Index.GAPS16: np.dtype("<u2")}
_PREFERENCE = (Codec.ZLIB, Codec.BLOSC2_ZSTD, Codec.BLOSC2_LZ4), (Codec.BLOSC2_ZSTD, Codec.BLOSC2_LZ4, Codec.ZLIB)
_CHUNK_CODEC = {Codec.BLOSC2_LZ4: (1, 1, 5, 2), Codec.BLOSC2_ZSTD: (4, 5, 1, 1)}
"""Format bits, blosc2 codec id, level, filter (1 shuffle, 2 bit shuffle)."""


@dataclass(frozen=True, slots=True)
class Payload:
    """An encoded selection, ready to be cut into chunks."""

    data: bytes
    raw_size: int
    """Bytes before the codec."""
    codec: Codec
    index: Index


def fits_f16(values: NDArray[np.float32]) -> bool:
    """Say whether all ``values`` are finite and inside the range of float16 after rounding; else send bf16."""
    return bool(np.abs(values).max(initial=0) < _F16_BOUND)


def to_wire(values: NDArray[np.generic], value: Value) -> tuple[NDArray[np.generic], NDArray[np.float32] | None]:
    """Convert ``values`` to the wire type ``value``, rounding to nearest, ties to even.

    Args:
        values: float32[n, B]; int64[n, B] for ``Value.I64``.
        value: the wire type.

    Returns:
        float32, uint16 (F16, BF16), int8 or int64 [n, B], and for INT8 float32 scales, one a group of
        :func:`scale_group` consecutive blocks, else None. F32 and BF16 keep inf and nan as such; the receiver refuses
        them.

    Raises:
        UsageError: a value is outside the range of F16 (see :func:`fits_f16`), or not finite for F16 or INT8.
    """
    if value in (Value.F32, Value.I64):
        return values.astype(_DTYPE[value], copy=False), None
    exact = np.ascontiguousarray(values, dtype=np.float32)
    if value is Value.BF16:
        return _to_bf16(exact), None
    if value is Value.INT8:
        return _to_int8(exact)
    if not fits_f16(exact):
        raise UsageError(f"values up to {np.abs(exact).max()} do not fit f16 (below {_F16_BOUND}): send bf16")
    return exact.astype("<f2").view("<u2"), None


def _to_bf16(values: NDArray[np.float32]) -> NDArray[np.generic]:
    bits = values.view(np.uint32)
    rounded = ((bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16).astype("<u2")
    nan = (bits & 0x7FFFFFFF) > 0x7F800000  # the carry would turn it into inf or zero
    if nan.any():
        rounded[nan] = (bits[nan] >> 16) | 0x40
    return rounded


def scale_group(block: int) -> int:
    """Return how many consecutive blocks of a frame share one scale of INT8: those of 64 elements, at least one block.

    Small blocks would else carry more scale than value. What stands beside one another in a frame lies near in the
    model, in one layer mostly, so their magnitudes are alike: measured without loss down to single elements. That holds for
    parameters only: see :mod:`dagrad_bus.attach.plan` for buffers.
    """
    return max(1, SCALED_ELEMENTS // block)


def scale_count(count: int, block: int) -> int:
    """Return how many scales ``count`` blocks of INT8 carry."""
    return -(-count // scale_group(block))


def _to_int8(values: NDArray[np.float32]) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    if not len(values):
        return values.astype(np.int8), np.empty(0, np.float32)
    group = scale_group(values.shape[1])
    peak = np.maximum.reduceat(np.abs(values).max(axis=1), np.arange(0, len(values), group))
    if not np.isfinite(peak).all():
        raise UsageError("int8 needs finite values")
    scales = np.minimum(peak / np.float32(127), _MAX_SCALE)
    spread = _spread(scales, len(values), group)
    steps = np.zeros_like(values)
    np.divide(values, spread, out=steps, where=spread > 0)
    return np.clip(np.rint(steps), -127, 127).astype(np.int8), scales


def _spread(scales: NDArray[np.float32], count: int, group: int) -> NDArray[np.float32]:
    """Return the scale of each of ``count`` blocks, float32[count, 1]."""
    return np.repeat(scales, group)[:count, None]


def from_wire(
    values: NDArray[np.generic], scales: NDArray[np.float32] | None, value: Value, *, own: bool = False
) -> NDArray[np.float32] | NDArray[np.int64]:
    """Convert wire values back: float32[n, B], finite and freshly owned; int64[n, B] for ``Value.I64``.

    F32 is not copied where ``own`` says that the memory of ``values`` is the caller's to give away.

    Raises:
        NotFinite: a value is infinite or no number.
    """
    if value is Value.I64:
        return np.array(values, dtype=np.int64)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
        if value is Value.F32:
            exact = np.array(values, dtype=np.float32, copy=None if own else True)
        elif value is Value.F16:
            exact = values.view("<f2").astype(np.float32)
        elif value is Value.BF16:
            exact = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            known = cast("NDArray[np.float32]", scales)
            exact = values.astype(np.float32) * _spread(known, len(values), scale_group(values.shape[1]))
    if not np.isfinite(exact).all():
        raise NotFinite(f"{value.name} values are not all finite")
    return exact


def _encode_index(indices: NDArray[np.int64], total: int) -> tuple[Index, bytes]:
    count = len(indices)
    rises = count and indices[0] >= 0 and indices[-1] < total and bool((indices[1:] > indices[:-1]).all())
    if not rises:
        raise UsageError(f"block numbers must rise strictly within [0, {total}) and be one or more")
    if count > ONE_RANGE and total > 8 * ONE_RANGE and indices[-1] - indices[0] == count - 1:  # a dense vector's part
        return Index.RANGES, b"".join(int(part).to_bytes(4, "little") for part in (1, indices[0], count))
    skipped = np.empty(count, np.int64)
    skipped[0] = indices[0]
    np.subtract(indices[1:], indices[:-1], out=skipped[1:])
    skipped[1:] -= 1
    ranges = 1 + int(np.count_nonzero(skipped[1:]))
    wide = skipped[skipped >= 255]  # few, and integer division is slow
    sizes = {
        Index.GAPS8: count + int((wide // 255).sum()),
        Index.GAPS16: 2 * (count + int((wide // 65535).sum())),
        Index.BITMAP: (total + 7) // 8,
        Index.RANGES: 4 + 8 * ranges,
    }
    index = min(sizes, key=sizes.__getitem__)
    if index in _GAP:
        return index, _encode_gaps(skipped, _GAP[index], sizes[index])
    if index is Index.BITMAP:
        bits = np.zeros(total, dtype=np.uint8)
        bits[indices] = 1
        return index, np.packbits(bits, bitorder="little").tobytes()
    starts = np.flatnonzero(np.concatenate(([True], skipped[1:] > 0)))
    table = np.stack((indices[starts], np.diff(starts, append=count)), axis=1)
    return index, len(starts).to_bytes(4, "little") + table.astype("<u4").tobytes()


def _encode_gaps(skipped: NDArray[np.int64], dtype: np.dtype[np.generic], size: int) -> bytes:
    more = (1 << 8 * dtype.itemsize) - 1
    if size // dtype.itemsize == len(skipped):
        return skipped.astype(dtype).tobytes()
    coded = np.full(size // dtype.itemsize, more, dtype=dtype)
    quotient, rest = np.divmod(skipped, more)
    coded[np.arange(len(skipped)) + np.cumsum(quotient)] = rest
    return coded.tobytes()


def _decode_index(data: memoryview, index: Index, count: int, total: int) -> NDArray[np.int64]:
    if index is Index.BITMAP:
        return _decode_bitmap(data, count, total)
    if index is Index.RANGES:
        return _decode_ranges(data, count, total)
    dtype = _GAP[index]
    more = (1 << 8 * dtype.itemsize) - 1
    length, odd = divmod(len(data), dtype.itemsize)
    _require(not odd and count <= length <= count + total // more, "length of the index", len(data))
    coded = np.frombuffer(data, dtype=dtype)
    ends = np.flatnonzero(coded != more)
    _require(len(ends) == count and ends[-1] == length - 1, "number of indices", len(ends))
    indices = np.cumsum(coded, dtype=np.int64)[ends] + np.arange(count)  # rises strictly by construction
    _require(int(indices[-1]) < total, "last index", int(indices[-1]))
    return indices


def _decode_bitmap(data: memoryview, count: int, total: int) -> NDArray[np.int64]:
    _require(len(data) == (total + 7) // 8, "length of the bitmap", len(data))
    indices = np.flatnonzero(np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little"))
    _require(len(indices) == count and int(indices[-1]) < total, "bits of the bitmap", len(indices))
    return indices.astype(np.int64, copy=False)


def _decode_ranges(data: memoryview, count: int, total: int) -> NDArray[np.int64]:
    ranges, odd = divmod(len(data) - 4, 8)
    _require(not odd and 1 <= ranges <= count, "length of the ranges", len(data))
    _require(int.from_bytes(data[:4], "little") == ranges, "number of ranges", ranges)
    starts, counts = np.frombuffer(data, dtype="<u4", offset=4).astype(np.int64).reshape(ranges, 2).T
    _require(int(counts.min()) > 0 and int(counts.sum()) == count, "blocks in the ranges", int(counts.sum()))
    ends = starts + counts
    _require(bool((starts[1:] > ends[:-1]).all()) and int(ends[-1]) <= total, "order of the ranges", int(ends[-1]))
    if ranges == 1:  # a part of a dense vector: large, and often waited for
        return np.arange(int(starts[0]), int(ends[0]), dtype=np.int64)
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(count)


def encode(
    indices: NDArray[np.int64],
    values: NDArray[np.generic],
    scales: NDArray[np.float32] | None = None,
    *,
    total: int,
    allow: AbstractSet[Codec],
) -> Payload:
    """Encode one selection, compressed if a codec in ``allow`` makes it at least 5 % smaller.

    Args:
        indices: int64[n], n from 1, strictly rising in [0, ``total``).
        values: [n, B] as returned by :func:`to_wire`.
        scales: the same; float32[:func:`scale_count`] for int8, else None.
        total: number of blocks, below 2**32.
        allow: codecs that the receivers take; RAW is always allowed.

    Raises:
        UsageError: indices out of order or range, shapes that disagree, or over 64 MiB before the codec.
    """
    if len(values) != len(indices) or (scales is not None) != (values.dtype == np.int8):
        raise UsageError(f"{len(indices)} indices, values {values.shape} of {values.dtype}: only int8 has scales")
    if scales is not None and len(scales) != scale_count(len(values), values.shape[1]):
        raise UsageError(f"{len(scales)} scales for values {values.shape}")
    index, coded = _encode_index(indices, total)
    head = coded if scales is None else coded + scales.astype("<f4", copy=False).tobytes()
    raw_size = len(head) + values.nbytes
    if raw_size > MAX_RAW:
        raise UsageError(f"a payload of {raw_size} bytes is over {MAX_RAW}: send fewer blocks in a frame")
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    for codec in _PREFERENCE[raw_size > _SMALL]:
        if codec in allow:
            data = _compress(head, little, codec)
            if data is not None and len(data) <= _PAYS * raw_size and raw_size <= MAX_RATIO * len(data):
                return Payload(data, raw_size, codec, index)
            break
    return Payload(head + little.tobytes(), raw_size, Codec.RAW, index)


def _compress(head: bytes, values: NDArray[np.generic], codec: Codec) -> bytes | None:
    size = values.dtype.itemsize
    if codec is Codec.ZLIB:
        planes = np.ascontiguousarray(values.reshape(-1).view(np.uint8).reshape(-1, size).T)
        stream = zlib.compressobj(1, strategy=zlib.Z_HUFFMAN_ONLY)
        parts = [piece for part in (head, *planes) for piece in (stream.compress(part), stream.flush(zlib.Z_BLOCK))]
        return b"".join((*parts, stream.flush()))
    import blosc2  # costs about a second, and only some links use it

    _, library_codec, level, filter_ = _CHUNK_CODEC[codec]
    options: dict[str, Any] = {"codec": blosc2.Codec(library_codec), "clevel": level, "typesize": size, "nthreads": 1}
    options |= {"filters": [blosc2.Filter(filter_)], "filters_meta": [0]}
    options["blocksize"] = (
        _CHUNK_BLOCK if values.nbytes > _CHUNK_BLOCK else 0
    )  # else it depends on the machine's caches
    chunk = cast(bytes, blosc2.compress2(values.tobytes(), **options))
    # runs of one value and incompressible bytes get special headers, which the decoder refuses
    return head + chunk if _chunk_is_plain(chunk, codec, size) else None


def decode(
    data: Buffer, *, count: int, block: int, total: int, index: Index, value: Value, codec: Codec, raw_size: int
) -> tuple[NDArray[np.int64], NDArray[np.generic], NDArray[np.float32] | None]:
    """Decode a payload of a peer. Every size is checked before anything of that size is allocated.

    ``data`` has all chunks joined; ``total`` is the number of blocks of our own layout; the rest are the sender's claims.

    Returns:
        int64[count] indices, strictly rising in [0, ``total``); values [count, B] in wire form, perhaps a read-only
        view of ``data`` (:func:`from_wire` makes finite float32 of them); float32[:func:`scale_count`] scales for INT8, else
        None.

    Raises:
        LimitExceeded: ``raw_size`` over 64 MiB or 64 times ``data``.
        MalformedFrame: anything else that is wrong.
    """
    if raw_size > min(MAX_RAW, MAX_RATIO * len(data)):
        raise LimitExceeded(f"raw size {raw_size} of {len(data)} bytes: at most {MAX_RAW}, {MAX_RATIO} times as much")
    _require(1 <= count <= total and block >= 1, "number of blocks", count)
    dtype = _DTYPE[value]
    value_bytes = count * block * dtype.itemsize
    scale_bytes = 4 * scale_count(count, block) if value is Value.INT8 else 0
    index_bytes = raw_size - value_bytes - scale_bytes
    _require(index_bytes >= 1, "raw size", raw_size)
    head, body = _decompress(memoryview(data), codec, index_bytes + scale_bytes, value_bytes, dtype)
    indices = _decode_index(head[:index_bytes], index, count, total)
    scales = np.frombuffer(head[index_bytes:], dtype="<f4").astype(np.float32) if scale_bytes else None
    return indices, np.frombuffer(body, dtype=dtype).reshape(count, block), scales


def _decompress(
    data: memoryview, codec: Codec, head: int, body: int, dtype: np.dtype[np.generic]
) -> tuple[memoryview, Buffer]:
    """Return the two parts, ``head`` and ``body`` bytes long."""
    if codec is Codec.RAW:
        _require(len(data) == head + body, "length of the payload", len(data))
        return data[:head], data[head:]
    if codec is Codec.ZLIB:
        raw = memoryview(_inflate(data, head + body))
        planes = np.frombuffer(raw[head:], dtype=np.uint8).reshape(dtype.itemsize, -1)
        return raw[:head], planes.T.tobytes()
    return data[:head], _unpack_chunk(bytes(data[head:]), codec, body, dtype.itemsize)


def _inflate(data: memoryview, size: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise MalformedFrame(f"zlib: {error}") from error
    _require(len(raw) == size and stream.eof and not stream.unused_data, "inflated length", len(raw))
    return raw


def _chunk_is_plain(chunk: bytes, codec: Codec, size: int) -> bool:
    """Say whether the header is that of a plain chunk: this codec, one filter, no dictionary, nothing lazy.

    Source: c-blosc2, README_CHUNK_FORMAT.rst.
    """
    format_bits, library_codec, _, filter_ = _CHUNK_CODEC[codec]
    version, flags, typesize = (chunk[:2], *chunk[2:4]) if len(chunk) > 32 else (b"", 0, 0)
    return (
        version == b"\5\1"
        and (flags & 0b111, flags >> 5, typesize) == (0b101, format_bits, size)  # extended header, not a mere copy
        and chunk[16:22] in (bytes((filter_, 0, 0, 0, 0, 0)), bytes((0, 0, 0, 0, 0, filter_)))
        and chunk[22] == library_codec
        and not any(chunk[23:32])
    )


def _unpack_chunk(chunk: bytes, codec: Codec, size: int, typesize: int) -> bytes:
    import blosc2

    _require(_chunk_is_plain(chunk, codec, typesize), "header of the blosc2 chunk", len(chunk))
    try:
        found = nbytes, cbytes, block = blosc2.get_cbuffer_sizes(chunk)
        _require((nbytes, cbytes) == (size, len(chunk)) and 0 < block <= 1 << 20, "sizes of the chunk", found)
        values = cast(bytes, blosc2.decompress2(chunk, **_DECODE_OPTIONS))
    except (RuntimeError, ValueError) as error:
        raise MalformedFrame(f"blosc2: {error}") from error
    _require(len(values) == size, "length after blosc2", len(values))
    return values


def _require(ok: bool, what: str, found: object) -> None:
    if not ok:
        raise MalformedFrame(f"{what} does not agree with the header: {found}")
