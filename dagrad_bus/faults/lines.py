"""JSON objects, one a line, over a stream socket: orders to a process started for a test, and its answers."""

from __future__ import annotations

import json
import select
import socket
import time
from typing import Any

from dagrad_bus.errors import BusError

Answer = dict[str, Any]
READ = 1 << 16


class ProcessGone(BusError):
    """The other end of a line has closed."""

    code = "process_gone"


class OrderFailed(BusError):
    """The other end could not do what it was asked; its own words."""

    code = "order_failed"


class Line:
    """One end. Blocking, with deadlines; not for several threads.

    Args:
        sock: a connected stream socket; it belongs to the line from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._asked = 0

    def fileno(self) -> int:
        """Return the descriptor, for select."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close this end."""
        self._sock.close()

    def send(self, message: Answer) -> None:
        """Send one object.

        Raises:
            ProcessGone: nobody listens.
        """
        try:
            self._sock.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise ProcessGone(str(error)) from None

    def receive(self, seconds: float | None = None) -> Answer:
        """Return the next object.

        Args:
            seconds: to wait at most; None: for ever.

        Raises:
            TimeoutError: none came.
            ProcessGone: none will.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                answer: Answer = json.loads(line)
                return answer
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._sock], [], [], left)[0]:
                raise TimeoutError
            self._read()

    def _read(self) -> None:
        try:
            data = self._sock.recv(READ)
        except OSError as error:
            raise ProcessGone(str(error)) from None
        if not data:
            raise ProcessGone("end of the stream")
        self._buffer += data

    @property
    def has_more(self) -> bool:
        """Whether a whole object has been read already: select would not tell."""
        return b"\n" in self._buffer

    def ask(self, op: str, seconds: float = 10.0, **order: object) -> Answer:
        """Send an order and return its answer.

        Raises:
            TimeoutError: no answer in ``seconds``.
            ProcessGone: the process has ended.
            OrderFailed: it could not do that.
        """
        return self.await_answer(self.start(op, **order), seconds)

    def start(self, op: str, **order: object) -> int:
        """Send an order; return its number, for :meth:`await_answer`."""
        self._asked += 1
        self.send({"id": self._asked, "op": op, **order})
        return self._asked

    def await_answer(self, number: int, seconds: float = 10.0) -> Answer:
        """Return the answer to order ``number``; answers to older orders that came too late are passed over."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.receive(max(0.0, deadline - time.monotonic()))
            if answer.get("id") == number:
                if "error" in answer:
                    raise OrderFailed(str(answer["error"]))
                return answer
