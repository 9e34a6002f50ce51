"""Bytes that a setting will send in virtual time, and the density at which two settings send equally many.

The sums are those of :mod:`dagrad_bus.lab.network`: payload, header and receipt of every frame, and heartbeats. They hold
while every link takes every frame, so for runs without long delays.
"""

from __future__ import annotations

from dataclasses import replace

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.network import BEAT_RATE, RECEIPT
from dagrad_bus.messages import CHUNK
from dagrad_bus.settings import ExchangeSettings
from dagrad_bus.sim.sizes import DATA_HEAD
from dagrad_bus.workers.launch.forecast import plan_frame


def bytes_a_step(elements: int, settings: ExchangeSettings, near: int, seconds: float) -> float:
    """Return the bytes that a worker with rule ``state`` sends a local step.

    Args:
        elements: of the model.
        settings: of the exchange.
        near: neighbours of the worker.
        seconds: that a step takes; heartbeats are sent by time.
    """
    frame = plan_frame(elements, settings)
    size = frame.payload + DATA_HEAD * max(1.0, -(-frame.payload // CHUNK)) + RECEIPT
    links = min(settings.fanout, near) if settings.fanout else near
    return links * size / settings.interval + BEAT_RATE * seconds


def fit_density(elements: int, settings: ExchangeSettings, wanted: float, near: int, seconds: float) -> float:
    """Return the density at which ``settings`` sends ``wanted`` bytes a step, as nearly as whole blocks allow.

    Args:
        elements: of the model.
        settings: their own density is not looked at.
        wanted: bytes a step, as :func:`bytes_a_step` counts them.
        near: neighbours of the worker.
        seconds: that a step takes.

    Raises:
        UsageError: even one block a frame, or all of them, is more than 5 % off.
    """
    blocks = plan_frame(elements, settings).blocks

    def spent(count: int) -> float:
        return bytes_a_step(elements, replace(settings, density=count / blocks), near, seconds)

    low, high = 1, blocks
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if spent(middle) < wanted else (low, middle)
    best = min({max(1, low - 1), low}, key=lambda count: abs(spent(count) - wanted))
    if abs(spent(best) - wanted) > 0.05 * wanted:
        raise UsageError(f"no density of block {settings.block}, interval {settings.interval}, fanout "
                         f"{settings.fanout} sends {wanted:.0f} bytes a step: the nearest is {spent(best):.0f}")  # fmt: skip
    return best / blocks
