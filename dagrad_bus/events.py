"""What the cores take and give, beside frames: the vocabulary between ``bus``, the cores and the training thread.

Events are past participles, commands imperatives, all of them immutable. A buffer inside one changes owner with it:
who hands it over does not touch it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.codec import Value
from dagrad_bus.ids import JobId, NodeId, Step
from dagrad_bus.wire import Kind, Message, StateRej, StateReq


@dataclass(frozen=True, slots=True)
class Connected:
    """The transport finished a handshake towards ``peer``."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class Broken:
    """The connection towards ``peer`` ended; what was on its way may or may not arrive."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; deadlines may be due."""


@dataclass(frozen=True, slots=True)
class Send:
    """Action: hand ``message`` to the DEALER towards ``peer``."""

    peer: NodeId
    message: Message


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Blocks of the flat vector with their values, as one frame carries them.

    ``indices``: int64[n], strictly rising block numbers. ``values``: float32[n, B] decoded, or the wire form
    (uint16[n, B] for f16 and bf16, int8[n, B], float32[n, B], int64[n, B]) where a frame is on its way out.
    ``scales``: float32 for int8, one for each ``codec.scale_group`` of blocks, else None.
    """

    indices: NDArray[np.int64]
    values: NDArray[np.generic]
    scales: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """Command of the training thread: send this selection, encoded once, to ``links``."""

    job: JobId
    links: tuple[NodeId, ...]
    kind: Kind
    value_type: Value
    selection: Selection
    step: Step
    rate: float
    """The sender's steps a second."""
    extracted_at: float
    """``time.monotonic()`` when the values were read."""
    refreshed: int = 0
    """How many blocks belong to the refresh stripe."""
    dirty: int = 0
    """How many blocks are repeats for a link that missed them."""
    request: int = 0
    """SWEEP: the STATE_REQ that is answered; else 0."""
    last: bool = False
    """SWEEP: nothing more of that request follows."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A frame accepted from ``peer``, decoded and checked, waiting for the next step boundary."""

    peer: NodeId
    kind: Kind
    value_type: Value
    selection: Selection
    """Values are float32[n, B] (finite), or int64[n, B] where ``value_type`` is ``Value.I64``."""
    step: Step
    """The sender's step at which the values were read."""
    rate: float
    """The sender's steps a second."""
    transit: float
    """Seconds from extraction to arrival: the sender's queue and half a round trip."""
    arrived_at: float
    """``time.monotonic()`` of the first chunk."""
    size: int = 0
    """Bytes on the wire."""
    request: int = 0
    """SWEEP: our STATE_REQ that is answered; else 0."""
    last: bool = False
    """SWEEP: nothing more of that request follows."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of ``job`` on the link to ``peer``: exactly one for each (job, link)."""

    job: JobId
    peer: NodeId
    accepted: bool


@dataclass(frozen=True, slots=True)
class LinkState:
    """The training thread's view of one outgoing link."""

    peer: NodeId
    ready: bool
    """Up, with credit, and nothing of an earlier job unsent: a frame handed over now leaves at once."""
    generation: int
    """Rises each time the link comes up anew; the book of a former generation is void."""


@dataclass(frozen=True, slots=True)
class PeerNews:
    """What a neighbour's newest heartbeat said."""

    step: Step
    rate: float
    """Its steps a second."""
    sketch: bytes = b""
    """SimHash of its accumulated change, 8 bytes, or empty."""


@dataclass(frozen=True, slots=True)
class MemberEvent:
    """A change in the member table, for callbacks."""

    peer: NodeId
    name: str
    kind: str
    """``alive``, ``suspect``, ``dead``, ``left``, ``joined``, ``rejoined``, ``wedged``, ``training``; ``healed`` after a
    partition; ``rewired``, of this worker itself, when another graph is in force."""
    why: str = ""


NO_NEWS: Mapping[NodeId, PeerNews] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class View:
    """Everything the training thread reads at a step boundary, swapped out in one go."""

    links: tuple[LinkState, ...]
    arrivals: tuple[Arrival, ...] = field(default=())
    outcomes: tuple[Outcome, ...] = field(default=())
    requests: tuple[tuple[NodeId, StateReq], ...] = ()
    """Peers that ask for our state, oldest first; each is handed over once."""
    rejections: tuple[tuple[NodeId, StateRej], ...] = ()
    """Peers that do not serve a request of ours; each is handed over once."""
    news: Mapping[NodeId, PeerNews] = field(default_factory=lambda: NO_NEWS)
    """The neighbours that were heard, whether they are linked or not."""
    others: Mapping[NodeId, PeerNews] = field(default_factory=lambda: NO_NEWS)
    """Members that are no neighbours, where they are explored; steps may be long past."""
    healed: tuple[NodeId, ...] = ()
    """Members back from the other side of a partition, handed over once: they went on training, and so did we."""
    rejoined: bool = False
    """We are back among the members after they had declared us dead; handed over once."""
    events: tuple[MemberEvent, ...] = ()
    """Changes in the member table, oldest first; each is handed over once."""
