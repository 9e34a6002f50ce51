"""What the next frame is to hold: parameters, floating buffers and integer buffers travel in frames of their own.

Statistics of BatchNorm are not like parameters. They are a thousand times as large as weights, so that the largest
changes would mostly be theirs, or a thousandth of their neighbours, so that on a common scale of int8 a variance is
rounded to zero, and the receiver divides by its root. So they have frames to themselves, in a type that is as exact for
small values as for large ones, every eighth time: each worker's own statistics follow its replica within ten batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.blocks import Layout, Stripe
from dagrad_bus.ids import NodeId

INTEGER_PERIOD = 256
"""Every so many exchanges the integer buffers travel instead of parameters."""
BUFFER_PERIOD = 8
"""Every so many exchanges, or more often where they are a larger part of the model, floating buffers travel instead."""

Indices = NDArray[np.int64]
NONE: Indices = np.empty(0, np.int64)


class Turn(Enum):
    """What a frame is about."""

    PARAMETERS = auto()
    BUFFERS = auto()
    INTEGERS = auto()


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A frame to be filled."""

    ready: tuple[NodeId, ...]
    """Links that get it."""
    selected: tuple[NodeId, ...]
    """Links it is meant for, the ready ones included."""
    budget: int
    """Blocks it may hold."""
    turn: Turn
    stripe: Stripe
    """Of parameters; empty at the turn of others."""
    dirty: Indices
    """Repeats, none of them in the stripe."""
    buffers: Indices
    """Blocks of floating buffers at their turn, rising; else none."""

    def forced(self) -> Indices:
        """Return stripe and dirty blocks, distinct, rising."""
        return np.sort(np.concatenate([self.stripe.indices(), self.dirty]))


def whose_turn(layout: Layout, exchange: int, *, integers: bool) -> Turn:
    """Return whose turn an exchange is.

    Args:
        layout: of the replica.
        exchange: its number, from 1.
        integers: whether integer buffers have turns at all.
    """
    if integers and layout.integer_size and exchange % INTEGER_PERIOD == 0:
        return Turn.INTEGERS
    period = buffer_period(layout)
    return Turn.BUFFERS if period and exchange % period == period // 2 else Turn.PARAMETERS


def buffer_period(layout: Layout) -> int:
    """Return from one turn of the floating buffers to the next how many exchanges there are; 0: there are no buffers."""
    if not layout.buffer_blocks:
        return 0
    return min(BUFFER_PERIOD, max(2, layout.blocks // layout.buffer_blocks)) if layout.parameter_blocks else 1


def buffers_of(layout: Layout, exchange: int, most: int) -> Indices:
    """Return the buffers' blocks of an exchange that is their turn: all of them, or the next ``most`` round robin.

    Returns:
        int64, rising.
    """
    size = min(layout.buffer_blocks, most)
    start = exchange // buffer_period(layout) * size
    return np.sort((start + np.arange(size, dtype=np.int64)) % layout.buffer_blocks) + layout.parameter_blocks
