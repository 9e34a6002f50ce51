"""Dense vectors over links that take bounded frames: cut, posted as links become ready, repeated, put together again.

A frame is lost where its outcome says so, or where its link comes up anew; then the very same part is sent again. A
receiver therefore may see a part twice, and knows it by the sender's step: putting a part in again changes nothing.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.attach.exchange import Exchange
from dagrad_bus.events import Arrival, View
from dagrad_bus.ids import JobId, NodeId
from dagrad_bus.wire import Kind

INDEX_BYTES = 64
"""Room for the block numbers of one range."""

Rows = NDArray[np.float32]


class DensePost:
    """One vector on its way to some peers.

    Args:
        exchange: posts the frames.
        rows: float32[nB, B], finite; nobody writes to it any more.
        kind: of the frames.
        step: by which receivers tell this vector from others.
        peers: who gets it.
    """

    def __init__(self, exchange: Exchange, rows: Rows, kind: Kind, step: int, peers: Iterable[NodeId]) -> None:
        self.step = step
        self._exchange = exchange
        self._rows = rows
        self._kind = kind
        self._size = max(1, (exchange.max_frame - INDEX_BYTES) // (4 * rows.shape[1]))
        self._parts = -(-len(rows) // self._size)
        self._unsent = {peer: list(range(self._parts)) for peer in peers}
        """The parts each peer has yet to be sent, rising."""
        self._flying: dict[tuple[JobId, NodeId], int] = {}
        self._generations: dict[NodeId, int] = {}

    @property
    def unserved(self) -> list[NodeId]:
        """Peers for whom some part was not handed to the bus."""
        return [peer for peer, parts in self._unsent.items() if parts]

    @property
    def is_accepted(self) -> bool:
        """Whether all peers have all of it."""
        return not self._flying and not self.unserved

    def drop(self, peer: NodeId) -> None:
        """Send nothing more to ``peer``."""
        self._unsent.pop(peer, None)
        self._flying = {flight: part for flight, part in self._flying.items() if flight[1] != peer}

    def heard(self, taken: View) -> None:
        """Take what became of the frames: what was refused, or went to a link that is another one now, goes again."""
        for outcome in taken.outcomes:
            part = self._flying.pop((outcome.job, outcome.peer), None)
            if part is not None and not outcome.accepted:
                insort(self._unsent[outcome.peer], part)
        for link in taken.links:
            former = self._generations.get(link.peer)
            if link.peer not in self._unsent or former == link.generation:
                continue
            self._generations[link.peer] = link.generation
            if former is not None:
                self.drop(link.peer)
                self._unsent[link.peer] = list(range(self._parts))

    def pump(self) -> None:
        """Post the next part to each peer whose link is ready; peers that need the same one share a frame."""
        wanted: dict[int, list[NodeId]] = {}
        for peer, parts in self._unsent.items():
            if parts and peer in self._exchange.ready:
                wanted.setdefault(parts[0], []).append(peer)
        for part, peers in sorted(wanted.items()):
            start, stop = part * self._size, min((part + 1) * self._size, len(self._rows))
            indices = np.arange(start, stop, dtype=np.int64)
            job = self._exchange.post(tuple(peers), indices, self._rows[start:stop], self._kind, self.step)
            if job is None:
                return  # the bus has no room: at the next look
            for peer in peers:
                del self._unsent[peer][0]
                self._flying[job, peer] = part


class DenseIntake:
    """Puts the vectors of peers together, one of each peer at a time.

    Args:
        blocks: ``nB``.
        block: elements a block.
    """

    def __init__(self, blocks: int, block: int) -> None:
        self._blocks = blocks
        self._block = block
        self._steps: dict[NodeId, int] = {}
        self._rows: dict[NodeId, Rows] = {}
        self._missing: dict[NodeId, NDArray[np.bool_]] = {}

    def put(self, arrival: Arrival) -> Rows | None:
        """Take one part; return float32[nB, B], perhaps read-only, when it makes the vector of its step whole.

        A part of another step than the last one ends what was begun: its sender has gone on, or began anew.
        """
        peer, chosen = arrival.peer, arrival.selection
        values = np.asarray(chosen.values, np.float32)
        if len(chosen.indices) == self._blocks:
            self.forget(peer)
            return values
        if self._steps.get(peer) != arrival.step:
            self._steps[peer] = arrival.step
            self._rows[peer] = np.empty((self._blocks, self._block), np.float32)
            self._missing[peer] = np.ones(self._blocks, np.bool_)
        self._rows[peer][chosen.indices] = values
        self._missing[peer][chosen.indices] = False
        if self._missing[peer].any():
            return None
        rows = self._rows[peer]
        self.forget(peer)
        return rows

    def forget(self, peer: NodeId) -> None:
        """Drop what has arrived of the vector that ``peer`` is sending."""
        for kept in (self._steps, self._rows, self._missing):
            kept.pop(peer, None)
