"""What a Ray actor does for us: it starts one agent beside itself and relays bytes, and nothing else.

Ray calls the methods of :class:`Carrier` on an event loop in a thread that lives as long as the actor's process. The
agent is a child of that very thread: the parent-death signal, which fires when the *thread* that forked ends, is thus
the death of the actor. A call that Ray cannot deliver may or may not have been carried out, so both directions count
bytes, and a repeated call does no harm.

Started as a program, this module is the child's first moment: it takes back what a process of Ray leaves behind
(blocked signals, a debugger hook), asks for the parent-death signal and becomes the agent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from dagrad_bus.workers.launch.addresses import to_bind
from dagrad_bus.workers.launch.nursery import set_death_signal

PART = 64 * 1024
"""Bytes of one answer at most: Ray sends values below 100 KB with the answer, larger ones by its object store."""
POLL = 10.0
"""Seconds that :meth:`Carrier.take` waits for something to say."""
_LAST_WORDS = 4096
"""Bytes of the agent's stderr that are kept."""


class Carrier:
    """Starts an agent and relays its standard streams: the body of a Ray actor."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._source: asyncio.ReadTransport | None = None
        self._stdout = asyncio.StreamReader()
        self._stderr: IO[bytes] | None = None
        self._why: str | None = None
        """Why there is nothing more to take."""
        self._fed = 0
        self._first = 0
        """Number of the first byte kept."""
        self._kept = b""
        """What was handed out and not yet asked beyond."""
        self._lock = asyncio.Lock()

    async def locate(self) -> dict[str, str]:
        """Return where this process is: ``address`` as Ray has it, ``bind`` to listen there, ``hostname``, ``python``."""
        ray = sys.modules.get("ray")
        address = str(ray.util.get_node_ip_address()) if ray is not None else "127.0.0.1"
        return {
            "address": address,
            "bind": to_bind(address),
            "hostname": socket.gethostname(),
            "python": sys.executable,
        }

    async def start(self, words: Sequence[str], env: Mapping[str, str]) -> int:
        """Start the agent, once; return its pid.

        Args:
            words: its command line; empty words stand for this interpreter.
            env: laid over the environment of this process.

        Raises:
            OSError: it cannot be executed.
        """
        if self._process is None:
            command = [
                sys.executable,
                "-u",
                "-m",
                __name__,
                str(os.getpid()),
                *(word or sys.executable for word in words),
            ]
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # until the end; a file needs no reader
            self._process = subprocess.Popen(  # noqa: ASYNC220  # forked by the thread that lives as long as the actor
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, **env},
                start_new_session=True,  # Ray ends process groups in its own way
            )
            await self._adopt(self._process)
        return self._process.pid

    async def _adopt(self, process: subprocess.Popen[bytes]) -> None:
        """Hand the child's pipes to the loop. Its stdout is read only as fast as somebody takes it."""
        loop = asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(self._stdout)
        self._source, _ = await loop.connect_read_pipe(lambda: protocol, process.stdout)
        self._stdin, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, process.stdin)

    async def feed(self, at: int, data: bytes) -> None:
        """Give the agent what of ``data``, whose first byte is number ``at``, it has not had."""
        if self._stdin is not None and at + len(data) > self._fed and not self._stdin.is_closing():
            self._stdin.write(data[self._fed - at :])
            self._fed = at + len(data)

    async def close(self) -> None:
        """End the agent's stdin: its launcher is gone."""
        if self._stdin is not None:
            self._stdin.close()

    async def take(self, at: int) -> tuple[bytes, str | None]:
        """Return what the agent printed from byte ``at`` on; who asks so has all that is before.

        Nothing, if there is nothing within :data:`POLL` seconds. The second value is None while the agent may print
        more; then it says why it does not, empty if all is well.
        """
        async with self._lock:
            self._kept, self._first = self._kept[at - self._first :], at
            if not self._kept:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        self._kept = await self._stdout.read(PART)
            ended = not self._kept and self._stdout.at_eof()
            if ended and self._why is None:
                self._why = await self._describe_end()
            return self._kept, self._why if ended else None

    async def _describe_end(self) -> str:
        """Wait for the agent's end and return why it ended; empty if all is well."""
        if self._process is None or self._stderr is None:
            return "no agent was started"
        for transport in (self._source, self._stdin):
            if transport is not None:
                transport.close()
        code = await asyncio.to_thread(self._process.wait)
        with self._stderr as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_WORDS))
            text = file.read().decode(errors="replace").strip()
        if code == 0:
            return ""
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"the agent {how}" + (f": {text}" if text else "")


def main(parent: int, words: list[str]) -> None:
    """Become the agent: be told when process ``parent`` ends, have no signal blocked, execute ``words``."""
    set_death_signal(signal.SIGTERM, parent=parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.environ.get("PYTHONBREAKPOINT", "").startswith("ray."):
        del os.environ["PYTHONBREAKPOINT"]
    try:
        os.execvp(words[0], words)
    except OSError as error:
        sys.exit(f"{words[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
