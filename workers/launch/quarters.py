"""Where an agent and its workers live on their host: a folder that nobody else can enter, and what the agent puts there.

::

    BASE/RUN/LABEL/agent.sock      reaches the running agent
    BASE/RUN/LABEL/nursery.lock    held as long as a worker may be left
    BASE/RUN/LABEL/notices.jsonl   what the launcher's copies of logs lack

BASE is ``$DAGRAD_AGENT_BASE`` or ``/tmp/dagrad-UID``; each of the three folders is ours alone (0700). A host that does
not write into the launcher's own run folder has a run folder of its own (``peers``, ``logs``, ``workers``, ...) here.

``/tmp`` belongs to everybody, so a folder that another user has prepared, or a link, is refused.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import socket
import stat
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dagrad_bus.errors import StartError, UsageError
from dagrad_bus.workers.launch.folder import RunFolder

BASE_NAME = "DAGRAD_AGENT_BASE"
"""Environment name of another base folder; it must be short, as the path of a socket is at most 107 bytes."""
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_ATTEMPTS = 5
_LOCK_POLL = 0.05
_FOLDERS = ("peers", "logs", "workers", "graphs")


@dataclass(frozen=True, slots=True)
class Quarters:
    """Paths of one agent."""

    path: Path

    @property
    def socket(self) -> Path:
        """Of the running agent."""
        return self.path / "agent.sock"

    @property
    def lock(self) -> Path:
        """Held by the nursery."""
        return self.path / "nursery.lock"

    @property
    def notices(self) -> Path:
        """What was skipped."""
        return self.path / "notices.jsonl"


def find(run: str, host: str, environ: Mapping[str, str]) -> Quarters:
    """Return where the agent of ``host`` in ``run`` lives, whether or not it does.

    Raises:
        UsageError: a run or host that cannot be the name of a folder.
    """
    for what, name in (("run", run), ("host", host)):
        if not _LABEL.fullmatch(name):
            raise UsageError(f"{what} is {name[:80]!r}: needs letters, digits and any of ._-, at most 64")
    base = Path(environ.get(BASE_NAME) or f"/tmp/dagrad-{os.getuid()}")
    return Quarters(base / run / host)


def prepare(quarters: Quarters) -> None:
    """Make the folder, each level for us alone.

    Raises:
        StartError: it cannot be made, or what stands there is a link, another user's or open to others.
    """
    for attempt in range(_ATTEMPTS):
        try:
            _make(quarters)
        except FileNotFoundError as error:  # another agent of the run has just ended, and removed the folder above
            if attempt == _ATTEMPTS - 1:
                raise StartError(f"cannot make {quarters.path}: {error.strerror}") from None
        except OSError as error:
            raise StartError(f"cannot make {quarters.path}: {error.strerror}") from None
        else:
            return


def _make(quarters: Quarters) -> None:
    run = quarters.path.parent
    for path in (run.parent, run, quarters.path):
        path.mkdir(mode=0o700, parents=path == run.parent, exist_ok=True)
        _check(path)


def _check(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise StartError(f"{path} is no folder (a link is not followed): remove it, or set {BASE_NAME}")
    if found.st_uid != os.getuid():
        raise StartError(f"{path} belongs to user {found.st_uid}: set {BASE_NAME} to a folder of yours")
    if found.st_mode & 0o077:
        raise StartError(f"{path} is open to other users (mode {found.st_mode & 0o777:o}): needs 700")


def furnish(path: Path, *, key: str, roster: Iterable[str]) -> RunFolder:
    """Make a run folder on a host that does not share the launcher's.

    Raises:
        StartError: it cannot be written.
    """
    folder = RunFolder(path)
    try:
        for name in _FOLDERS:
            (path / name).mkdir(exist_ok=True)
        replace(folder.key, f"{key}\n".encode())
        replace(folder.roster, "".join(f"{name}\n" for name in roster).encode())
    except OSError as error:
        raise StartError(f"cannot write {path}: {error.strerror}") from None
    return folder


def clear(quarters: Quarters, names: Iterable[str], *, keep: Iterable[str] = ()) -> None:
    """Remove what the agent and its workers put there, apart from the files ``keep``; then the folders if empty."""
    path = quarters.path
    kept = {path / file for file in keep}
    found = [RunFolder(path).key, RunFolder(path).roster, quarters.notices, path / "logs" / "nursery.log"]
    for name in names:
        found += [path / "logs" / f"{name}.log", path / "logs" / f"{name}.err", path / "workers" / f"{name}.jsonl"]
    found += [*(path / "peers").glob("*.json"), *(path / "graphs").glob("*.json"), quarters.lock]
    for file in found:
        if file not in kept:
            with suppress(OSError):
                file.unlink()
    for place in (*(path / name for name in _FOLDERS), path, path.parent):
        with suppress(OSError):  # not empty: something is kept, or another host's agent lives there
            place.rmdir()


def keep_fresh(quarters: Quarters) -> None:
    """Mark all files as read just now: cleaners of temporary files take what nobody has touched for days.

    When they were written stays, as it tells a worker's address from that of the process before.
    """
    now = time.time_ns()
    for path in (*quarters.path.glob("*"), *quarters.path.glob("*/*")):
        with suppress(OSError):
            os.utime(path, ns=(now, path.lstat().st_mtime_ns), follow_symlinks=False)


def forget_key(quarters: Quarters) -> None:
    """Remove the secret of a run that nobody will come back to."""
    with suppress(OSError):
        RunFolder(quarters.path).key.unlink()


def replace(path: Path, data: bytes) -> None:
    """Write a file for us alone under a temporary name and rename it: a reader sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)


async def take_lock(quarters: Quarters, patience: float) -> int:
    """Wait until no worker of an earlier agent is left; return the descriptor that holds the lock.

    Args:
        quarters: prepared.
        patience: seconds to wait.

    Raises:
        StartError: they are not gone in time, or the file cannot be made.
    """
    try:
        lock = os.open(quarters.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StartError(f"cannot open {quarters.lock}: {error.strerror}") from None
    try:
        async with asyncio.timeout(patience):
            while not _try_lock(lock):  # noqa: ASYNC110  # another process frees it
                await asyncio.sleep(_LOCK_POLL)
    except BaseException as error:
        os.close(lock)
        if isinstance(error, TimeoutError):
            raise StartError(f"workers of an earlier agent of this run are still there ({quarters.path})") from None
        raise
    return lock


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_socket(quarters: Quarters) -> socket.socket:
    """Listen for a launcher that comes back; a socket that a dead agent left behind is replaced.

    Raises:
        StartError: the path is too long, or the folder cannot be written.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            quarters.socket.unlink()
        sock.bind(str(quarters.socket))
        sock.listen(8)
    except OSError as error:
        sock.close()
        raise StartError(f"cannot listen at {quarters.socket}: {error.strerror or error}") from None
    return sock


def remove_socket(quarters: Quarters, inode: int) -> None:
    """Remove the path of a socket unless another agent's has taken its place since."""
    with suppress(OSError):
        if quarters.socket.stat().st_ino == inode:
            quarters.socket.unlink()


def peer_uid(sock: socket.socket) -> int:
    """Return the user of the process at the other end (``SO_PEERCRED``: pid, uid, gid when it connected)."""
    size = struct.calcsize("3i")
    return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])
