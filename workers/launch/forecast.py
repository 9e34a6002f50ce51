"""What a run will send and need, computed before it runs (``dagrad plan``). Pure functions.

Bytes are what the transport is handed, headers included, as in a run's summary; :attr:`Traffic.wire_bytes` adds what TCP
and IP put around it. They are those of a run in which every link takes every frame: at full speed links without credit
skip exchanges, and less is sent. State transfers to joiners and gossip about changes of membership come on top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from dagrad_bus.blocks import choose_block, frame_budget
from dagrad_bus.bus.framing import allowed
from dagrad_bus.codec import Codec, Index, Value, encode, scale_count, to_wire
from dagrad_bus.ids import EdgeId, NodeId, Step, derive_node_id
from dagrad_bus.messages import CHUNK, Ack, AckInfo, Data, DataHead, Heartbeat
from dagrad_bus.settings import ExchangeSettings, Settings
from dagrad_bus.topology.graph import Topology, undirected
from dagrad_bus.topology.live import Adjacency, TopologySpec, adjacency
from dagrad_bus.topology.spectrum import Spectrum, spectrum
from dagrad_bus.wire import Kind, pack

VALUES = {"f32": Value.F32, "f16": Value.F16, "bf16": Value.BF16, "int8": Value.INT8}
WIDTHS = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1}
SPAN = 1 << 19
"""Single elements whose weights are summed at a time while mixing."""
SEGMENT, SEGMENT_HEADERS = 1448, 66
"""Bytes of payload in a full TCP segment of an Ethernet, and of Ethernet, IP and TCP headers around it."""
MOST_FOR_GAP = 1500
"""Workers up to which the spectral gap is computed: beyond, it takes many seconds."""
_SAMPLE = 1 << 20
"""Bytes of the sample that is compressed."""
_INDEX_ROOM = 8
_SCALE = 4
_WEIGHTS_SPREAD = 0.05
_TYPICAL = 1 << 17
"""Payload bytes of the message whose header is measured; numbers in it take as many bytes as in a usual run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame on its way to one neighbour."""

    block: int
    blocks: int
    """nB: blocks of the model."""
    count: int
    """Blocks in the frame."""
    refresh: int
    """Of them in the refresh stripe."""
    value_bytes: int
    index_bytes: float
    """Expected, for blocks at random places."""
    scale_bytes: int
    compressed: float
    """Share of the raw bytes that the codec leaves, measured with weights at random."""
    header_bytes: int
    """Of all chunks' messages."""

    @property
    def raw(self) -> float:
        """Payload bytes before the codec."""
        return self.value_bytes + self.index_bytes + self.scale_bytes

    @property
    def payload(self) -> float:
        """Payload bytes."""
        return self.raw * self.compressed

    @property
    def size(self) -> float:
        """Bytes handed to the transport."""
        return self.payload + self.header_bytes


