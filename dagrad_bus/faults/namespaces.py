"""Network namespaces joined by a bridge: hosts that can be unplugged, slowed down and cut off from one another.

Needs root. One bridge in a namespace of its own, one namespace a host, one veth pair between each host and the bridge;
nothing of the machine's own network is touched. Names carry this process's id; only those are ever removed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from dagrad_bus.errors import StartError

SUBNET = "10.77"
_NUMBERS = itertools.count(1)


def why_not() -> str:
    """Return what keeps this process from making namespaces; empty where nothing does."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"needs {' and '.join(missing)} (iproute2)"
    probe = f"dg{os.getpid()}p"
    try:
        _ip("netns", "add", probe)
    except StartError as error:
        return f"no namespaces: {error}"
    _ip("netns", "del", probe)
    return ""


def _ip(*words: str) -> str:
    return _run("ip", *words)


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Hosts:
    """``count`` hosts on one switch; a context manager that always clears up.

    Args:
        count: hosts, at most 250. Host ``i`` has address ``10.77.x.(i + 1)``.
    """

    def __init__(self, count: int) -> None:
        number = next(_NUMBERS)
        self._prefix = f"dg{os.getpid()}x{number}"
        self._subnet = f"{SUBNET}.{number % 250}"
        self.count = count
        self._made: list[str] = []

    def name(self, host: int) -> str:
        """Return the namespace of a host."""
        return f"{self._prefix}h{host}"

    def address(self, host: int) -> str:
        """Return the IPv4 address of a host."""
        return f"{self._subnet}.{host + 1}"

    @property
    def _switch(self) -> str:
        return f"{self._prefix}s"

    def __enter__(self) -> Self:
        """Make all of it.

        Raises:
            StartError: a command of iproute2 failed; nothing is left behind.
        """
        try:
            self._add(self._switch)
            _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "br0", "up")
            for host in range(self.count):
                self._join(host)
        except BaseException:
            self.close()
            raise
        return self

    def _add(self, name: str) -> None:
        _ip("netns", "add", name)
        self._made.append(name)

    def _join(self, host: int) -> None:
        name, port = self.name(host), f"p{host}"
        self._add(name)
        _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self._switch)
        _ip("-n", self._switch, "link", "set", port, "master", "br0", "up")
        _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")

    def close(self) -> None:
        """Remove what was made; a process still inside keeps its own namespace alive until it ends."""
        while self._made:
            with contextlib.suppress(StartError):
                _ip("netns", "del", self._made.pop())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear up."""
        self.close()

    # Faults ----------------------------------------------------------------------------------------------------

    def plug(self, host: int, *, plugged: bool) -> None:
        """Pull a host's cable, at the switch: nothing on the host notices; or put it back."""
        _ip("-n", self._switch, "link", "set", f"p{host}", "up" if plugged else "down")

    def limit(self, host: int, bits: int) -> None:
        """Limit what a host sends to ``bits`` a second, queue of 0.4 s; 0 removes the limit."""
        shape = ("root", "tbf", "rate", f"{bits}bit", "burst", "32kbit", "latency", "400ms")
        if bits:
            _run("tc", "-n", self.name(host), "qdisc", "replace", "dev", "eth0", *shape)
        else:
            _run("tc", "-n", self.name(host), "qdisc", "del", "dev", "eth0", "root")

    def blackhole(self, sources: Iterable[int], targets: Iterable[int], *, there: bool = True) -> None:
        """Drop what ``sources`` send to ``targets``, or stop dropping. One way: answers still get through."""
        op = "replace" if there else "del"
        where = list(targets)
        for source in sources:
            lines = [f"route {op} blackhole {self.address(target)}/32" for target in where if target != source]
            self._batch(source, lines)

    def _batch(self, host: int, lines: list[str]) -> None:
        words = ["ip", "-n", self.name(host), "-batch", "-"]
        done = subprocess.run(words, input="\n".join(lines), capture_output=True, text=True, check=False)
        if done.returncode:
            raise StartError(f"{lines}: {done.stderr.strip()}")

    def part(self, left: Iterable[int], right: Iterable[int], *, parted: bool = True) -> None:
        """Cut two groups off from one another, both ways, or join them again."""
        one, other = list(left), list(right)
        self.blackhole(one, other, there=parted)
        self.blackhole(other, one, there=parted)

    def sent(self, host: int) -> int:
        """Return the bytes that arrived at the switch from a host, since it was made."""
        text = _run("ip", "-n", self._switch, "-s", "link", "show", f"p{host}")
        lines = text.splitlines()
        row = next(at for at, line in enumerate(lines) if line.strip().startswith("RX:"))
        return int(lines[row + 1].split()[0])
