"""One neighbour under observation, and pairs of workers that cannot reach each other."""

from __future__ import annotations

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.arrivals import Arrivals
from dagrad_bus.membership.records import Version
from dagrad_bus.messages import Heartbeat
from dagrad_bus.settings import BeatSettings

MOST_LAG = 5.0
"""So many seconds of delay that a neighbour reports of itself are added to its bound."""
MUTE, LONGEST_MUTE = 60.0, 600.0


class Watch:
    """What is known of a neighbour at first hand.

    Args:
        node: the neighbour.
        settings: all times.
        now: when the observation began; silence counts from here.
    """

    __slots__ = (
        "arrivals", "asked_at", "beat", "beat_at", "heard_at", "is_connected", "is_plain", "mismatches", "node", "since",
    )  # fmt: skip

    def __init__(self, node: NodeId, settings: BeatSettings, now: float) -> None:
        self.node = node
        self.arrivals = Arrivals(settings.interval)
        self.beat: Heartbeat | None = None
        """The last heartbeat."""
        self.beat_at = 0.0
        self.heard_at = -1e9
        """When anything came from it, monotonic seconds."""
        self.since = now
        """Since when it is silent; later than ``heard_at`` where it was given time."""
        self.is_connected = False
        """A connection was up, or something came: until then it gets the longest time."""
        self.asked_at = -1e9
        """When others were last asked whether they reach it."""
        self.is_plain = True
        """Alive in the table and not accused by us: a heartbeat has nothing to mend."""
        self.mismatches = 0
        """Heartbeats in a row whose digest was another."""

    def heard(self, now: float) -> None:
        """Take note of any message."""
        self.heard_at = self.since = now
        self.is_connected = True

    def renew(self, now: float) -> None:
        """Begin again with another process of the same name."""
        self.arrivals = Arrivals(self.arrivals.interval)
        self.beat = None
        self.since = now
        self.is_connected = False
        self.mismatches = 0

    def suspect_after(self, settings: BeatSettings, factor: int) -> float:
        """Return how many seconds of silence accuse it."""
        if not self.is_connected:
            return settings.silence_max * factor
        lag = min(self.beat.lag_ms / 1000, MOST_LAG) if self.beat is not None else 0.0
        return (self.arrivals.suspect_after(settings.silence, settings.silence_max) + lag) * factor


class Pair:
    """This worker and one that it accused: after one refuted accusation that brought no contact, it holds its tongue.

    Otherwise two workers that cannot reach each other, but both reach a third, would accuse for ever.
    """

    __slots__ = ("accused", "is_apart", "mute", "muted_until", "through")

    def __init__(self) -> None:
        self.accused: Version | None = None
        """What was accused last; None: it was heard since, or may be accused anew."""
        self.is_apart = False
        """Others reach it and this worker does not: another neighbour stands in for it."""
        self.through: NodeId | None = None
        """A member that reaches both."""
        self.mute = 0.0
        self.muted_until = 0.0

    def hold(self, now: float) -> None:
        """Make no accusation for 60 s, then 120, at most 600."""
        self.mute = min(max(MUTE, 2 * self.mute), LONGEST_MUTE)
        self.muted_until = now + self.mute
        self.accused = None
        self.is_apart = True

    def is_muted(self, now: float) -> bool:
        """Whether no accusation is made."""
        return now < self.muted_until

    def clear(self, now: float) -> bool:
        """Begin anew: it was heard, or is gone, or another process; whether another neighbour stood in for it."""
        was_apart = self.is_apart
        self.is_apart = False
        self.accused = self.through = None
        self.muted_until = min(self.muted_until, now)
        return was_apart

    def is_past(self, now: float) -> bool:
        """Whether it may be forgotten."""
        return self.accused is None and not self.is_apart and now > self.muted_until + LONGEST_MUTE
