"""What went over one contact: plain numbers, counted where it happens, read where somebody asks."""

from __future__ import annotations

import math

from dagrad_bus.wire import Data, Message


class Tally:
    """What went over one contact since it was made, for those who look at the run."""

    __slots__ = (
        "accepted",
        "bytes_received",
        "bytes_sent",
        "delay",
        "heard_at",
        "lost",
        "received",
        "refused",
        "told_at",
    )

    def __init__(self) -> None:
        self.accepted = self.lost = 0
        """Frames sent, by outcome."""
        self.received = self.refused = 0
        """Frames that arrived whole, by verdict."""
        self.bytes_sent = self.bytes_received = 0
        """Payload."""
        self.delay = 0.0
        """Seconds from reading the values to the verdict on their frame, smoothed."""
        self.heard_at: float | None = None
        """When the peer last said anything on its connection."""
        self.told_at = -math.inf
        """When it was last told of our links."""

    def heard(self, message: Message, now: float) -> None:
        """Take note of a message of the peer."""
        self.heard_at = now
        if isinstance(message, Data):
            self.bytes_received += len(message.payload)

    def settled(self, *, accepted: bool) -> None:
        """Take note of what became of a frame."""
        self.accepted += accepted
        self.lost += not accepted

    def judged(self, code: int, delay: float) -> None:
        """Take the verdict on a frame of the peer, and how long it was on its way, in seconds."""
        if code:
            self.refused += 1
            return
        self.received += 1
        self.delay = delay if self.received == 1 else self.delay + (delay - self.delay) / 8
