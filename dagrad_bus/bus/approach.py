"""How a visitor finds a live run: by its run folder, or by the address of any worker and the run's key."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.rendezvous import Address, look_up, names_in
from dagrad_bus.settings import TransportSettings
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.wire import is_host

_SEED = re.compile(r"(?:(?P<name>[^@\s]{1,32})@)?(?P<host>\[[^\]]+\]|[^@:\s]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Door:
    """One worker that may be asked."""

    node: NodeId
    """Its id; a made-up one where only the address is known, until it says who it is."""
    inbox: str


@dataclass(frozen=True, slots=True)
class Approach:
    """A run, and where its workers may be found."""

    run: str
    key: bytes
    spec: TopologySpec = field(default_factory=TopologySpec)
    """The graph that it began with, as far as known."""
    folder: Path | None = None
    seeds: tuple[Door, ...] = ()

    def __str__(self) -> str:
        """Return what to call it in a message."""
        return str(self.folder) if self.folder is not None else f"run {self.run}"

    def doors(self) -> list[Door]:
        """Return the workers to ask: seeds first, then those of the folder that are not known to have ended."""
        found = list(self.seeds)
        for name in names_in(self.folder) if self.folder is not None else ():
            address = look_up(self.folder, name) if self.folder is not None else None
            if address is not None and _may_run(address):
                found.append(Door(derive_node_id(self.run, name), address.inbox))
        return list({door.inbox: door for door in found}.values())

    def sockets(self, doors: Sequence[Door]) -> TransportSettings:
        """Return where to listen so that the workers behind ``doors`` can answer: loopback if all of them are there.

        Raises:
            UsageError: a host has no address, or there is no way to it.
        """
        far = [host for door in doors if not _is_loopback(host := host_of(door.inbox))]
        if not far:
            return TransportSettings()
        own = _own_address(far[0])
        return TransportSettings(bind=own)


def from_folder(path: Path, seeds: Sequence[str] = ()) -> Approach:
    """Return the way to the run in a folder.

    Raises:
        UsageError: it is no run folder, or ``seeds`` are none.
    """
    try:
        run: dict[str, Any] = json.loads((path / "run.json").read_text())
        key = (path / "key").read_bytes().strip()
        settings = run.get("settings", {})
        spec = TopologySpec(kind=settings.get("topology", "hash-rings"), degree=settings.get("degree", 4))
        name = str(run["run"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not the folder of a run: {error}") from None
    return Approach(name, key, spec, path, read_seeds(seeds, name))


def read_seeds(texts: Sequence[str], run: str) -> tuple[Door, ...]:
    """Return the workers named by ``NAME@HOST:PORT``, or ``HOST:PORT`` where the name is not known.

    Raises:
        UsageError: something else.
    """
    doors: list[Door] = []
    for text in texts:
        found = _SEED.fullmatch(text.removeprefix("tcp://"))
        if found is None or not is_host(found["host"]) or not 0 < int(found["port"]) < 65536:
            raise UsageError(f"a seed is {text!r}: needs NAME@HOST:PORT or HOST:PORT, the inbox of a worker")
        inbox = f"tcp://{found['host']}:{found['port']}"
        unknown = NodeId(blake2b(inbox.encode(), digest_size=16, person=b"dagrad-door").digest())
        doors.append(Door(derive_node_id(run, found["name"]) if found["name"] else unknown, inbox))
    return tuple(doors)


def host_of(endpoint: str) -> str:
    """Return the host of ``tcp://host:port``, without the brackets of IPv6."""
    return endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _own_address(host: str) -> str:
    """Return this host's address on the way to ``host``; nothing is sent."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UsageError(f"there is no way to {host}: {error.strerror or error}") from None


def _may_run(address: Address) -> bool:
    """Whether a worker on this host still lives; one on another host is asked."""
    if "127.0.0.1" not in address.inbox:
        return True
    try:
        os.kill(address.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
