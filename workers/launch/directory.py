"""Addresses of workers, carried between hosts that share no folder: the launcher's folder is where all of them meet.

What a remote agent reports is written there, and what stands there, whoever wrote it, is handed to every other remote
host. Written graphs travel likewise. Workers that have met need none of it any more: members tell each other.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dagrad_bus.errors import StartError
from dagrad_bus.rendezvous import decode, look_up, publish
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.orders import Addresses, Graph, Order

_BATCH = 256
"""Entries of one order."""
_REST = 2.0
"""Seconds after a change of a folder in which another one might not show: file systems round times."""
_PART = 512 << 10
"""Bytes of a graph in one order: base64 and the rest stay below the longest line."""


class Directory:
    """What stands in the launcher's folder, and what each host was told of it."""

    def __init__(self, folder: RunFolder) -> None:
        self._peers = folder.path / "peers"
        self._graphs = folder.path / "graphs"
        self._folder = folder.path
        self._told: dict[str, dict[str, tuple[int, int]]] = {}
        """By host and file name: inode and time of change of what it was told."""

    def publish(self, names: Sequence[str], entry: dict[str, Any]) -> None:
        """Write an address that the agent of ``names`` reports; a wrong or an older one is left out."""
        name = str(entry.get("name"))
        found = decode(json.dumps(entry).encode(), name) if name in names else None
        if found is None:
            return
        before = look_up(self._folder, found.name)
        if before is None or before.epoch < found.epoch:
            with suppress(StartError):  # a full disk: those who have met need it no more
                publish(self._folder, found)

    def has(self, name: str) -> bool:
        """Whether a worker has published its address."""
        return look_up(self._folder, name) is not None

    def forget(self, host: str) -> None:
        """Tell a host everything anew: it may be a new agent with an empty folder."""
        self._told.pop(host, None)

    def news_for(self, host: str, own: Sequence[str]) -> Iterator[Order]:
        """Yield the orders that bring a host up to date; its own workers it knows."""
        told = self._told.setdefault(host, {})
        entries: dict[str, dict[str, Any]] = {}
        for path in _changed(self._peers, told):
            if path.stem in own:
                continue
            if (address := look_up(self._folder, path.stem)) is not None:
                entries[path.stem] = asdict(address)
            if len(entries) == _BATCH:
                yield Addresses(entries=entries)
                entries = {}
        if entries:
            yield Addresses(entries=entries)
        for path in _changed(self._graphs, told):
            yield from _parts(path)


def _changed(folder: Path, told: dict[str, tuple[int, int]]) -> list[Path]:
    """Return the files that are new or were replaced since they were told, and take note of them.

    A file that is added or replaced changes its folder: where that has rested since the last look nothing is new.
    """
    found: list[Path] = []
    with suppress(OSError):
        changed = folder.stat().st_mtime_ns
        mark = (int(time.time() - changed / 1e9 > _REST), changed)
        if mark[0] and told.get(folder.name) == mark:
            return []
        told[folder.name] = mark
        for path in sorted(folder.glob("*.json")):
            with suppress(OSError):
                stat = path.stat()
                mark = (stat.st_ino, stat.st_mtime_ns)
                key = f"{folder.name}/{path.name}"
                if told.get(key) != mark:
                    told[key] = mark
                    found.append(path)
    return found


def _parts(path: Path) -> Iterator[Graph]:
    with suppress(OSError):
        document = path.read_bytes()
        for at in range(0, len(document), _PART):
            data = base64.b64encode(document[at : at + _PART]).decode()
            yield Graph(digest=path.stem, at=at, size=len(document), data=data)
