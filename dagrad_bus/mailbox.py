"""Frames waiting for the training thread: one writer (the loop), one reader, no lock.

The loop alone appends and counts what it put; the reader alone pops and counts what it took. Room is the difference,
so neither waits for the other. The deque's own ``append`` and ``popleft`` are atomic.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.events import Arrival, Selection
from dagrad_bus.ids import NodeId
from dagrad_bus.settings import LinkSettings
from dagrad_bus.wire import Kind


class Mailbox:
    """Bounded by credit: a link without room gets no more of it, so nothing here is ever dropped."""

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._waiting: deque[Arrival] = deque()
        self._put: Counter[NodeId] = Counter()
        self._taken: Counter[NodeId] = Counter()
        self._bytes_put = 0
        self._bytes_taken = 0

    def put(self, arrival: Arrival) -> None:
        """Add a frame (the loop's side)."""
        self._put[arrival.peer] += 1
        self._bytes_put += arrival.selection.values.nbytes
        self._waiting.append(arrival)

    def take(self) -> tuple[Arrival, ...]:
        """Take all frames that wait, oldest first (the reader's side)."""
        taken: list[Arrival] = []
        while self._waiting:
            arrival = self._waiting.popleft()
            self._taken[arrival.peer] += 1
            self._bytes_taken += arrival.selection.values.nbytes
            taken.append(arrival)
        return tuple(taken)

    def take_one(self) -> Arrival | None:
        """Take the oldest frame, or None (the reader's side)."""
        if not self._waiting:
            return None
        arrival = self._waiting.popleft()
        self._taken[arrival.peer] += 1
        self._bytes_taken += arrival.selection.values.nbytes
        return arrival

    def waiting(self, peer: NodeId) -> int:
        """Frames of ``peer`` that wait."""
        return self._put[peer] - self._taken[peer]

    def has_room(self, peer: NodeId) -> bool:
        """Whether ``peer`` may send more."""
        held = self._bytes_put - self._bytes_taken
        return self.waiting(peer) < self._settings.mailbox_frames and held < self._settings.mailbox_bytes


def coalesce(arrivals: Sequence[Arrival]) -> tuple[tuple[Arrival, ...], int]:
    """Let newer frames of a link take the blocks they share with its older ones.

    Args:
        arrivals: oldest first. Frames of another kind than *state* are passed through as they are: increments add
            up, and a state transfer has its own account of blocks.

    Returns:
        What is left, in the same order, and how many blocks were superseded. Frames of different links never touch.
    """
    if len({a.peer for a in arrivals if a.kind is Kind.STATE}) == sum(a.kind is Kind.STATE for a in arrivals):
        return tuple(arrivals), 0
    kept: list[Arrival] = []
    newer: dict[NodeId, NDArray[np.int64]] = {}
    superseded = 0
    for arrival in reversed(arrivals):
        if arrival.kind is not Kind.STATE:
            kept.append(arrival)
            continue
        chosen, peer = arrival.selection, arrival.peer
        known = newer.get(peer)
        if known is None:
            newer[peer] = chosen.indices
            kept.append(arrival)
            continue
        fresh = ~_contains(known, chosen.indices)
        superseded += len(fresh) - int(np.count_nonzero(fresh))
        indices = chosen.indices[fresh]
        merged = np.concatenate([known, indices])
        merged.sort(kind="stable")  # two rising runs: merged in one pass
        newer[peer] = merged
        if len(indices):
            kept.append(replace(arrival, selection=Selection(indices, chosen.values[fresh])))
    return tuple(reversed(kept)), superseded


def _contains(known: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each of ``wanted`` whether it stands in ``known``; both rise, so a search is cheaper than a set."""
    where = np.searchsorted(known, wanted)
    return np.equal(known[np.minimum(where, len(known) - 1)], wanted, dtype=np.bool_)
