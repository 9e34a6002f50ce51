"""What is due when: a few named times, one each, and the earliest of them at no cost."""

from __future__ import annotations

import math


class Agenda:
    """Named deadlines in monotonic seconds."""

    def __init__(self) -> None:
        self.due = math.inf
        """The earliest of all."""
        self._at: dict[str, float] = {}

    def __getitem__(self, name: str) -> float:
        return self._at.get(name, math.inf)

    def put(self, name: str, at: float) -> None:
        """Set a deadline, in place of a former one of that name."""
        self._at[name] = at
        self.due = min(self._at.values())

    def sooner(self, name: str, at: float) -> None:
        """Set a deadline unless there is an earlier one of that name."""
        if at < self[name]:
            self.put(name, at)

    def take(self, now: float) -> list[str]:
        """Return what is due, in order, and forget it."""
        if now < self.due:
            return []
        due = sorted((at, name) for name, at in self._at.items() if at <= now)
        for _, name in due:
            del self._at[name]
        self.due = min(self._at.values(), default=math.inf)
        return [name for _, name in due]

    def drop(self, name: str) -> None:
        """Forget a deadline."""
        if self._at.pop(name, None) is not None:
            self.due = min(self._at.values(), default=math.inf)

    def clear(self) -> None:
        """Forget all."""
        self._at.clear()
        self.due = math.inf
