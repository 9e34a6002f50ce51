"""Write wire-v1.json: bytes of every message and payload encoding, by which other implementations can be checked.

Run ``python tests/vectors/make_vectors.py`` in the project root. The tests compare the file with what the code makes
now: a difference is a change of the wire, for which there must be a reason. Compressed bytes are checked by decoding
only, since versions of zlib and blosc2 may differ in them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dagrad_bus.codec import Codec, Index, Value, encode, to_wire
from dagrad_bus.ids import EdgeId, NodeId, Step
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.wire import (
    BUCKETS,
    Ack,
    AckInfo,
    Bye,
    Data,
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
    Message,
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
    pack,
)

FILE = Path(__file__).with_name("wire-v1.json")
NODE = NodeId(bytes(range(16)))
JOB = bytes(range(16, 32))
LAYOUT = b"layout-8"
EDGE = EdgeId(0x1122334455667788)
INFO = AckInfo(resolved=70, history=(1 << 64) - 3, credit=72, queued=1, latency_ms=12, held_ms=3)
SPEC = TopologySpec(3, NODE, "static", 6, 17, 2, b"graph--8")
RECORDS = (
    Record(
        NODE, 1_700_000_000, 2, MemberState.ALIVE, b"", "10.0.0.7", 5555, 5556, "worker-3", JOB * 2, b"sketch-8", 900
    ),
    Record(NodeId(JOB), 1_700_000_001, 0, MemberState.SUSPECT, NODE[:8]),
    Record(NodeId(bytes(16)), 1, 0, MemberState.LEFT, host="[fe80::1%eth0]", inbox_port=5557),
)

LINKS = (
    LinkReport(NODE, LinkRole.NEIGHBOUR, LinkPhase.UP, 1000, 3, 2, 990, 1, 4, 1 << 40, 1 << 33, 250, 17, 8),
    LinkReport(NodeId(JOB), LinkRole.INCOMING, LinkPhase.DOWN, 0, 0, 0, 0, 0, 0, 0, 0),
)


def messages() -> dict[str, Message]:
    """Return one message of each type, and DATA in its three forms."""
    head = DataHead(
        Kind.STATE, LAYOUT, 2, 3, Index.GAPS8, Value.BF16, Codec.RAW, 15, 15, Step(1000), 12.5, 4, 1, 1, 7, True
    )
    peer = (NODE, JOB, 1_700_000_000, 2, LAYOUT, "10.0.0.7", 5555, 5556, "worker-3", 8 << 20)
    return {
        "hello": Hello(*peer, wanted=True, used=9, minor=(0, 1), capabilities=5, public_key=JOB * 2, edge=EDGE, seq=1),
        "hello_ok": HelloOk(*peer, minor=(0, 1), chosen=1, capabilities=5, ack=INFO, edge=EDGE, seq=2),
        "hello_ok_refused": HelloOk(*peer, backoff_ms=5000),
        "error": Error(6, "a newer process has this name", fatal=True, backoff_ms=60_000, epoch=17, seq=3),
        "bye": Bye(2, backoff_ms=100, edge=EDGE, seq=4),
        "data": Data(EDGE, 71, 0, 1, head, bytes(range(15))),
        "data_with_receipt": Data(EDGE, 71, 0, 1, head, bytes(range(15)), ack=INFO),
        "data_later_chunk": Data(EDGE, 72, 1, 2, None, b"the rest"),
        "ack": Ack(EDGE, 5, INFO),
        "nack": Nack(EDGE, refused=71, code=2, seq=6),
        "ping": Ping(0xDEADBEEF, used=70, edge=EDGE, seq=7),
        "pong": Pong(0xDEADBEEF, 1_700_000_000, 2, lag_ms=1, health=1, edge=EDGE, seq=8),
        "heartbeat": Heartbeat(NODE, 1_700_000_000, 2, 1, Step(1000), 12.5, 80, 2, 1, 32, seq=9),
        **_membership(),
        "state_req": StateReq(7, ((0, 5), (5, 1), (4_000_000, 300)), seq=17),
        "state_rej": StateRej(7, 1, backoff_ms=250, seq=18),
        "links_req": LinksReq(0xDEADBEEF, seq=19),
        "links": Links(0xDEADBEEF, 2, LINKS, seq=20),
    }


def _membership() -> dict[str, Message]:
    """Return the messages about members and the graph."""
    beat = Heartbeat(NODE, 17, 2, 1, Step(1000), 12.5, members=32, neighbours=(NODE[:8], JOB[:8]), beacon=40, seq=10)
    return {
        "heartbeat_with_news": replace(beat, digest=(1 << 64) - 2, spec_version=3, sketch=b"sketch-8"),
        "ping_req": PingReq(0xDEADBEEF, NodeId(JOB), seq=11),
        "ping_res": PingRes(0xDEADBEEF, NodeId(JOB), ok=True, seq=12),
        "pp_digest": PpDigest(tuple(b << b for b in range(BUCKETS - 6)) + (0,) * 6, SPEC, seq=13),
        "pp_records": PpRecords(RECORDS, wanted=1 << 63, spec=SPEC, seq=14),
        "gossip": Gossip(RECORDS, SPEC, seq=15),
        "gossip_of_records": Gossip(RECORDS[1:2], seq=16),
    }


def selections() -> dict[str, tuple[list[int], int, Value, Codec]]:
    """Return indices, total, value type and codec of payloads that use every one of them."""
    return {
        "gaps8": ([0, 255, 256, 600], 700, Value.F32, Codec.RAW),
        "gaps16": ([300, 66_000, 200_000], 1 << 24, Value.F16, Codec.RAW),
        "bitmap": ([0, 2, 3, 5, 6, 8, 9, 11], 12, Value.BF16, Codec.RAW),
        "ranges": ([*range(5, 40), *range(60, 90)], 100_000, Value.INT8, Codec.RAW),
        "integers": ([1, 2], 3, Value.I64, Codec.RAW),
        "zlib": (list(range(0, 300, 3)), 300, Value.BF16, Codec.ZLIB),
        "blosc2_lz4": (list(range(0, 300, 3)), 300, Value.BF16, Codec.BLOSC2_LZ4),
        "blosc2_zstd": (list(range(0, 300, 3)), 300, Value.F32, Codec.BLOSC2_ZSTD),
    }


def payload(name: str) -> dict[str, Any]:
    """Return the vector of one payload: element k of the flat selection has the value (k % 7 - 3) / 4, or k - 3."""
    indices, total, value, codec = selections()[name]
    count, block = len(indices), 4 if codec is Codec.RAW else 16
    flat = np.arange(count * block)
    exact = flat - 3 if value is Value.I64 else ((flat % 7 - 3) / 4).astype(np.float32)
    values, scales = to_wire(exact.reshape(count, block), value)
    made = encode(np.array(indices), values, scales, total=total, allow={codec})
    return {
        "indices": indices,
        "block": block,
        "total": total,
        "value": int(value),
        "index": int(made.index),
        "codec": int(made.codec),
        "raw_size": made.raw_size,
        "data": made.data.hex(),
    }


def vectors() -> dict[str, dict[str, Any]]:
    """Return the content of the file."""
    return {
        "messages": {name: [bytes(part).hex() for part in pack(message)] for name, message in messages().items()},
        "payloads": {name: payload(name) for name in selections()},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n")
