"""The torch side: optimizer hooks, the flat replica, exchange rules and their kernels. Loaded on first use.

The module itself is callable: ``dagrad_bus.attach`` is this subpackage for the import system and the function
:func:`dagrad_bus.attach.attachment.attach` for the training program, whichever of the two was touched first.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagrad_bus.attach.attachment import Attachment, attach

__all__ = ["Attachment", "attach"]


def __getattr__(name: str) -> object:
    """Import what is asked for (PEP 562), so that importing the package loads no torch."""
    if name in __all__:
        return getattr(import_module("dagrad_bus.attach.attachment"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _CallableModule(ModuleType):
    """A module that can be called."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Attach: see :func:`dagrad_bus.attach.attachment.attach`."""
        return import_module("dagrad_bus.attach.attachment").attach(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
