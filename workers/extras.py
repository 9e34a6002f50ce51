"""Libraries that only some programs need: imported when asked for, and missed in one clear line."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from dagrad_bus.errors import UsageError


def need(name: str) -> ModuleType:
    """Import a library of the extra ``workloads``.

    Args:
        name: as in ``import``; a part of a library is ``PIL.Image``.

    Raises:
        UsageError: it is not installed; the message says how to get it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        library = {"PIL": "pillow"}.get(name.split(".")[0], name.split(".")[0])
        raise UsageError(f"{library} is missing ({error}): pip install 'dagrad-bus[workloads]'") from error


def load_from_hub(name: str, *words: str) -> Any:  # an untyped library's own object
    """Return a data set of the Hugging Face hub, through the library ``datasets``.

    Args:
        name: of the data set.
        words: further arguments of ``datasets.load_dataset``: the configuration.

    Raises:
        UsageError: no such library here, or the hub does not answer; the message says to pass ``--data-dir``.
    """
    try:
        load: Callable[..., Any] = import_module("datasets").load_dataset
    except ImportError:
        raise UsageError(
            f"{name} comes from the hub by `pip install datasets`; or pass --data-dir with files"
        ) from None
    try:
        return load(name, *words)
    except (OSError, ValueError, RuntimeError) as error:  # offline, unknown, or its licence was not accepted
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UsageError(f"{name} cannot be had from the hub ({first[0]}): pass --data-dir with files") from error
