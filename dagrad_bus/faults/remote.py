"""The fault proxy in a process of its own: ``python -m dagrad_bus.faults.remote FD``, steered over a :class:`Line`.

So the proxy's work competes with no worker's interpreter lock, and a test that blocks does not stop the traffic.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from typing import Any, Self

from dagrad_bus.errors import UsageError
from dagrad_bus.faults.lines import Answer, Line
from dagrad_bus.faults.proxy import Proxy

START = 20.0
"""Seconds the process may take to start."""


async def _obey(proxy: Proxy, order: Answer) -> Answer:
    """Carry one order out."""
    op, given = order.pop("op"), order
    match op:
        case "open":
            host, port = given.pop("upstream")
            return {"port": proxy.open(given.pop("route"), (host, port), **given)}
        case "set":
            return {"matching": proxy.set(**given)}
        case "reset":
            return {"matching": proxy.reset(**given)}
        case "cut":
            return {"matching": proxy.cut(**given)}
        case "record":
            proxy.record(**given)
            return {}
        case "tape":
            tape = proxy.tape(**given)
            return {"handshake": tape.handshake.hex(), "messages": [message.hex() for message in tape.messages]}
        case "replay":
            messages = [bytes.fromhex(message) for message in given.pop("messages")]
            return {"matching": proxy.replay(messages=messages, **given)}
        case "impersonate":
            host, port = given["upstream"]
            messages = [bytes.fromhex(message) for message in given["messages"]]
            await proxy.impersonate((host, port), bytes.fromhex(given["handshake"]), messages)
            return {}
        case "counts":
            return {"counts": dict(proxy.counts), "connections": len(list(proxy.matching(**given)))}
        case _:
            raise UsageError(f"no such order: {op}")


async def _serve(fd: int, seed: int) -> None:
    """Obey until the stream ends."""
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=fd), limit=1 << 26)
    async with Proxy(seed) as proxy:
        while line := await reader.readline():
            order = json.loads(line)
            number = order.pop("id")
            try:
                answer = await _obey(proxy, order)
            except Exception as error:  # noqa: BLE001  # outermost line of an order: its sender is told
                answer = {"error": repr(error)}
            writer.write(json.dumps({"id": number, **answer}).encode() + b"\n")
    writer.close()


def main(fd: int, seed: int) -> None:
    """Run the proxy of one test."""
    try:
        import uvloop  # optional, and not on every platform
    except ImportError:
        asyncio.run(_serve(fd, seed))
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(fd, seed))


class RemoteProxy:
    """A proxy process; a context manager. Orders are those of :class:`~dagrad_bus.faults.proxy.Proxy`.

    Args:
        seed: of jitter and bit flips.
    """

    def __init__(self, seed: int = 0) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dagrad_bus.faults.remote", str(theirs.fileno()), str(seed)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self.line = Line(ours)
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        """Wait until it runs."""
        self.line.ask("counts", START)
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.line.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, op: str, seconds: float = 10.0, **order: Any) -> Answer:
        """Give one order and return its answer."""
        return self.line.ask(op, seconds, **order)

    def counts(self) -> dict[str, int]:
        """Return what the proxy has done so far: ``flips``, ``cuts``, ``resets``, ``injected``, ``bytes``, ..."""
        counts: dict[str, int] = self.ask("counts")["counts"]
        return counts


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
