"""Local health: how far this worker should distrust its own judgement (Lifeguard, Dadgar et al. 2018)."""

from __future__ import annotations

WORST = 7
RECOVERY = 5.0
"""Seconds without an incident that take one point off."""
LATE, VERY_LATE = 0.5, 2.0
"""Seconds that the event loop was late."""


class Health:
    """0 (well) to 7; every bound on others is stretched by ``factor``."""

    def __init__(self) -> None:
        self.score = 0
        self.recovers_at = 0.0

    @property
    def factor(self) -> int:
        """Stretches bounds: 1 to 8."""
        return 1 + self.score

    def worsen(self, by: int, now: float) -> None:
        """Take note of an incident: an own refutation, answers that did not come, a late loop."""
        self.score = min(WORST, self.score + by)
        self.recovers_at = now + RECOVERY

    def lagged(self, lag: float, now: float) -> None:
        """Take note that the loop was ``lag`` seconds late."""
        if lag > LATE:
            self.worsen(2 if lag > VERY_LATE else 1, now)

    def recover(self, now: float) -> None:
        """Take a point off for each clean 5 s."""
        while self.score and now >= self.recovers_at:
            self.score -= 1
            self.recovers_at += RECOVERY
