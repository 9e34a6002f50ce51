"""Which neighbours get the next frame, and which members beyond them are worth a link.

The graph says who could be sent to; a choice says who is, each time. A neighbour not chosen is not owed anything: it
learns by relay and by the refresh stripe. Choices are handed their chance, so a run can be repeated.

A choice decides who *gets* a frame, never how much weight a received one has: a peer that is preferred wrongly costs
bytes and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.affinity import Affinity
from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId
from dagrad_bus.settings import ChoiceName

TEMPERATURE = 0.5
"""Gains in [0, 1] are divided by it: nobody is preferred by more than exp(1 / TEMPERATURE), a factor of 7.4."""
EXPLORE_PERIOD = 60.0
"""Seconds after which explored members are chosen anew."""
EXPLORATION = 0.1
"""Share of choices made at random whatever the scores say, so that scores stay up to date."""

Scores = Callable[[Sequence[NodeId]], NDArray[np.float64]]
"""Takes candidates, returns float64[n] in [0, 1]."""


class PeerChoice(Protocol):
    """Chooses among candidates, usually the neighbours in the graph."""

    def choose(self, ready: Sequence[NodeId], fanout: int) -> tuple[NodeId, ...]:
        """Return ``min(fanout, len(ready))`` distinct candidates in their given order; all of them for fanout 0."""
        ...


def make_choice(name: ChoiceName, affinity: Affinity, rng: np.random.Generator) -> PeerChoice:
    """Return the choice called ``name``; ``affinity`` is what it goes by, unless it is random."""
    if name == "complementary":
        return ScoredChoice(affinity.gains, rng)
    if name == "similar":
        return ScoredChoice(affinity.likeness, rng)
    return RandomChoice(rng)


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
        if _all(ready, fanout):
            return tuple(ready)
        drawn = np.sort(self._rng.choice(len(ready), size=fanout, replace=False))
        return tuple(ready[int(i)] for i in drawn)


class ScoredChoice:
    """Draws without replacement, each candidate with a weight of exp(score / temperature).

    With equal scores every set is equally likely. A candidate that nobody is scored below is drawn at most as often
    as by :class:`RandomChoice`: the chance to be among the chosen rises with the weight, and the chances sum to fanout.

    Args:
        scores: of the candidates of one call.
        rng: the source of chance, as of :class:`RandomChoice`.
        temperature: over 0; the smaller, the more the scores count.
        exploration: share of choices at random, [0, 1].
    """

    def __init__(
        self,
        scores: Scores,
        rng: np.random.Generator,
        temperature: float = TEMPERATURE,
        exploration: float = EXPLORATION,
    ) -> None:
        self._scores = scores
        self._rng = rng
        self._temperature = temperature
        self._exploration = exploration
        self._random = RandomChoice(rng)

    def choose(self, ready: Sequence[NodeId], fanout: int) -> tuple[NodeId, ...]:
        """Return the chosen ones in the order given.

        Args:
            ready: distinct candidates, sorted.
            fanout: how many, 0 for all.

        Raises:
            UsageError: a negative fanout.
        """
        if _all(ready, fanout):
            return tuple(ready)
        if self._rng.random() < self._exploration:
            return self._random.choose(ready, fanout)
        # The largest sums of log weight and Gumbel noise are a draw without replacement by weight.
        keys = self._scores(ready) / self._temperature + self._rng.gumbel(size=len(ready))
        drawn = np.sort(np.argpartition(-keys, fanout - 1)[:fanout])
        return tuple(ready[int(i)] for i in drawn)


def _all(ready: Sequence[NodeId], fanout: int) -> bool:
    """Whether there is nothing to choose.

    Raises:
        UsageError: a negative fanout.
    """
    if fanout < 0:
        raise UsageError(f"fanout is {fanout}: needs 0 (all) or a count")
    return fanout == 0 or fanout >= len(ready)


class Explorer:
    """Which members beyond the neighbours to hold a link with: a few at a time, chosen anew every so often.

    Args:
        choice: chooses them.
        count: how many, from 0.
        period: seconds a chosen set stays: a link costs a handshake.
    """

    def __init__(self, choice: PeerChoice, count: int, period: float = EXPLORE_PERIOD) -> None:
        self._choice = choice
        self._count = count
        self._period = period
        self._until = -math.inf
        self.wanted: tuple[NodeId, ...] = ()
        """The present set."""

    def renew(self, strangers: Sequence[NodeId], now: float) -> bool:
        """Choose anew where the period is over, or members have gone, or there are more to fill the set; say whether.

        Args:
            strangers: members that are no neighbours, sorted.
            now: monotonic seconds.
        """
        whole = len(self.wanted) >= min(self._count, len(strangers)) and set(self.wanted) <= set(strangers)
        if not self._count or (whole and now < self._until):
            return False
        self.wanted = self._choice.choose(strangers, self._count)
        self._until = now + self._period
        return True
