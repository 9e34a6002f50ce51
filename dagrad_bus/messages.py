"""The messages of wire v1, as :mod:`dagrad_bus.wire` packs and parses them; it names all of this too.

``edge`` is the edge meant (0: none), ``seq`` the frame number for DATA and a counter for diagnostics otherwise.

Over 400 lines because the vocabulary of one wire version stands in one place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from dagrad_bus.codec import MAX_RATIO, Codec, Index, Value
from dagrad_bus.ids import NO_EDGE, EdgeId, NodeId, Step
from dagrad_bus.topology.live import TopologySpec

CHUNK = 262_144
"""Bytes of every chunk but the last."""
MAX_CHUNKS = 256
MAX_FRAME = CHUNK * MAX_CHUNKS
"""Bytes of a payload on the wire, at most."""
TELLS_LINKS = 1 << 4
"""Capability bit of a HELLO: the sender answers LINKS_REQ. An earlier release takes the question for malformed."""
VISITOR = 1 << 63
"""Capability bit of a HELLO: the sender looks at the run, or rewires it, and is no member."""
MAX_LINKS = 32
"""Reports of links that a message carries at most."""
NEVER_HEARD = (1 << 32) - 1
"""Milliseconds since something that never happened."""
ALL_ACCEPTED = (1 << 64) - 1
"""History of a link whose last 64 frames were all accepted."""


class MessageType(IntEnum):
    """Byte 3 of F0."""

    HELLO = 0x01
    HELLO_OK = 0x02
    ERROR = 0x03
    BYE = 0x04
    DATA = 0x10
    ACK = 0x11
    NACK = 0x12
    PING = 0x20
    PONG = 0x21
    PING_REQ = 0x22
    PING_RES = 0x23
    PP_DIGEST = 0x42
    PP_RECORDS = 0x43
    STATE_REQ = 0x50
    STATE_REJ = 0x51
    HEARTBEAT = 0x60
    GOSSIP = 0x61
    LINKS_REQ = 0x70
    LINKS = 0x71


class Kind(IntEnum):
    """What a frame carries."""

    STATE = 1
    GRADIENT = 2
    SWEEP = 3


class MemberState(IntEnum):
    """What is believed of a member; within one (epoch, incarnation) the higher one wins."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class StateRejection(IntEnum):
    """Why a STATE_REQ is not served. Receivers take unknown codes too."""

    BUSY = 1
    SYNCING = 2
    LAYOUT = 3


class LinkRole(IntEnum):
    """Why a worker keeps a link."""

    NEIGHBOUR = 0
    FORMER = 1
    """A neighbour no more: it ends when the new links are up."""
    EXPLORED = 2
    INCOMING = 3
    """The peer wants it, we send nothing."""


class LinkPhase(IntEnum):
    """State of the sending side of a link."""

    DOWN = 0
    GREETING = 1
    UP = 2
    STALLED = 3
    REFUSED = 4


class ErrorCode(IntEnum):
    """Why a peer refuses us. Receivers take unknown codes of later versions too."""

    VERSION = 1
    LAYOUT = 2
    JOB = 3
    LIMITS = 4
    INTERNAL = 5
    STALE_EPOCH = 6


class ByeReason(IntEnum):
    """Why a peer closes an edge. Receivers take unknown reasons too."""

    LEAVE = 1
    REWIRED = 2
    TRIM = 3
    SHUTDOWN = 4
    MISBEHAVIOUR = 5


class NackCode(IntEnum):
    """Why a frame was not accepted. Receivers take unknown codes too."""

    CRC = 1
    GAP = 2
    BAD_EDGE = 3
    TOO_BIG = 4
    DECODE = 5
    LAYOUT = 6
    OVERLOAD = 7
    NOT_FINITE = 8


@dataclass(frozen=True, slots=True)
class AckInfo:
    """Receipt of one link, all of it absolute: losing or repeating one is harmless."""

    resolved: int
    """Highest frame number accepted or rejected."""
    history: int
    """Bit k: frame ``resolved - k`` was accepted."""
    credit: int
    """Highest frame number the sender may use."""
    queued: int = 0
    """Frames waiting to be mixed."""
    latency_ms: int = 0
    """From acceptance to mixing."""
    held_ms: int = 0
    """How long this receipt waited for company."""


@dataclass(frozen=True, slots=True)
class DataHead:
    """What chunk 0 says of its frame."""

    kind: Kind
    layout: bytes
    """Digest of the layout, 8 bytes."""
    block: int
    """Elements a block."""
    count: int
    """Blocks in the frame."""
    index: Index
    value: Value
    codec: Codec
    raw_size: int
    """Payload bytes before the codec."""
    size: int
    """Payload bytes of all chunks."""
    step: Step
    rate: float
    """The sender's steps a second."""
    queued_ms: int = 0
    """From extraction to chunk 0."""
    refreshed: int = 0
    dirty: int = 0
    request: int = 0
    """SWEEP: the request answered."""
    last: bool = False
    """SWEEP: last frame of the request."""


