"""What the owner of a bus sees of it: one writer (the loop), one reader (perhaps another thread), no lock.

Tuples and mappings are swapped whole, deques are appended to by the loop alone and popped by the reader alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from dagrad_bus.events import LinkState, MemberEvent, Outcome, PeerNews
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.wire import StateRej, StateReq

WAITING = 256
"""Requests, rejections and healed peers waiting for the owner; beyond it the oldest goes, all of them are repeated."""
EVENTS = 4096
"""Events waiting for an owner that may never ask."""


class Outlook:
    """Links, outcomes, news and events, and what the owner says of its own progress."""

    def __init__(self) -> None:
        self.states: tuple[LinkState, ...] = ()
        """The outgoing links."""
        self.outcomes: deque[Outcome] = deque()
        """One for each (job, link) handed over, so as many as the owner planned."""
        self.news: Mapping[NodeId, PeerNews] = {}
        """What neighbours last said of themselves."""
        self.others: Mapping[NodeId, PeerNews] = {}
        """What is known of members that are no neighbours; kept only where they are explored."""
        self.members: Mapping[str, str] = {}
        """Name -> what is believed of it, of everybody of whom it ever changed."""
        self.requests: deque[tuple[NodeId, StateReq]] = deque(maxlen=WAITING)
        self.rejections: deque[tuple[NodeId, StateRej]] = deque(maxlen=WAITING)
        self.healed: deque[NodeId] = deque(maxlen=WAITING)
        """Neighbours whose link is up again after a partition."""
        self.events: deque[MemberEvent] = deque(maxlen=EVENTS)
        self.rejoined = 0
        """How often the others had given this worker up, and took it back."""
        self.failure: Exception | None = None
        """What must stop the owner."""
        self.on_change: Callable[[], None] | None = None
        """Called after anything here changed; for owners on the same loop."""
        self.progress: tuple[Step, float, float] = (Step(0), 0.0, 0.0)
        """By the owner: step, steps a second and time (monotonic seconds) of the last step."""
        self.is_syncing = False
        """By the owner: it is being brought up to date and trains no step."""

    def tell(self) -> None:
        """Let an owner on the same loop look."""
        if self.on_change is not None:
            self.on_change()
