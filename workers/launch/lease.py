"""How long workers outlive the launcher: the agent's lease, without a clock of its own.

===========  ==================================================================================================
seconds      the workers are stopped
===========  ==================================================================================================
over 0       so long after the last order, whether the stream has ended since or has only fallen silent
0            at once when the stream ends; silence means nothing (a pipe to a process of this host cannot be cut)
below 0      never: the run was left alone on purpose
===========  ==================================================================================================
"""

from __future__ import annotations

import math


class Lease:
    """The lease of one agent. Times are seconds of one monotonic clock."""

    def __init__(self, seconds: float, now: float) -> None:
        self.seconds = seconds
        self._last = now
        """When the last order came."""
        self._ended: float | None = None
        """When the stream ended; None while one is open."""

    def renew(self, now: float, *, seconds: float | None = None) -> None:
        """An order has come, so the launcher lives; ``seconds`` is a new lease if it gave one."""
        self._last = now
        self._ended = None
        if seconds is not None:
            self.seconds = seconds

    def end_stream(self, now: float) -> None:
        """The stream of orders has ended."""
        self._ended = now if self._ended is None else self._ended

    @property
    def due(self) -> float:
        """When it runs out unless something happens; infinite if never."""
        if self.seconds < 0:
            return math.inf
        if self.seconds == 0:
            return math.inf if self._ended is None else self._ended
        return self._last + self.seconds

    def is_expired(self, now: float) -> bool:
        """Whether it has run out."""
        return now >= self.due
