"""How far a comparison is: a bar on a terminal, else a line a run, and in both cases the time left."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text


class BenchDisplay(AbstractContextManager["BenchDisplay"]):
    """Progress through work whose amount is guessed beforehand, in any unit.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._title = ""
        self._began, self._total, self._behind = 0.0, 0.0, 0.0

    def __enter__(self) -> Self:
        """Show the bar, on a terminal."""
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self._console)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Say a line."""
        self._console.print(Text(text), soft_wrap=True)

    def begin(self, title: str, total: float) -> None:
        """Begin work of the amount ``total``."""
        self._title, self._began, self._total, self._behind = title, time.monotonic(), total, 0.0
        if self._bar is not None:
            self._task = self._bar.add_task(title, total=max(1.0, total))

    def advance(self, text: str, work: float) -> None:
        """Say what a run gave and how long the rest will take; ``work`` is its amount, 0 if it was at hand."""
        self._behind += work
        tail = self.left() if work else "at hand"
        self.say(f"{text}  {tail}")
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._behind, description=tail)

    def left(self) -> str:
        """Return the time left, by how right the guesses were so far."""
        rest = max(0.0, self._total - self._behind)
        return f"{self._title}: {clock((time.monotonic() - self._began) / max(self._behind, 1.0) * rest)} left"


def clock(seconds: float) -> str:
    """Return minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
