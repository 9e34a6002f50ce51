"""Encoding and decoding of large frames beside the loop: one task a direction, so the order of a link holds.

Small frames are coded where they are: handing them to a thread would cost more than the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

QUEUE = 64
"""Frames waiting for the thread; credit keeps it shorter in practice."""


class Bench(Generic[T, R]):
    """Does ``work`` on a thread, one item after the other, and hands ``(item, result)`` to ``done`` on the loop."""

    def __init__(self, executor: Executor, work: Callable[[T], R], done: Callable[[T, R], None]) -> None:
        self._executor = executor
        self._work = work
        self._done = done
        self._queue: asyncio.Queue[T] = asyncio.Queue(QUEUE)

    def put(self, item: T) -> bool:
        """Queue one item; False: no room, nothing was taken."""
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            return False
        return True

    async def run(self) -> None:
        """Work until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            item = await self._queue.get()
            self._done(item, await loop.run_in_executor(self._executor, self._work, item))
