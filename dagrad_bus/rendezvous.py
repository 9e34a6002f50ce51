"""Where the others are: each worker tells its address at a place that all of them know.

That place is a folder with one small file a worker, written under a temporary name and renamed, so that a reader sees
a whole file or none; a restarted worker replaces its own. Other places are a :class:`Rendezvous` too.
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from dagrad_bus.errors import DiskFull, StartError, UsageError
from dagrad_bus.topology.static import MAX_DOCUMENT, StaticGraph, parse

_ENDPOINT = re.compile(r"tcp://[^\s/]+:\d{1,5}")
_MAX_FILE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where one worker process listens."""

    name: str
    pid: int
    epoch: int
    inbox: str
    beat: str


class Rendezvous(Protocol):
    """A place where addresses are told. Every method may block: call them beside the loop.

    All of them raise RendezvousLost once the place is gone for good: membership carries on without it.
    """

    @property
    def place(self) -> str:
        """What it is, for messages."""
        ...

    def publish(self, address: Address) -> None:
        """Tell this worker's address; it replaces an earlier one of the same name."""
        ...

    def look_up(self, name: str) -> Address | None:
        """Return the address of worker ``name``, or None while there is none (or none that makes sense)."""
        ...

    def names(self) -> list[str]:
        """Return the names of all that told an address, sorted."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that all workers see, as a :class:`Rendezvous`."""

    path: Path

    @property
    def place(self) -> str:
        """Its path."""
        return str(self.path)

    def publish(self, address: Address) -> None:
        """See :func:`publish`."""
        publish(self.path, address)

    def look_up(self, name: str) -> Address | None:
        """See :func:`look_up`."""
        return look_up(self.path, name)

    def names(self) -> list[str]:
        """See :func:`names_in`."""
        return names_in(self.path)


def publish(folder: Path, address: Address) -> None:
    """Write this worker's address for the others.

    Raises:
        DiskFull: there is no room.
        StartError: the folder cannot be written for another reason. Both messages name it and the cause.
    """
    target = folder / "peers" / f"{address.name}.json"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(encode(address))
        temporary.replace(target)
    except OSError as error:
        kind = DiskFull if error.errno in {errno.ENOSPC, errno.EDQUOT} else StartError
        raise kind(f"cannot write {target}: {error.strerror}") from None


def names_in(folder: Path) -> list[str]:
    """Return the names of all workers that published an address, sorted."""
    try:
        return sorted(path.stem for path in (folder / "peers").glob("*.json"))
    except OSError:  # no descriptor left; they are looked for again
        return []


def find_graph(folder: Path, digest: bytes) -> StaticGraph | None:
    """Return the graph document that ``digest`` names, or None while it is not there (or is damaged)."""
    try:
        with (folder / "graphs" / f"{digest.hex()}.json").open("rb") as file:
            found = parse(file.read(MAX_DOCUMENT + 1))
    except (OSError, UsageError):
        return None
    return found if found.digest == digest else None


def look_up(folder: Path, name: str) -> Address | None:
    """Return the address of worker ``name``, or None while there is none (or none that makes sense)."""
    try:
        with (folder / "peers" / f"{name}.json").open("rb") as file:
            text = file.read(_MAX_FILE)
    except OSError:
        return None
    return decode(text, name)


def encode(address: Address) -> bytes:
    """Return an address as it is written down."""
    return json.dumps(asdict(address)).encode()


def decode(text: bytes, name: str) -> Address | None:
    """Return the address of worker ``name`` that ``text`` holds, or None if it makes no sense."""
    try:
        given = json.loads(text)
        found = Address(
            name=str(given["name"]),
            pid=int(given["pid"]),
            epoch=int(given["epoch"]),
            inbox=str(given["inbox"]),
            beat=str(given["beat"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    makes_sense = found.name == name and all(_ENDPOINT.fullmatch(end) for end in (found.inbox, found.beat))
    return found if makes_sense else None
