"""A bounded hand-over from any thread to a loop, without waiting: a deque, and a bell that the loop hears."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from dagrad_bus.errors import BusClosed

T = TypeVar("T")


class Bell:
    """Wakes a loop from another thread: an eventfd, or a socket pair where there is none."""

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._read = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._pair: tuple[socket.socket, socket.socket] | None = None
        else:
            self._pair = socket.socketpair()
            self._pair[0].setblocking(False)
            self._read = self._pair[0].fileno()

    def fileno(self) -> int:
        """Return the descriptor the loop watches."""
        return self._read

    def ring(self) -> None:
        """Wake the loop; any thread."""
        if self._pair is None:
            os.eventfd_write(self._read, 1)
        else:
            self._pair[1].send(b"!")

    def silence(self) -> None:
        """Take the ringing away; the loop's thread."""
        if self._pair is None:
            os.eventfd_read(self._read)
        else:
            self._pair[0].recv(4096)

    def close(self) -> None:
        """Free the descriptors."""
        if self._pair is None:
            os.close(self._read)
        else:
            for end in self._pair:
                end.close()


class Inbox(Generic[T]):
    """Items from any thread to the loop, without waiting.

    Args:
        deliver: called on the loop's thread with each item.
        size: items waiting at most; beyond it :meth:`put` says no.
    """

    def __init__(self, deliver: Callable[[T], None], size: int) -> None:
        self._deliver = deliver
        self._size = size
        self._items: deque[T] = deque()
        self._bell = Bell()
        self._rung = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._closed = False

    def start(self, loop: asyncio.AbstractEventLoop, fail: Callable[[Exception], None]) -> None:
        """Register with the loop; ``fail`` is told what ``deliver`` raised."""
        self._loop, self._fail = loop, fail
        loop.add_reader(self._bell.fileno(), self._take)

    def put(self, item: T) -> bool:
        """Hand one item to the loop. False: no room, and the item stays with the caller.

        Raises:
            BusClosed: the loop has stopped.
        """
        with self._lock:  # close() must not free the descriptor under our feet
            if self._closed:
                raise BusClosed("the bus has stopped: attach again for another run")
            if room := len(self._items) < self._size:
                self._items.append(item)
                if not self._rung:  # one system call a burst, not one an item
                    self._rung = True
                    self._bell.ring()
            return room

    def _take(self) -> None:
        self._bell.silence()  # bell, flag, items: another order loses the last wake-up
        self._rung = False
        try:
            while self._items:
                self._deliver(self._items.popleft())
        except Exception as error:  # noqa: BLE001  # outermost line of a callback: the bus ends with it
            self._fail(error)

    def close(self) -> None:
        """Refuse items from now on and leave the loop (its own thread); idempotent, also where it never started."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._loop is not None:
                self._loop.remove_reader(self._bell.fileno())
            self._bell.close()
