"""What the parts of one membership core share: settings, chance, deadlines, own health, the answer being collected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.actions import Action
from dagrad_bus.membership.agenda import Agenda
from dagrad_bus.membership.health import Health
from dagrad_bus.membership.watch import Watch
from dagrad_bus.messages import Record
from dagrad_bus.settings import BeatSettings

T = TypeVar("T")
RELAY_LIFE, MOST_RELAYS = 60.0, 4


class Context:
    """Shared by the parts of one core.

    Args:
        me: this worker's own record.
        settings: all times.
        rng: every random choice.
    """

    def __init__(self, me: Record, settings: BeatSettings, rng: np.random.Generator) -> None:
        self.me = me
        self.settings = settings
        self.rng = rng
        self.agenda = Agenda()
        self.health = Health()
        self.watches: dict[NodeId, Watch] = {}
        """The neighbours."""
        self.stand_ins: tuple[NodeId, ...] = ()
        """Those of them that stand in for others: they do not listen to this worker."""
        self.guests: frozenset[NodeId] = frozenset()
        """Those that this worker stands in for others to: it takes them as neighbours too."""
        self.relays: dict[NodeId, float] = {}
        """Members that reach somebody whom this worker does not, and until when that is taken for granted."""
        self.out: list[Action] = []
        """Actions that the present call will return."""
        self.is_leaving = False
        """Nothing is judged any more."""

    def use_relay(self, node: NodeId, now: float) -> None:
        """Take note that a member reaches somebody whom this worker does not."""
        self.relays.pop(node, None)
        while len(self.relays) >= MOST_RELAYS:
            del self.relays[next(iter(self.relays))]
        self.relays[node] = now + RELAY_LIFE

    def relays_at(self, now: float) -> list[NodeId]:
        """Return the relays, the newest first."""
        return [node for node, until in reversed(self.relays.items()) if now < until]

    def nonce(self) -> int:
        """Return a number for a PING: random, so that it meets no other part's."""
        return int(self.rng.integers(1, 1 << 63))

    def some(self, of: Sequence[T], count: int) -> list[T]:
        """Return at most ``count`` of them, drawn without repetition, in random order."""
        if len(of) <= 1:
            return list(of[:count])
        return [of[i] for i in self.rng.choice(len(of), min(count, len(of)), replace=False)]

    def spread(self, seconds: float) -> float:
        """Return a random time up to ``seconds``: workers that start together should not act together."""
        return float(self.rng.random()) * seconds
