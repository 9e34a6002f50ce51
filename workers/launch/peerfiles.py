"""What a host is told about the others, and tells about its own: address files and written graphs of its run folder.

The same files as :mod:`dagrad_bus.rendezvous` reads and writes in workers; that module brings numpy along, and an agent
must be there in a fraction of a second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from dagrad_bus.errors import StartError, UsageError
from dagrad_bus.workers.launch.mirror import is_safe
from dagrad_bus.workers.launch.quarters import replace

_LARGEST_ENTRY = 4096
"""Bytes of an address file."""
_LARGEST_GRAPH = 8 << 20
"""Bytes of a written graph; ``topology.static`` reads no more."""


class AddressFiles:
    """Address files of a host: those of its own workers are read, others' are written."""

    def __init__(self, folder: Path) -> None:
        self._peers = folder / "peers"
        self._seen: dict[str, tuple[int, int]] = {}

    def news(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Return what workers ``names`` have published since the last call."""
        found: list[dict[str, Any]] = []
        for name in names:
            path = self._peers / f"{name}.json"
            with suppress(OSError, ValueError, RecursionError):
                status = path.stat()
                mark = (status.st_ino, status.st_mtime_ns)
                if self._seen.get(name) == mark:
                    continue
                self._seen[name] = mark
                entry = _read_entry(path)
                if entry.get("name") == name:
                    found.append(entry)
        return found

    def publish(self, entries: Mapping[str, dict[str, Any]], own: Iterable[str]) -> None:
        """Write where others listen. Own workers' files are left alone, and a newer one is never replaced.

        Raises:
            UsageError: an entry that is no address; those before it are written.
            StartError: the folder cannot be written.
        """
        mine = set(own)
        for name, entry in entries.items():
            epoch, data = entry.get("epoch"), json.dumps(entry).encode()
            if (
                not is_safe(name)
                or entry.get("name") != name
                or not isinstance(epoch, int)
                or len(data) > _LARGEST_ENTRY
            ):
                raise UsageError(f"the entry of {name[:80]!r} is no address")
            path = self._peers / f"{name}.json"
            if name in mine or _epoch(path) >= epoch:
                continue
            try:
                replace(path, data)
            except OSError as error:
                raise StartError(f"cannot write {path}: {error.strerror}") from None


def _read_entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        entry = json.loads(file.read(_LARGEST_ENTRY))
    if not isinstance(entry, dict):
        raise ValueError("no object")  # noqa: TRY004  # the content is wrong, as if it were no JSON
    return cast(dict[str, Any], entry)


def _epoch(path: Path) -> float:
    """Return the epoch in an address file; below all others if there is none."""
    with suppress(OSError, ValueError, RecursionError):
        epoch = _read_entry(path).get("epoch")
        if isinstance(epoch, int):
            return epoch
    return float("-inf")


class GraphFiles:
    """Written graphs, put together from their parts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "graphs"
        self._parts: dict[str, bytearray] = {}

    def add(self, digest: str, at: int, size: int, part: bytes) -> None:
        """Take one part; the last one writes the file. Parts come in order, and a part at 0 begins anew.

        Raises:
            UsageError: a digest that is no hexadecimal number, too large, or a part out of order.
            StartError: the folder cannot be written.
        """
        if not re.fullmatch(r"[0-9a-f]{1,128}", digest):
            raise UsageError(f"graph {digest[:80]!r}: needs a digest in hexadecimal digits")
        if not 0 < size <= _LARGEST_GRAPH:
            raise UsageError(f"graph {digest}: {size} bytes, at most {_LARGEST_GRAPH} are taken")
        if at == 0:
            self._parts[digest] = bytearray()
        held = self._parts.get(digest, bytearray())
        if at != len(held) or at + len(part) > size:
            raise UsageError(f"graph {digest}: a part at byte {at} of {size}, after {len(held)}")
        held += part
        if len(held) < size:
            return
        try:
            self._folder.mkdir(exist_ok=True)
            replace(self._folder / f"{digest}.json", bytes(self._parts.pop(digest)))
        except OSError as error:
            raise StartError(f"cannot write {self._folder}: {error.strerror}") from None
