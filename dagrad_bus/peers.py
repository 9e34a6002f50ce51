"""Which neighbours get the next frame.

The graph says who could be sent to; a choice says who is, each time. A neighbour not chosen is not owed anything: it
learns by relay and by the refresh stripe. Choices are handed their chance, so a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId


class PeerChoice(Protocol):
    """Chooses among candidates, usually the neighbours in the graph."""

    def choose(self, ready: Sequence[NodeId], fanout: int) -> tuple[NodeId, ...]:
        """Return ``min(fanout, len(ready))`` distinct candidates in their given order; all of them for fanout 0."""
        ...


class RandomChoice:
    """Every set of ``fanout`` candidates is equally likely, independently each time.

    Args:
        rng: the source of chance. It is drawn from only where there is something to choose; equal seeds and equal
            calls give equal choices.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def choose(self, ready: Sequence[NodeId], fanout: int) -> tuple[NodeId, ...]:
        """Return the chosen ones in the order given.

        Args:
            ready: distinct candidates; their order matters to the draw, so hand them in sorted.
            fanout: how many, 0 for all.

        Raises:
            UsageError: a negative fanout.
        """
        if fanout < 0:
            raise UsageError(f"fanout is {fanout}: needs 0 (all) or a count")
        if fanout == 0 or fanout >= len(ready):
            return tuple(ready)
        drawn = np.sort(self._rng.choice(len(ready), size=fanout, replace=False))
        return tuple(ready[int(i)] for i in drawn)
