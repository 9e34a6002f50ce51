"""Whether a worker makes steps, by its journal; without a clock of its own.

The watch begins when the worker has attached (its ``start`` line): loading data before may take any time. From then on
only another step counts as life; a worker whose bus still writes lines while its training hangs is silent.
"""

from __future__ import annotations

import json
from pathlib import Path

from dagrad_bus.workers.launch.journal import Tail


class Pulse:
    """The steps of one process. Times are seconds of one monotonic clock."""

    def __init__(self, path: Path) -> None:
        """Begin at the present end of the journal: what stands there is of earlier processes."""
        self._tail = Tail(path, longest=1 << 20)
        self._since: float | None = None
        """When the last step was made; None while nothing is expected."""
        self._step: object = None
        self._is_begun = False
        self._has_stepped = False
        for _ in self._tail.read_lines(final=True):
            pass

    def silence(self, now: float) -> float:
        """Read what is new and return for how long there was no step; 0 before the start line and after the end."""
        for line in self._tail.read_lines():
            self._take(line, now)
        return 0.0 if self._since is None else now - self._since

    def has_stepped(self, now: float) -> bool:
        """Read what is new and return whether a step was made; True where there is no journal to tell."""
        self.silence(now)
        return self._has_stepped or not self._is_begun

    def _take(self, line: bytes, now: float) -> None:
        try:
            entry = json.loads(line)
            event, step = entry["event"], entry.get("step")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return
        match event:
            case "start":
                self._since, self._step, self._is_begun = now, None, True
            case "progress" if self._since is None or step != self._step:
                self._has_stepped = self._has_stepped or self._step is not None or step != 0
                self._since, self._step = now, step
            case "log" | "sample":  # at a step, so one was made
                self._has_stepped = True
            case "end":
                self._since = None
            case _:
                pass