@dataclass(frozen=True, slots=True)
class Hello:
    """First message on a connection, and again when a link starts on it."""

    node: NodeId
    job: bytes
    """Proof of holding the run's key, 16 bytes."""
    epoch: int
    incarnation: int
    layout: bytes
    host: str
    inbox_port: int
    beat_port: int
    name: str
    max_frame: int
    """Largest payload taken, bytes."""
    wanted: bool = False
    """A link is wanted."""
    used: int = 0
    """Highest frame number used on it so far."""
    minor: tuple[int, int] = (0, 0)
    """Lowest and highest minor version spoken."""
    capabilities: int = 0
    public_key: bytes = b""
    edge: EdgeId = NO_EDGE
    seq: int = 0

    @property
    def is_visitor(self) -> bool:
        """Whether the sender is no member and does not want to be one."""
        return bool(self.capabilities & VISITOR)


@dataclass(frozen=True, slots=True)
class HelloOk:
    """Answer to a HELLO; ``edge`` 0: no link, come back after ``backoff_ms``."""

    node: NodeId
    job: bytes
    epoch: int
    incarnation: int
    layout: bytes
    host: str
    inbox_port: int
    beat_port: int
    name: str
    max_frame: int
    minor: tuple[int, int] = (0, 0)
    chosen: int = 0
    """Minor version to speak."""
    capabilities: int = 0
    public_key: bytes = b""
    backoff_ms: int = 0
    ack: AckInfo | None = None
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Error:
    """Refusal of a peer."""

    code: int
    """One of :class:`ErrorCode`."""
    text: str = ""
    fatal: bool = False
    backoff_ms: int = 0
    epoch: int = 0
    """STALE_EPOCH: the epoch known."""
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Bye:
    """The sender closes ``edge``, or all with 0."""

    reason: int
    """One of :class:`ByeReason`."""
    backoff_ms: int = 0
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Data:
    """One chunk of a frame."""

    edge: EdgeId
    seq: int
    chunk_ix: int
    chunk_n: int
    head: DataHead | None
    """With chunk 0 and only there."""
    payload: bytes | memoryview
    ack: AckInfo | None = None
    """Receipt of the reverse link, on chunk 0 only."""
    crc: int | None = field(default=None, compare=False)
    """crc32c of the payload, where known: a broadcast computes it once."""

    def flaw(self) -> str:
        """Return what contradicts itself, or nothing."""
        size, head = len(self.payload), self.head
        if not self.edge or not self.seq or not 0 <= self.chunk_ix < self.chunk_n <= MAX_CHUNKS:
            return f"edge {self.edge}, seq {self.seq}, chunk {self.chunk_ix} of {self.chunk_n}"
        if not 1 <= size <= CHUNK or (self.chunk_ix < self.chunk_n - 1 and size != CHUNK):
            return f"chunk {self.chunk_ix} of {self.chunk_n} has {size} bytes"
        if (head is None) != bool(self.chunk_ix) or (self.ack is not None and self.chunk_ix):
            return f"chunk {self.chunk_ix}: chunk 0, and only it, describes the frame"
        if head is None:
            return ""
        if self.chunk_n != -(-head.size // CHUNK) or (self.chunk_n == 1 and size != head.size):
            return f"{head.size} bytes in {self.chunk_n} chunks, the first of {size}"
        if head.raw_size > MAX_RATIO * head.size or (
            head.raw_size != head.size if head.codec is Codec.RAW else head.raw_size <= head.size
        ):
            return f"{head.codec.name} made {head.size} of {head.raw_size} bytes"
        return ""


@dataclass(frozen=True, slots=True)
class Ack:
    """Receipt of the link on ``edge``."""

    edge: EdgeId
    seq: int
    info: AckInfo


@dataclass(frozen=True, slots=True)
class Nack:
    """Frame ``refused`` was not accepted; the fast path, the next receipt says the same."""

    edge: EdgeId
    refused: int
    code: int
    """One of :class:`NackCode`."""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a PONG and, on an edge, for a receipt: no frame up to ``used`` can still arrive."""

    nonce: int
    used: int = 0
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Pong:
    """Answer to a PING."""

    nonce: int
    epoch: int
    incarnation: int
    lag_ms: int = 0
    health: int = 0
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class PingReq:
    """Asks a member to ping ``target``, which the asker does not hear."""

    nonce: int
    target: NodeId
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class PingRes:
    """Answer to a PING_REQ: whether ``target`` answered in time."""

    nonce: int
    target: NodeId
    ok: bool
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the member table. Ordered by (epoch, incarnation, state): a restart always wins.

    Epoch 0 means *expected*: named by the roster and never heard of; such a record stays at home.
    """

    node: NodeId
    epoch: int
    """Boot epoch: one per process start."""
    incarnation: int
    """Raised by the member itself alone: to refute, or when its record changes."""
    state: MemberState
    accuser: bytes = b""
    """SUSPECT, DEAD: the first 8 bytes of the id of who says so; else empty."""
    host: str = ""
    inbox_port: int = 0
    beat_port: int = 0
    name: str = ""
    public_key: bytes = b""
    sketch: bytes = b""
    """SimHash of the accumulated change, 8 bytes, or empty; outside the order and the digest."""
    sketch_step: int = 0
    """The member's step it was made at; the highest wins."""

    @property
    def order(self) -> tuple[int, int, int]:
        """What decides between two records of one member."""
        return self.epoch, self.incarnation, self.state

    @property
    def inbox(self) -> str:
        """Endpoint of its ROUTER; empty while unknown."""
        return f"tcp://{self.host}:{self.inbox_port}" if self.inbox_port else ""

    @property
    def beat(self) -> str:
        """Endpoint of its PUB; empty while unknown."""
        return f"tcp://{self.host}:{self.beat_port}" if self.beat_port else ""


MAX_RECORDS = 24
"""Records a message carries at most; fewer where F1 would exceed its limit."""
BUCKETS = 64
"""Parts of the member table that are compared and repaired separately."""


@dataclass(frozen=True, slots=True)
class Gossip:
    """News about members, flooded; or the graph's spec; also told directly to whom it concerns."""

    records: tuple[Record, ...] = ()
    spec: TopologySpec | None = None
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class PpDigest:
    """First half of a push-pull: what the sender's table looks like, bucket by bucket."""

    buckets: tuple[int, ...]
    """:data:`BUCKETS` times u64."""
    spec: TopologySpec
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class PpRecords:
    """Records of the buckets that differ; ``wanted`` asks for those of the other side."""

    records: tuple[Record, ...]
    wanted: int = 0
    """Bit b: send bucket b back. 0 ends the exchange."""
    spec: TopologySpec | None = None
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class StateReq:
    """Asks for the values of block ranges, to be sent as SWEEP frames over the sender's link to us."""

    request: int
    """u32, from 1; the frames that answer carry it."""
    ranges: tuple[tuple[int, int], ...]
    """1 to 16 pairs (first block, count), distinct and rising."""
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class StateRej:
    """A STATE_REQ that is not served."""

    request: int
    code: int
    """One of :class:`StateRejection`."""
    backoff_ms: int = 0
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class LinksReq:
    """Asks a worker what its links carry; only one whose greeting had :data:`TELLS_LINKS` is asked."""

    nonce: int
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class LinkReport:
    """One link in both directions, as one end sees it. Counts are of this contact, and of these two processes."""

    peer: NodeId
    role: LinkRole
    phase: LinkPhase
    accepted: int
    """Frames sent that the peer took."""
    lost: int
    """Frames sent that it did not take, for whatever reason."""
    in_flight: int
    """Frames sent and not settled yet."""
    received: int
    """Frames of the peer that were decoded and taken."""
    refused: int
    """Frames of the peer that arrived whole and were not taken."""
    queued: int
    """Frames of the peer that wait to be mixed."""
    bytes_sent: int
    """Payload."""
    bytes_received: int
    rtt_us: int = 0
    """Smoothed round trip; 0: none measured, or shorter than the loop's clock can tell."""
    delay_ms: int = 0
    """From reading the values at the peer to taking the frame here, smoothed."""
    heard_ms: int = NEVER_HEARD
    """Since the last message of the peer on its connection; :data:`NEVER_HEARD`: there was none."""


@dataclass(frozen=True, slots=True)
class Links:
    """Answer to a LINKS_REQ, in as many messages as ``total`` reports need."""

    nonce: int
    total: int
    """Links in all of these messages."""
    reports: tuple[LinkReport, ...] = ()
    edge: EdgeId = NO_EDGE
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Broadcast of a worker about itself, once a second."""

    node: NodeId
    epoch: int
    incarnation: int
    state: int
    """1 training, 2 wedged, 4 leaving, 8 syncing."""
    step: Step
    rate: float
    progress_ms: int = 0
    """Since the last step."""
    lag_ms: int = 0
    """Of the event loop."""
    health: int = 0
    """0 well .. 7."""
    members: int = 0
    """How many the sender believes there: alive, suspected or expected."""
    neighbours: tuple[bytes, ...] = ()
    """First 8 bytes of the ids of its neighbours, at most 64 of them."""
    digest: int = 0
    """u64 over member table and spec; equal tables have equal digests."""
    spec_version: int = 0
    sketch: bytes = b""
    """SimHash of the accumulated change, 8 bytes, or empty."""
    beacon: int = 0
    """Count of the connectivity beacon; the highest heard of the smallest member alive."""
    edge: EdgeId = NO_EDGE
    seq: int = 0


Message = (
    Hello | HelloOk | Error | Bye | Data | Ack | Nack | Ping | Pong | PingReq | PingRes
    | Heartbeat | Gossip | PpDigest | PpRecords | StateReq | StateRej | LinksReq | Links
)  # fmt: skip
