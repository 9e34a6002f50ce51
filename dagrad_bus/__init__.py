"""dagrad-bus: asynchronous gossip training over ZeroMQ, attached to a plain torch training loop by one line.

Importing the package loads neither torch nor zmq; each name below loads what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagrad_bus.attach.attachment import Attachment, attach
    from dagrad_bus.bus import Bus
    from dagrad_bus.errors import BusError, LayoutMismatch, SettingsError, StartError, UsageError
    from dagrad_bus.settings import ExchangeSettings, Settings, from_environment

__all__ = [
    "Attachment",
    "Bus",
    "BusError",
    "ExchangeSettings",
    "LayoutMismatch",
    "Settings",
    "SettingsError",
    "StartError",
    "UsageError",
    "attach",
    "from_environment",
]

_HOMES = {
    "Attachment": "dagrad_bus.attach.attachment",
    "Bus": "dagrad_bus.bus",
    "BusError": "dagrad_bus.errors",
    "ExchangeSettings": "dagrad_bus.settings",
    "LayoutMismatch": "dagrad_bus.errors",
    "Settings": "dagrad_bus.settings",
    "SettingsError": "dagrad_bus.errors",
    "StartError": "dagrad_bus.errors",
    "UsageError": "dagrad_bus.errors",
    "from_environment": "dagrad_bus.settings",
}


def __getattr__(name: str) -> object:
    """Import what is asked for (PEP 562)."""
    if name == "attach":
        return import_module("dagrad_bus.attach")  # a callable module: the import system binds the name to it anyway
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*globals(), *__all__])
