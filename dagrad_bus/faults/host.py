"""A host for tests: a network namespace, a host name, ``/tmp`` and ``/dev/shm`` of its own, on the machine's files.

Every process started in it keeps those, and so do its children: that is how they are found again, whatever they have
become, and ended one by one. Process ids are the machine's, so a test may kill what a launcher reported. Needs root.

::

    with Hosts(1) as net, VirtualHost(net.name(0), "node1", folder, {"node1": net.address(0)}) as host:
        done = host.call("hostname", seconds=5)
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import dagrad_bus
from dagrad_bus.errors import StartError, UsageError

NAMESPACES = Path("/run/netns")
NAMES = Path("/etc/netns")
"""``ip netns exec`` binds the files of ``NAMES/<namespace>/`` over those of ``/etc``."""
PRIVATE = ("/tmp", "/dev/shm")  # what hosts must not share
END = 10.0
"""Seconds within which killed processes must be gone."""
_ENTER = """
hostname "$1"; private=$2; shift 2
while [ "$1" != -- ]; do mkdir -p "$private$1" && mount --bind "$1" "$private$1"; shift; done; shift
mount --rbind "$private/tmp" /tmp && mount --bind "$private/dev/shm" /dev/shm && exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that runs in a host."""

    pid: int
    command: tuple[str, ...]
    """Its words; one word in brackets if it has none."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int | None
    """Exit code, negative a signal's number; None: it was killed because its time was over."""
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        """Everything, for a failed assertion."""
        return f"code {self.code} after {self.seconds:.1f} s\n{self.out}\n--- stderr\n{self.err}"


class VirtualHost:
    """One host; a context manager that leaves nothing running.

    Args:
        namespace: an existing network namespace (:class:`~dagrad_bus.faults.namespaces.Hosts`); it is not removed.
        name: host name.
        folder: for its private folders; must not be below ``/tmp`` and outlive the host.
        hosts: addresses by name, for its ``/etc/hosts``.
    """

    def __init__(self, namespace: str, name: str, folder: Path, hosts: Mapping[str, str]) -> None:
        self.namespace = namespace
        self.name = name
        self._folder = folder
        self._hosts = dict(hosts)
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Make the folders."""
        for path in PRIVATE:
            (self._folder / path[1:]).mkdir(parents=True)
            (self._folder / path[1:]).chmod(0o1777)
        names = NAMES / self.namespace
        names.mkdir(parents=True)
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self._hosts.items())]
        (names / "hosts").write_text("\n".join(lines) + "\n")
        self._inode = (NAMESPACES / self.namespace).stat().st_ino
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what still runs."""
        try:
            self.end()
        finally:
            (NAMES / self.namespace / "hosts").unlink(missing_ok=True)
            (NAMES / self.namespace).rmdir()

    @property
    def tmp(self) -> Path:
        """The host's ``/tmp``, as the machine sees it."""
        return self._folder / "tmp"

    # Run something -------------------------------------------------------------------------------------------------

    def start(self, *words: str, **given: Any) -> subprocess.Popen[bytes]:
        """Start a command in the host; ``given`` goes to ``Popen``. Its pid is that of the command itself."""
        enter = ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", _ENTER, "sh"]
        kept = [path for path in _needed() if path.startswith("/tmp/")]  # a checkout below /tmp
        child = subprocess.Popen[bytes]([*enter, self.name, str(self._folder), *kept, "--", *words], **given)
        self._children.append(child)
        return child

    def call(self, *words: str, seconds: float = 60.0, **given: Any) -> Done:
        """Run a command in the host to its end; after ``seconds`` it and all its descendants here are killed."""
        before, began = {process.pid for process in self.processes()}, time.monotonic()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = self.start(*words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, **given)
            try:
                code: int | None = child.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
                self.end(keep=before)
            texts = [(file.seek(0), file.read().decode(errors="replace"))[1] for file in (out, err)]
        return Done(code, texts[0], texts[1], time.monotonic() - began)

    # What runs -----------------------------------------------------------------------------------------------------

    def processes(self) -> list[Process]:
        """Return all processes in the host, in the order of their ids."""
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        found = (self._look(pid) for pid in pids)
        return [process for process in found if process is not None]

    def _look(self, pid: int) -> Process | None:
        try:
            if os.stat(f"/proc/{pid}/ns/net").st_ino != self._inode:
                return None
            words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            return None  # it has ended meanwhile
        return Process(pid, tuple(word.decode(errors="replace") for word in words) if words[0] else (f"[{name}]",))

    def find(self, *texts: str) -> list[Process]:
        """Return the processes whose command line contains each of ``texts``."""
        return [one for one in self.processes() if all(text in " ".join(one.command) for text in texts)]

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one process.

        Raises:
            UsageError: it is not in this host, or no more.
        """
        if self._look(pid) is None:
            raise UsageError(f"no process {pid} in {self.name}")
        os.kill(pid, number)

    def end(self, keep: set[int] | None = None) -> None:
        """Kill all processes but those to ``keep``, until none is left.

        Raises:
            StartError: some will not die.
        """
        deadline, kept = time.monotonic() + END, keep or set[int]()
        while left := [one for one in self.processes() if one.pid not in kept]:
            if time.monotonic() > deadline:
                raise StartError(f"in {self.name} there still run {left}")
            for process in left:
                _kill(process.pid)
            self._reap(kept)
            time.sleep(0.02)
        self._reap(kept)

    def _reap(self, kept: set[int]) -> None:
        """Kill the processes started here that have not entered the namespace yet, and collect all that ended."""
        for child in self._children:
            if child.pid not in kept and child.poll() is None:
                _kill(child.pid)
                child.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it was quicker


def _needed() -> list[str]:
    """Return the folders that a worker needs: the source, the environment and the interpreter."""
    source = str(Path(dagrad_bus.__file__).resolve().parents[1])
    return sorted({source, sys.prefix, sys.base_prefix})


def path_of(program: str) -> str:
    """Return where a program is, daemons included, which are not on everybody's path; empty if nowhere."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin") or ""


def scratch(prefix: str) -> Path:
    """Make a folder for hosts, outside of what they have for themselves. The caller removes it."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir="/run"))
