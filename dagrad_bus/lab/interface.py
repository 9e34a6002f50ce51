"""Commands in a network of their own, and what they send there, read at the interface.

A private network namespace holds a loopback device and nothing else. What its transmit counters show is the traffic of
the command and of nobody else: headers of TCP and IP, acknowledgements, handshakes, control messages. Programs that
count their own bytes leave most of that out. The device hands on segments of up to 64 KiB, so a network card, which
cuts them at 1500 bytes, would add about 4.5 %: compare programs with each other.

Making the namespace needs root, or a kernel that lets users make namespaces.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import which
from typing import BinaryIO, TextIO

from dagrad_bus.errors import UsageError

TAIL = 4000
"""Characters of a command's output that are kept."""
KILL_LIMIT = 10.0
"""Seconds until the processes that were killed must be gone."""
PAUSE = 0.005
COUNTERS = "/proc/net/dev"
SET_UP = "ip link set lo up || exit; { echo 0 >/proc/sys/net/ipv4/tcp_early_retrans; } 2>/dev/null; "
"""What the shell inside begins with. Tail loss probes are off where that is allowed: on a busy machine TCP would send last
segments twice that were never lost, up to 64 KiB each, and the bytes would be the machine's instead of the command's."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a loopback device has sent: each message counts once, whoever sent it."""

    sent: int
    """Bytes, with the headers of TCP and IP."""
    packets: int

    def less(self, other: Traffic) -> Traffic:
        """Return what this has more than ``other``, an earlier reading."""
        return Traffic(self.sent - other.sent, self.packets - other.packets)


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ran in a network of its own."""

    returncode: int
    """As of :mod:`subprocess`: minus the signal's number for a command that was killed."""
    traffic: Traffic
    seconds: float
    tail: str
    """The last characters of what it printed, both streams."""
    timed_out: bool = False
    """Whether it was killed because its time was up."""


def why_not() -> str:
    """Return what keeps this process from making a network namespace; empty where nothing does."""
    missing = [tool for tool in ("unshare", "ip") if which(tool) is None]
    if missing:
        return f"needs {' and '.join(missing)} (packages util-linux and iproute2)"
    return _refusal()


@cache
def _refusal() -> str:
    done = subprocess.run(enclosed(["true"]), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines()
    return f"a network namespace needs root, or user namespaces: {said[-1] if said else 'refused'}"


def enclosed(command: Sequence[str], script: str = 'exec "$@"') -> list[str]:
    """Return the words that run ``command`` in a new network namespace with a loopback device.

    The command keeps the standard streams and takes the place of the wrapper, process number included.

    Args:
        command: what is run; its words are handed over as they are.
        script: what the shell inside does with them, the device being up.
    """
    rights = "-n" if os.geteuid() == 0 else "-rn"
    return ["unshare", rights, "sh", "-c", SET_UP + script, "sh", *command]


def count_here() -> Traffic:
    """Return what the loopback device of this process's own namespace has sent since it was made."""
    with open(COUNTERS) as file:
        return _read(file)


def _read(file: TextIO) -> Traffic:
    """Read the transmit counters of ``lo``: bytes and packets are the ninth and the tenth number of its line."""
    file.seek(0)
    for line in file.read().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            found = numbers.split()
            return Traffic(int(found[8]), int(found[9]))
    raise UsageError(f"{COUNTERS} has no lo: not Linux, or no loopback device")


def run_inside(
    command: Sequence[str], *, timeout: float, environ: Mapping[str, str] | None = None, log: Path | None = None
) -> Ran:
    """Run a command in a network of its own and count what it sends.

    Nothing outlives the call: whatever still runs in the namespace when the command ends, or when its time is up, is
    killed, children in sessions of their own included.

    Args:
        command: what is run; it reads nothing.
        timeout: seconds after which it is killed.
        environ: its whole environment; None for that of this process.
        log: where both output streams go; None keeps the tail only.

    Raises:
        UsageError: no namespace can be made; it says why.
    """
    if reason := why_not():
        raise UsageError(reason)
    with ExitStack() as stack:
        output: BinaryIO = stack.enter_context(_open(log))
        process = _start(command, environ, output)
        stack.callback(process.wait)
        stack.callback(_close, process)
        namespace = _entered(process, output)
        stack.callback(_kill_all, namespace)
        counters = stack.enter_context(open(f"/proc/{process.pid}/net/dev"))  # holds the namespace, too
        began = time.monotonic()
        timed_out = not _let_run(process, timeout)
        seconds = time.monotonic() - began
        _kill_all(namespace)
        code = process.wait()
        return Ran(code, _read(counters), seconds, _tail(output), timed_out)


def _open(log: Path | None) -> BinaryIO:
    return tempfile.TemporaryFile() if log is None else log.open("w+b")  # the caller closes it


def _start(command: Sequence[str], environ: Mapping[str, str] | None, output: BinaryIO) -> subprocess.Popen[bytes]:
    """Start the wrapper; the command itself begins when a line arrives on its standard input."""
    words = enclosed(command, 'read -r go && exec "$@" </dev/null')
    env = None if environ is None else dict(environ)
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=env, start_new_session=True
    )


def _namespace(pid: int | str) -> str:
    """Return the name of a process's network namespace; empty if the process is gone, or not ours to ask."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def _entered(process: subprocess.Popen[bytes], output: BinaryIO) -> str:
    """Wait until the wrapper is in its namespace; return the namespace's name."""
    own = _namespace("self")
    while process.poll() is None:
        if (found := _namespace(process.pid)) not in {"", own}:
            return found
        time.sleep(PAUSE)
    raise UsageError(f"no network namespace: {_tail(output).strip() or f'exit code {process.returncode}'}")


def _let_run(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Let the command begin; return whether it ended in time."""
    assert process.stdin is not None
    try:
        process.stdin.write(b"\n")
        process.stdin.close()
    except BrokenPipeError:  # `ip` failed, and the exit code says so
        return True
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        return False
    return True


def _close(process: subprocess.Popen[bytes]) -> None:
    """End a wrapper that may still wait for its line."""
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()


def _kill_all(namespace: str) -> None:
    """Kill every process in the namespace, and wait until all are gone."""
    deadline = time.monotonic() + KILL_LIMIT
    while pids := [int(name) for name in os.listdir("/proc") if name.isdigit() and _namespace(name) == namespace]:
        if time.monotonic() > deadline:
            raise UsageError(f"processes {pids} cannot be killed")
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(PAUSE)


def _tail(output: BinaryIO) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - 4 * TAIL))
    return output.read().decode(errors="replace")[-TAIL:]
