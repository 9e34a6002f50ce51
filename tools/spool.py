"""Output that nobody waits for: a thread writes it, so that a reader who is slow, or gone, holds up nothing.

A terminal that was stopped (Ctrl-S), a pager, a frozen connection: a write to them may wait for hours. The launcher's
loop must not, as workers on other hosts end when they hear nothing of it. What runs too far ahead is left out; the run
folder has all of it.
"""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from contextlib import suppress
from typing import IO, Self, TextIO, cast

MOST_WAITING = 4 << 20
"""Characters that may wait; what comes then is left out until there is room again."""


class Spool:
    """One queue for several streams, written in order by one thread; leave the block to wait for all that is queued."""

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._queue: deque[tuple[IO[str], str]] = deque()
        self._waiting = 0
        self._left_out = 0
        """Lines, since there was no room."""
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._write_all, name="dagrad.spool", daemon=True)

    def __enter__(self) -> Self:
        """Start writing."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until everything was written, however long that takes: nothing else depends on it any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def stream(self, target: IO[str]) -> TextIO:
        """Return a stream like ``target`` that never waits."""
        return cast(TextIO, _Spooled(self, target))  # what a stream needs to have; typeshed's class has more

    def put(self, target: IO[str], text: str) -> None:
        """Queue ``text``, or leave it out."""
        with self._changed:
            if self._left_out or self._waiting + len(text) > self._most:
                self._left_out += text.count("\n")
            else:
                self._queue.append((target, text))
                self._waiting += len(text)
                self._changed.notify()

    def _take(self) -> tuple[IO[str], str] | None:
        """Wait for the next text; None: there will be no more."""
        with self._changed:
            while not self._queue and not self._is_closed:
                self._changed.wait()
            if not self._queue:
                return None
            target, text = self._queue.popleft()
            self._waiting -= len(text)
            if self._left_out and not self._queue:
                self._queue.append((target, f"[dagrad: {self._left_out} lines not shown, logs/ has them]\n"))
                self._waiting, self._left_out = len(self._queue[0][1]), 0
            return target, text

    def _write_all(self) -> None:
        while (next_ := self._take()) is not None:
            target, text = next_
            try:
                target.write(text)
                target.flush()
            except (OSError, ValueError):  # nobody reads on (`| head`), or the terminal is gone; training goes on
                _discard(target)


def _discard(target: IO[str]) -> None:
    """Have all that is written to ``target`` go nowhere, so that the interpreter's end finds nothing to complain of."""
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), target.fileno())


class _Spooled(io.TextIOBase):
    """A stream of a :class:`Spool`."""

    def __init__(self, spool: Spool, target: IO[str]) -> None:
        self._spool = spool
        self._target = target

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has an attribute
        """Of the target."""
        return getattr(self._target, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Queue ``text``."""
        self._spool.put(self._target, text)
        return len(text)

    def isatty(self) -> bool:
        """Whether the target is a terminal."""
        return self._target.isatty()

    def fileno(self) -> int:
        """Return the target's descriptor: rich asks it for the size of the terminal."""
        return self._target.fileno()
