"""One directed link: sequence numbers, acknowledgement, credit, assembly. Two cores without I/O.

A frame is handed over once and never sent again: frames carry values, so a lost block is read afresh from the model.
What must not be lost is the *knowledge* of the loss, hence a sequence number per frame, a receipt history in every
acknowledgement, and exactly one :class:`~dagrad_bus.events.Outcome` for each (job, link).

Sender (:class:`OutLink`)::

    DOWN        Connected -> GREETING
    GREETING    HelloOk, other edge -> UP (fresh: seq from 1)    HelloOk, same edge and resolved >= used -> UP
                HelloOk, edge 0 | Error -> REFUSED (back-off)    Tick: HELLO again
    UP          no progress, or no credit, for ``stalled`` s -> STALLED
    STALLED     progress -> UP                                   Tick: PING once a second
    REFUSED     back-off over -> GREETING
    any         Broken -> DOWN, its jobs: lost                   nack bad_edge -> GREETING

Receiver (:class:`InLink`), per (node, boot epoch, edge): ``resolved`` is the highest seq with a verdict, ``history``
has bit k set iff seq ``resolved - k`` was accepted, ``credit`` is the highest seq the sender may use. All three are
absolute, so losing or repeating an acknowledgement is harmless. See docs/wire.md.
"""

from dagrad_bus.link.actions import (
    HISTORY,
    Action,
    Assembled,
    Dropped,
    Left,
    LinkUp,
    Rejected,
    Settled,
    Stalled,
)
from dagrad_bus.link.receiver import InLink
from dagrad_bus.link.sender import OutLink, Packed, State

__all__ = [
    "HISTORY",
    "Action",
    "Assembled",
    "Dropped",
    "InLink",
    "Left",
    "LinkUp",
    "OutLink",
    "Packed",
    "Rejected",
    "Settled",
    "Stalled",
    "State",
]
