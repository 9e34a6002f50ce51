"""Eight bytes that say in which direction a worker's own training moves it: a SimHash.

Two workers that learn from like data move alike. What is hashed is the *own* change: what the local optimizer did to
the parameters, in a sum that forgets (:data:`SPAN` steps), and nothing of what mixing did, which all members share.
It is followed at up to :data:`COORDINATES` coordinates; their projections on 64 random directions give one sign each::

    own    <- (1 - 1 / SPAN) own + (x before this mixing - x after the last one)     at the coordinates
    bit_i   = (direction_i . own) >= 0
    cosine ~= cos(pi * differing bits / 64)

Coordinates and directions come from the layout's digest by SHAKE-128, so they are the same on every machine and with
every library. At a true cosine of 0 one estimate is off by 0.2 (one standard deviation): good to tell groups apart,
not to order a few peers.

Source: Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import shake_128

import numpy as np
from numpy.typing import NDArray

BITS = 64
LENGTH = BITS // 8
"""Bytes of a sketch."""
COORDINATES = 4096
"""Coordinates that are followed, at most."""
SPAN = 20
"""Steps over which own change is remembered: the weight of a step falls by 1 / SPAN with each later one."""


class Projection:
    """Where a model is looked at, and on what its change is projected: a function of the layout alone.

    Args:
        digest: of the layout.
        size: elements of the layout, from 1.
    """

    def __init__(self, digest: bytes, size: int) -> None:
        if size <= COORDINATES:
            self.positions: NDArray[np.int64] = np.arange(size, dtype=np.int64)
        else:
            drawn = np.frombuffer(shake_128(b"dagrad-positions" + digest).digest(8 * COORDINATES), "<u8")
            self.positions = np.unique(drawn % np.uint64(size)).astype(np.int64)
        """int64[m], rising."""
        count = len(self.positions)
        stream = shake_128(b"dagrad-directions" + digest).digest(LENGTH * count)
        signs = np.unpackbits(np.frombuffer(stream, np.uint8)).reshape(BITS, count)
        self._directions = signs.astype(np.float32) * 2 - 1

    def sketch(self, own: NDArray[np.float32]) -> bytes:
        """Return the sketch of ``own``, float32[m]; empty where there is no change, or none that is finite."""
        largest = float(np.abs(own).max(initial=0.0))
        if not 0 < largest < np.inf:  # NaN fails too
            return b""
        return np.packbits(self._directions @ (own / np.float32(largest)) >= 0).tobytes()


def remember(own: NDArray[np.float32], moved: NDArray[np.float32]) -> None:
    """Add one step's own change to the sum that forgets: float32[m] both, ``own`` in place."""
    own *= np.float32(1 - 1 / SPAN)
    own += moved


def is_sketch(sketch: bytes) -> bool:
    """Whether ``sketch`` can be compared: what a peer sent may have any length."""
    return len(sketch) == LENGTH


def cosine(a: bytes, b: bytes) -> float:
    """Return the estimated cosine of two directions by their sketches, 8 bytes each."""
    return float(cosines([a], [b])[0, 0])


def cosines(rows: Sequence[bytes], columns: Sequence[bytes]) -> NDArray[np.float64]:
    """Return float64[n, m], the estimated cosine of each pair of sketches, 8 bytes each."""
    differing = np.bitwise_count(_as_numbers(rows)[:, None] ^ _as_numbers(columns)[None, :])
    alike: NDArray[np.float64] = np.cos(np.pi / BITS * differing.astype(np.float64))
    return alike


def _as_numbers(sketches: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(sketches), np.uint64)
