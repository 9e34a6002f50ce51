"""The seam between the training thread and whatever carries its frames.

The training thread touches nothing else of the bus. Every method but :meth:`Port.wait` returns at once, whatever the
network does; the bus thread implements the port (``handoff.BusThread``), tests fake it, and :class:`Silent` is the port of a worker alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.events import Outgoing, View
from dagrad_bus.ids import NodeId
from dagrad_bus.messages import StateRej, StateReq
from dagrad_bus.metrics import Metrics
from dagrad_bus.topology.live import TopologySpec


class Port(Protocol):
    """What one worker's training thread asks of its bus."""

    @property
    def metrics(self) -> Metrics:
        """Numbers of the training thread: it writes, the bus reports them beside its own."""
        ...

    def snapshot(self) -> Mapping[str, Mapping[str, object]]:
        """Return counters, gauges and histograms of both threads."""
        ...

    def view(self) -> View:
        """Swap out arrivals and outcomes and read the links' state. Never blocks."""
        ...

    def wait(self, seconds: float) -> None:
        """Let time pass until something may have arrived, at most ``seconds``.

        Only rules that are synchronous by nature call it.
        """
        ...

    def publish(self, outgoing: Outgoing) -> bool:
        """Hand a frame over. Never blocks; False: no room, nothing was taken and no outcome will come."""
        ...

    def tell(self, peer: NodeId, message: StateReq | StateRej) -> bool:
        """Hand over a message of the state transfer. Never blocks; False: no room or no connection to ``peer``.

        Taken is not delivered: what gets no answer is asked again.
        """
        ...

    def set_syncing(self, syncing: bool) -> None:
        """Tell whether the replica is being copied from peers (heartbeats say so, and nobody asks us for state)."""
        ...

    def note_step(self, step: int, rate: float) -> None:
        """Tell the local step count and the steps a second (for heartbeats and ages)."""
        ...

    def note_sketch(self, step: int, sketch: bytes) -> None:
        """Tell the sketch of the own change, 8 bytes or empty, made after ``step`` (for heartbeats)."""
        ...

    def explore(self, peers: tuple[NodeId, ...]) -> None:
        """Tell with which members beyond the neighbours a link is wanted for a minute."""
        ...

    def members(self) -> Mapping[str, str]:
        """Return what is believed of each member, by name."""
        ...

    def rewire(self, spec: TopologySpec) -> bool:
        """Publish a graph. Never blocks; False: no room, nothing was taken."""
        ...

    def sample(self, step: int, values: NDArray[np.float32]) -> None:
        """Record ``values`` (float32[m], the same coordinates on every worker) as the state at ``step``."""
        ...

    def log(self, **numbers: float) -> None:
        """Record the user's own numbers: loss, accuracy, learning rate."""
        ...

    def failure(self) -> Exception | None:
        """Return what must stop the training program (a layout mismatch, a dead bus thread), else None."""
        ...

    def close(self) -> None:
        """Leave the bus within the flush time of the settings."""
        ...


class Silent:
    """The port of a worker without peers: no thread, no socket, nothing recorded."""

    def __init__(self) -> None:
        self.metrics = Metrics()

    def snapshot(self) -> Mapping[str, Mapping[str, object]]:
        """Return the training thread's numbers: there is no other thread."""
        return self.metrics.snapshot()

    def view(self) -> View:
        """Return an empty view."""
        return View(())

    def wait(self, seconds: float) -> None:
        """Return: nothing will arrive."""

    def publish(self, outgoing: Outgoing) -> bool:
        """Take nothing: nobody is there."""
        del outgoing
        return False

    def tell(self, peer: NodeId, message: StateReq | StateRej) -> bool:
        """Take nothing: nobody is there."""
        del peer, message
        return False

    def set_syncing(self, syncing: bool) -> None:
        """Do nothing."""

    def note_step(self, step: int, rate: float) -> None:
        """Do nothing."""

    def note_sketch(self, step: int, sketch: bytes) -> None:
        """Do nothing."""

    def explore(self, peers: tuple[NodeId, ...]) -> None:
        """Do nothing."""

    def members(self) -> Mapping[str, str]:
        """Return nobody."""
        return {}

    def rewire(self, spec: TopologySpec) -> bool:
        """Take nothing."""
        del spec
        return False

    def sample(self, step: int, values: NDArray[np.float32]) -> None:
        """Do nothing."""

    def log(self, **numbers: float) -> None:
        """Do nothing."""

    def failure(self) -> Exception | None:
        """Return None: nothing can fail."""
        return None

    def close(self) -> None:
        """Do nothing."""
