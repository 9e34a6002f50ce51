"""Who has been heard lately: a core that judges silence. It declares nobody dead; it only says what it saw.

Any message of a peer on any socket counts as life. A peer never heard of is *expected*: starting takes time, and
silence before the first message accuses nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dagrad_bus.ids import NodeId
from dagrad_bus.settings import BeatSettings


@dataclass(frozen=True, slots=True)
class Suspected:
    """Action: nothing was heard of ``peer`` for longer than the bound."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class Recovered:
    """Action: a suspected peer was heard again."""

    peer: NodeId


class Liveness:
    """Silence of the neighbours.

    Args:
        neighbours: who sends heartbeats to this worker.
        settings: interval and bound.
        now: seconds, monotonic.
    """

    def __init__(self, neighbours: Iterable[NodeId], settings: BeatSettings, now: float) -> None:
        self._settings = settings
        self._heard: dict[NodeId, float | None] = dict.fromkeys(neighbours)
        self._suspects: set[NodeId] = set()
        self._gone: set[NodeId] = set()
        self._judged_at = now

    @property
    def alive(self) -> tuple[NodeId, ...]:
        """Neighbours heard of and not under suspicion."""
        return tuple(p for p, at in self._heard.items() if at is not None and p not in self._suspects)

    def heard(self, peer: NodeId, now: float) -> list[Recovered]:
        """Take note of any message of ``peer``; after its goodbye only a new greeting counts, not what was on its way."""
        if peer not in self._heard or peer in self._gone:
            return []
        self._heard[peer] = now
        if peer not in self._suspects:
            return []
        self._suspects.discard(peer)
        return [Recovered(peer)]

    def left(self, peer: NodeId) -> None:
        """Take note of a goodbye: until it greets again, nothing is expected of ``peer``."""
        if peer in self._heard:
            self._heard[peer] = None
            self._suspects.discard(peer)
            self._gone.add(peer)

    def returned(self, peer: NodeId) -> None:
        """Take note of a greeting: a peer that had said goodbye is expected again."""
        self._gone.discard(peer)

    def tick(self, now: float) -> list[Suspected]:
        """Judge the silence of each neighbour.

        A judge that was late itself (a stopped process, a held interpreter lock) gives everybody that time: the
        heartbeats that prove them alive wait in its own queues.
        """
        late = now - self._judged_at - self._settings.interval
        self._judged_at = now
        if late > self._settings.interval:
            self._heard = {p: None if at is None else at + late for p, at in self._heard.items()}
        silent = [
            peer
            for peer, at in self._heard.items()
            if at is not None and peer not in self._suspects and now - at > self._settings.silence
        ]
        self._suspects.update(silent)
        return [Suspected(peer) for peer in silent]

    def next_deadline(self) -> float:
        """When to judge again: once an interval."""
        return self._judged_at + self._settings.interval
