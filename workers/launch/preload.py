"""What a nursery imports before it forks workers."""

from __future__ import annotations

from collections.abc import Sequence

from dagrad_bus.workers.launch.command import Command

DEFAULT_PRELOAD = (
    "numpy",
    "torch",
    "torch._dynamo",
    "zmq",
    "msgpack",
    "uvloop",
    "blosc2",
    "dagrad_bus.attach.attachment",
    "dagrad_bus.handoff",
)
"""What a worker nearly always imports; a module that is missing is left out. Every optimizer imports ``torch._dynamo``, and
the last two what :func:`dagrad_bus.attach` imports where there are peers."""


def choose_preload(command: Command, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the modules a nursery imports before it forks.

    Args:
        command: its own module is added where it belongs to this package, as importing it does nothing else.
        wanted: the user's; commas separate too, ``none`` drops the usual list.
    """
    names = [name for text in wanted for name in text.split(",") if name]
    usual = () if "none" in names else DEFAULT_PRELOAD
    own = (command.target,) if command.kind == "module" and command.target.startswith("dagrad_bus.") and usual else ()
    return tuple(dict.fromkeys([*usual, *own, *(name for name in names if name != "none")]))
