"""The key-value store that torchrun keeps, as the place where workers tell their addresses.

The agent of torchrun serves it to the processes it started, for as long as it lives. It is needed until the workers
have found each other, and no longer: an operation that fails ends its use for good, as a TCPStore does not reconnect.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from dagrad_bus.errors import RendezvousLost
from dagrad_bus.rendezvous import Address, Rendezvous, decode, encode
from dagrad_bus.settings import Settings

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # re-exported where c10d was built

PATIENCE = 60.0
"""Seconds within which the store must answer the first time: its process may start later."""
T = TypeVar("T")
_log = logging.getLogger("dagrad_bus")


class Store:
    """One prefix of a TCPStore that another process serves. Every method waits for the network.

    Args:
        host: of the process that serves it.
        port: likewise.
        prefix: of all keys used.

    Raises:
        RendezvousLost: nobody answers there.
    """

    def __init__(self, host: str, port: int, prefix: str) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # loaded late: it takes long

        self.place = f"torchstore://{host}:{port}/{prefix}"
        self._prefix = prefix
        self._opened: TCPStore | None = None
        self._opened = self._do(lambda: TCPStore(host, port, is_master=False, timeout=timedelta(seconds=PATIENCE)))

    def _do(self, operation: Callable[[], T]) -> T:
        try:
            return operation()
        except RuntimeError as error:  # what all errors of torch's stores derive from
            self._opened = None
            raise RendezvousLost(f"{self.place}: {str(error).splitlines()[0]}") from None

    @property
    def _store(self) -> TCPStore:
        if self._opened is None:
            raise RendezvousLost(f"{self.place} was lost before")
        return self._opened

    def key(self) -> bytes:
        """Return the run's secret, drawn by whoever asks first."""
        name, drawn = f"{self._prefix}/key", secrets.token_hex(32)
        return bytes(self._do(lambda: self._store.compare_set(name, "", drawn)))

    def publish(self, address: Address) -> None:
        """Tell this worker's address, then its name."""
        self._do(lambda: self._store.set(f"{self._prefix}/peers/{address.name}", encode(address).decode()))
        place = self._do(lambda: self._store.add(f"{self._prefix}/names", 1))
        self._do(lambda: self._store.set(f"{self._prefix}/names/{place}", address.name))

    def look_up(self, name: str) -> Address | None:
        """Return the address of a worker, or None while there is none."""
        found = self._get(f"{self._prefix}/peers/{name}")
        return decode(found, name) if found else None

    def names(self) -> list[str]:
        """Return the names of all that told an address, sorted."""
        count = self._do(lambda: self._store.add(f"{self._prefix}/names", 0))
        found = [self._get(f"{self._prefix}/names/{place}") for place in range(1, count + 1)]
        return sorted({name.decode(errors="replace") for name in found if name})

    def _get(self, key: str) -> bytes | None:
        """Return a value that is there; get() alone would wait for one that is not."""
        return self._do(lambda: bytes(self._store.get(key)) if self._store.check([key]) else None)


def open_rendezvous(settings: Settings) -> tuple[Settings, Rendezvous | None]:
    """Open the store that the settings name, if any; return the settings with the run's secret from it.

    Raises:
        RendezvousLost: there is none at that address, and nothing else to find the others by.
    """
    if settings.meeting_store is None:
        return settings, None
    try:
        store = Store(*settings.meeting_store)
        return (settings if settings.key else replace(settings, key=store.key())), store
    except RendezvousLost as error:
        if not settings.key or (settings.directory is None and not settings.seeds):
            raise
        _log.warning("dagrad-bus: %s: going on without it", error)
        return replace(settings, rendezvous=""), None
