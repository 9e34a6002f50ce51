"""Where the others are: one small file a worker in a folder all of them see.

Written under a temporary name and renamed, so a reader sees a whole file or none. A restarted worker replaces its own.
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

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
        temporary.write_text(json.dumps(asdict(address)))
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
            given = json.loads(file.read(_MAX_FILE))
        found = Address(
            name=str(given["name"]),
            pid=int(given["pid"]),
            epoch=int(given["epoch"]),
            inbox=str(given["inbox"]),
            beat=str(given["beat"]),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    makes_sense = found.name == name and all(_ENDPOINT.fullmatch(end) for end in (found.inbox, found.beat))
    return found if makes_sense else None
