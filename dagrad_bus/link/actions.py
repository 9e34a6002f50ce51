"""What the two cores of a link answer: messages to send, or facts for ``bus`` to act on."""

from __future__ import annotations

from dataclasses import dataclass

from dagrad_bus.events import Outcome, Send
from dagrad_bus.ids import NodeId
from dagrad_bus.wire import DataHead

HISTORY = 64
"""Bits of receipt history in an acknowledgement."""


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Action: the link towards ``peer`` takes frames."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class Rejected:
    """Action: the peer refused the link; ``code`` as in the ERROR message, 0 for a plain 'no'."""

    peer: NodeId
    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Left:
    """Action: the peer said goodbye; its silence accuses it of nothing."""

    peer: NodeId
    epoch: int = 0
    """Boot epoch of the process that said so, where it had a link to us; else 0."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Action: a job's outcome on this link."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Stalled:
    """Action: the link made no progress for a while; a metric, not an error."""

    peer: NodeId


@dataclass(frozen=True, slots=True, eq=False)
class Assembled:
    """Action: a whole frame has arrived; decode it and answer with ``InLink.verdict``."""

    peer: NodeId
    link: object
    """The receiving side it came through: a verdict goes back there and nowhere else."""
    seq: int
    head: DataHead
    parts: tuple[bytes | memoryview, ...]
    """The payload, as cut into chunks."""
    first_chunk_at: float
    size: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """Action: something that arrived was not used; ``reason`` is the counter's name."""

    reason: str


Action = Send | LinkUp | Left | Rejected | Settled | Stalled | Assembled | Dropped
