"""The connectivity beacon: a count that the smallest member keeps raising and that reaches whoever is connected."""

from __future__ import annotations

from dagrad_bus.ids import NodeId

PERIOD = 5.0
"""Seconds between two counts of the root."""
STALE = 15.0
"""Seconds without progress after which the view is taken to be split."""
_HIGHEST = (1 << 63) - 1


class Beacon:
    """The highest count heard of.

    Args:
        now: seconds, monotonic.
    """

    def __init__(self, now: float) -> None:
        self.count = 0
        self._progress_at = now
        self._root: NodeId | None = None

    def heard(self, count: int, now: float) -> None:
        """Take a neighbour's count: the highest wins."""
        if self.count < count <= _HIGHEST:
            self.count = count
            self._progress_at = now

    def turn(self, root: NodeId, is_own: bool, is_known: bool, now: float) -> bool:
        """Count, or look whether the root still does; whether it seems out of reach.

        Args:
            root: the smallest member of the view.
            is_own: it is this worker.
            is_known: it was heard of; one that is only expected does not count yet.
            now: seconds, monotonic.
        """
        if root != self._root or not is_known:
            self._root, self._progress_at = root, now
        if is_own:
            self.count = min(_HIGHEST, self.count + 1)
            self._progress_at = now
        if now - self._progress_at <= STALE:
            return False
        self._progress_at = now
        return True
