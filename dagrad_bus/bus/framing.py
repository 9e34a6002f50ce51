"""Selections to encoded frames and back; pure functions, run beside the loop where frames are large."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

import numpy as np

from dagrad_bus.blocks import Layout
from dagrad_bus.checksum import crc32c
from dagrad_bus.codec import Codec, Value, decode, encode, from_wire
from dagrad_bus.errors import LayoutMismatch, MalformedFrame, NotFinite, RemoteError
from dagrad_bus.events import Arrival, Outgoing, Selection
from dagrad_bus.ids import NodeId
from dagrad_bus.link import Assembled, Packed
from dagrad_bus.settings import Codec as CodecName
from dagrad_bus.wire import CHUNK, DataHead, Kind, NackCode

INLINE_BYTES = 1 << 16
"""Frames up to this size are coded on the loop itself: handing them to a thread would cost more."""
ALIGNMENT = 64
"""Bytes; a multiple of every value type's width."""
_ALLOWED: dict[CodecName, frozenset[Codec]] = {
    "auto": frozenset(Codec),
    "raw": frozenset(),
    "zlib": frozenset({Codec.ZLIB}),
    "blosc2": frozenset({Codec.BLOSC2_LZ4, Codec.BLOSC2_ZSTD}),
}


def allowed(name: CodecName, takers: Iterable[AbstractSet[Codec]]) -> frozenset[Codec]:
    """Return the codecs a frame may use: those the setting names, as far as all of its ``takers`` take them."""
    common = _ALLOWED[name]
    for taker in takers:
        common = common & taker
    return common


def total_blocks(layout: Layout, value: Value) -> int:
    """Return the bound of block numbers: integer blocks stand behind the floating ones."""
    return layout.blocks + layout.integer_blocks if value is Value.I64 else layout.blocks


def pack_frame(outgoing: Outgoing, layout: Layout, allow: AbstractSet[Codec]) -> Packed:
    """Encode a selection once, for all links it goes to."""
    chosen = outgoing.selection
    total = total_blocks(layout, outgoing.value_type)
    payload = encode(chosen.indices, chosen.values, chosen.scales, total=total, allow=allow)
    head = DataHead(
        kind=outgoing.kind,
        layout=layout.digest,
        block=layout.block,
        count=len(chosen.indices),
        index=payload.index,
        value=outgoing.value_type,
        codec=payload.codec,
        raw_size=payload.raw_size,
        size=len(payload.data),
        step=outgoing.step,
        rate=outgoing.rate,
        refreshed=outgoing.refreshed,
        dirty=outgoing.dirty,
        request=outgoing.request,
        last=outgoing.last,
    )
    crcs = tuple(crc32c(payload.data[at : at + CHUNK]) for at in range(0, len(payload.data), CHUNK))
    return Packed(outgoing.job, head, payload.data, crcs, outgoing.extracted_at)


def unpack_frame(frame: Assembled, peer: NodeId, layout: Layout, codecs: AbstractSet[Codec], transit: float) -> Arrival:
    """Decode a whole frame of ``peer`` and check all it claims against our own layout.

    Args:
        frame: as assembled by the link.
        peer: its sender.
        layout: ours.
        codecs: compressions we take; any other is refused before its decoder sees a byte.
        transit: seconds from extraction to the first chunk.

    Raises:
        RemoteError: anything wrong with it.
    """
    head = frame.head
    if head.codec is not Codec.RAW and head.codec not in codecs:
        raise MalformedFrame(f"codec {head.codec.name} was not offered")
    if head.layout != layout.digest or head.block != layout.block:
        raise LayoutMismatch("frame of another layout")
    if (head.kind is Kind.SWEEP) != bool(head.request):
        raise MalformedFrame(f"{head.kind.name} frame answers request {head.request}")
    total = total_blocks(layout, head.value)
    indices, values, scales = decode(
        _whole(frame),
        count=head.count,
        block=head.block,
        total=total,
        index=head.index,
        value=head.value,
        codec=head.codec,
        raw_size=head.raw_size,
    )
    if head.value is Value.I64 and indices[0] < layout.blocks:
        raise MalformedFrame("integer values on floating blocks")
    plain = from_wire(values, scales, head.value, own=len(frame.parts) > 1 and head.codec is Codec.RAW)
    return Arrival(
        peer=peer,
        kind=head.kind,
        value_type=head.value,
        selection=Selection(indices, plain),
        step=head.step,
        rate=head.rate,
        transit=transit,
        arrived_at=frame.first_chunk_at,
        size=frame.size,
        request=head.request,
        last=head.last,
    )


def _whole(frame: Assembled) -> bytes | memoryview:
    """Return the payload in one piece; several chunks are joined so that the values lie aligned, and are not copied again.

    Values come last in a payload, so the end is what is aligned.
    """
    if len(frame.parts) == 1:
        return frame.parts[0]
    room = np.empty(frame.size + ALIGNMENT, np.uint8)
    first = (-frame.size - room.ctypes.data) % ALIGNMENT
    whole = memoryview(room.data)[first : first + frame.size]
    at = 0
    for part in frame.parts:
        whole[at : at + len(part)] = part
        at += len(part)
    return whole


_NACK = {LayoutMismatch.code: NackCode.LAYOUT, NotFinite.code: NackCode.NOT_FINITE}


def nack_code(error: RemoteError) -> int:
    """Return the NACK code that tells a sender why its frame was refused."""
    return _NACK.get(error.code, NackCode.DECODE)
