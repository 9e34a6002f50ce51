"""What the membership core answers: messages to send, and facts for the driver to act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dagrad_bus.ids import NodeId
from dagrad_bus.messages import Gossip, Ping, PingReq, PingRes, PpDigest, PpRecords
from dagrad_bus.topology.live import TopologySpec


@dataclass(frozen=True, slots=True)
class Flood:
    """Action: broadcast ``message`` to whoever listens to this worker's heartbeats."""

    message: Gossip


@dataclass(frozen=True, slots=True)
class Tell:
    """Action: send ``message`` to ``peer``, over a connection opened for it if there is none. May be lost."""

    peer: NodeId
    message: Gossip | Ping | PingReq | PingRes | PpDigest | PpRecords


@dataclass(frozen=True, slots=True)
class NeighboursChanged:
    """Action: the graph names other neighbours. The driver connects ``added`` before it closes ``removed``."""

    neighbours: tuple[NodeId, ...]
    """All of them from now on, sorted."""
    added: tuple[NodeId, ...]
    removed: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class SpecChanged:
    """Action: another spec of the graph is in force."""

    spec: TopologySpec


@dataclass(frozen=True, slots=True)
class GraphMissing:
    """Action: the newest spec names a graph document that is not at hand; the former graph stays until it is."""

    spec: TopologySpec


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """Action: what is believed of a member changed.

    ``old`` and ``new`` are two of: unknown, expected, alive, suspect, dead, left; for a member that has just become
    alive ``new`` is ``joined`` (never seen before), ``rejoined`` (after dead or left, or as a new process) or ``alive``
    (an expected one was heard, or a suspicion refuted). Apart from that, training and wedged of a member's own steps.
    """

    node: NodeId
    name: str
    old: str
    new: str
    why: str
    """For people."""


@dataclass(frozen=True, slots=True)
class Healed:
    """Action: members came back from the dead as the same processes; gathered over about a second."""

    members: tuple[NodeId, ...]
    outage: float
    """Seconds, of the one that was gone for longest."""


@dataclass(frozen=True, slots=True)
class Superseded:
    """Action: somebody knows a later process of this worker's own name; ``epoch`` is its boot epoch."""

    epoch: int


Action = Flood | Tell | NeighboursChanged | SpecChanged | GraphMissing | MemberChanged | Healed | Superseded
Actions = Sequence[Action]