def plan_frame(elements: int, settings: ExchangeSettings, *, codec: str = "auto", max_frame: int = 8 << 20) -> Frame:
    """Return what one frame of a model of ``elements`` values is made of."""
    block = settings.block or choose_block(elements)
    blocks = -(-elements // block)
    width = WIDTHS[settings.wire]
    total, stripe = frame_budget(settings.density, blocks, settings.refresh)
    count = max(1, min(total, max_frame // (block * width + _INDEX_ROOM)))
    raw = count * block * width
    compressed = 1.0 if codec == "raw" else measure_codec(count, block, blocks, settings.wire, codec)
    chunks = max(1, math.ceil(raw * compressed / CHUNK))
    return Frame(
        block=block,
        blocks=blocks,
        count=count,
        refresh=min(stripe, count),
        value_bytes=raw,
        index_bytes=expected_index(count, blocks),
        scale_bytes=_SCALE * scale_count(count, block) if settings.wire == "int8" else 0,
        compressed=compressed,
        header_bytes=_header(first=True) + (chunks - 1) * _header(first=False),
    )


def expected_index(count: int, blocks: int) -> float:
    """Return the expected bytes of the shortest index of ``count`` of ``blocks`` blocks at random places.

    The gaps are nearly geometric: with q the share of blocks left out, a gap of at least m has probability q**m, and
    the expected number of escapes of m blocks each in it is q**m / (1 - q**m).
    """
    left_out = 1 - count / blocks

    def escapes(most: int) -> float:
        reach: float = left_out**most
        return reach / (1 - reach)

    ranges = 1 + (count - 1) * left_out
    return min(
        count * (1 + escapes(255)),
        2 * count * (1 + escapes(65535)),
        math.ceil(blocks / 8),
        4 + 8 * ranges,
    )


def measure_codec(count: int, block: int, blocks: int, wire: str, codec: str) -> float:
    """Return the share of its bytes that compression leaves of a frame of random weights.

    A frame over 1 MiB is represented by one of 1 MiB; which codec is taken depends on the size class only.
    """
    count = max(1, min(count, _SAMPLE // (block * WIDTHS[wire])))
    rng = np.random.default_rng(0)
    total = max(count, min(blocks, 100 * count))
    indices = np.sort(rng.choice(total, count, replace=False)).astype(np.int64)
    weights = rng.normal(0, _WEIGHTS_SPREAD, (count, block)).astype(np.float32)
    values, scales = to_wire(weights, VALUES[wire])
    takes = allowed(codec, [frozenset(Codec)])  # type: ignore[arg-type]  # settings have checked the name
    payload = encode(indices, values, scales, total=total, allow=takes)
    return len(payload.data) / payload.raw_size


def _size(message: Data | Ack | Heartbeat) -> int:
    return sum(len(part) for part in pack(message))


def _header(*, first: bool) -> int:
    """Return the bytes that a chunk has beside its payload."""
    payload = bytes(_TYPICAL)
    head = DataHead(Kind.STATE, bytes(range(8)), 64, 1 << 16, Index.GAPS8, Value.BF16, Codec.ZLIB, 2 * _TYPICAL,
                    _TYPICAL, Step(1 << 16), 10.0, 1, 1 << 12, 1 << 12)  # fmt: skip
    data = Data(EdgeId(1), 1, 0, 1, head, payload) if first else Data(EdgeId(1), 1, 1, 2, None, payload)
    return _size(data) - _TYPICAL


def ack_size() -> int:
    """Return the bytes of a receipt."""
    return _size(Ack(EdgeId(1), 0, AckInfo(1 << 16, (1 << 64) - 1, 1 << 16, 1, 100, 50)))


def heartbeat_size(degree: int) -> int:
    """Return the bytes of a heartbeat."""
    near = tuple(bytes(8) for _ in range(min(degree, 64)))
    node = NodeId(bytes(16))
    return _size(
        Heartbeat(node, 1 << 60, 0, 1, Step(1 << 16), 10.0, 100, 1, 0, 1 << 8, near, (1 << 64) - 1, 1, bytes(8), 1 << 8)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one worker sends, mean over the workers."""

    frames_per_step: float
    link_bytes_per_step: float
    """To one neighbour, frames and receipts."""
    bytes_per_step: float
    """Frames, receipts and heartbeats, to all neighbours."""
    heartbeat_bytes_per_second: float
    bytes_per_second: float
    wire_bytes_per_second: float
    """The same with headers of TCP, IP and Ethernet."""
    dense_share: float
    """``bytes_per_step`` by 8 P, what synchronous dense training moves a worker and step."""


def plan_traffic(
    elements: int, frame: Frame, degree: float, rate: float, settings: ExchangeSettings, beat: float
) -> Traffic:
    """Return the traffic of a worker.

    Args:
        elements: P.
        frame: what a frame is.
        degree: mean number of neighbours.
        rate: local steps a second.
        settings: interval and fanout; rule ``local`` sends no frames.
        beat: seconds between two heartbeats.
    """
    receivers = min(settings.fanout, degree) if settings.fanout else degree
    frames = 0.0 if settings.rule == "local" else receivers / settings.interval
    each = frame.size + ack_size()  # as many frames come as go, and each is answered once
    beats = degree * heartbeat_size(round(degree)) / beat
    per_step = frames * each + beats / rate
    packets = frames * (math.ceil(frame.size / SEGMENT) * 1.5 + 1.5) * rate + 1.5 * degree / beat
    return Traffic(
        frames_per_step=frames,
        link_bytes_per_step=frames * each / degree if degree else 0.0,
        bytes_per_step=per_step,
        heartbeat_bytes_per_second=beats,
        bytes_per_second=per_step * rate,
        wire_bytes_per_second=per_step * rate + packets * SEGMENT_HEADERS,
        dense_share=per_step / (8 * elements),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The graph of the run; live ids depend on the run's own, so this is one of its kind."""

    kind: str
    workers: int
    degree: float
    """Mean."""
    links: int
    gap: float | None
    """Spectral gap; None: not computed for so many workers, or a single one."""
    rounds: int | None
    """Mixing rounds to 1e-3 of the disagreement, if each exchanged everything."""
    refresh_steps: int
    """Steps within which the refresh stripe alone brings every block to every neighbour, if no frame is lost."""


def plan_graph(names: Sequence[str], settings: Settings, frame: Frame) -> tuple[Graph, Adjacency]:
    """Return the graph, and its neighbours by id (:func:`node_of`)."""
    spec = TopologySpec(kind=settings.topology, degree=settings.degree)
    near = adjacency([node_of(name) for name in names], spec)
    degree = fmean(len(others) for others in near.values())
    speed = _spectrum(near, settings.topology)
    exchange = settings.exchange
    turns = math.ceil(frame.blocks / frame.refresh) if frame.refresh else 0
    share = min(exchange.fanout, degree) / degree if exchange.fanout and degree else 1.0
    graph = Graph(
        kind=settings.topology,
        workers=len(names),
        degree=degree,
        links=sum(len(others) for others in near.values()) // 2,
        gap=speed.gap if speed else None,
        rounds=speed.rounds if speed else None,
        refresh_steps=math.ceil(turns * exchange.interval / share),
    )
    return graph, near


def node_of(name: str) -> NodeId:
    """Return the id that a worker has in the planned graph."""
    return derive_node_id("plan", name)


def _spectrum(near: Adjacency, kind: str) -> Spectrum | None:
    if not 2 <= len(near) <= MOST_FOR_GAP:
        return None
    numbers = {node: number for number, node in enumerate(near)}
    pairs = [(numbers[a], numbers[b]) for a, others in near.items() for b in others if a < b]
    return spectrum(Topology(kind, (undirected(len(near), pairs),)))


def plan_memory(elements: int, frame: Frame, degree: int, settings: Settings, *, copied: bool) -> dict[str, int]:
    """Return the bytes that the exchange takes beside the model, its gradients and the optimizer, by what for.

    Args:
        elements: P.
        frame: what a frame is.
        degree: neighbours.
        settings: limits of mailbox and windows.
        copied: whether the replica is a float32 copy (other types than float32).
    """
    vector = 4 * frame.blocks * frame.block
    link, elementwise = settings.link, frame.block == 1
    decoded = frame.count * (4 * frame.block + 8)
    window = max(min(link.window * frame.payload, link.window_bytes), 2 * frame.payload)
    sends = settings.exchange.rule != "local"
    parts = {
        "replica": vector if copied else 0,
        "anchor": vector,
        "scores": 0 if elementwise else 4 * frame.blocks,
        "mixing": 4 * (min(frame.blocks, SPAN) if elementwise else frame.blocks) + decoded,
        "book": degree * frame.blocks,
        "mailbox, at most": min(link.mailbox_bytes + degree * decoded, degree * link.mailbox_frames * decoded),
        "windows, at most": round(degree * window),
    }
    return parts if sends else dict.fromkeys(parts, 0)


def plan_hosts(places: Mapping[str, str], near: Adjacency, traffic: Traffic) -> dict[str, float]:
    """Return bytes a second that leave each host (as many come in), by the links that cross hosts.

    Args:
        places: host label by worker name.
        near: the graph.
        traffic: of one worker.
    """
    mean = fmean(len(others) for others in near.values())
    each = traffic.wire_bytes_per_second / mean if mean else 0.0
    hosts = {node_of(name): host for name, host in places.items()}
    leaving = dict.fromkeys(places.values(), 0.0)
    for node, host in hosts.items():
        leaving[host] += each * sum(hosts[other] != host for other in near[node])
    return leaving
