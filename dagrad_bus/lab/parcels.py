"""What the frames of each rule weigh, computed and not sent: sizes as ``dagrad plan`` computes them.

Rules that send a share of the model (``state``, ``gradient``, ``choco``) send one frame at a time. Rules that send all of
it cut it into frames of at most ``max_frame``: one frame leaves on a link at each step boundary, so a model of many
frames takes many steps to cross, unless the rule waits for it (``sync-ps``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from dagrad_bus.blocks import LARGE_BLOCK
from dagrad_bus.settings import ExchangeSettings, RuleName
from dagrad_bus.workers.launch.forecast import plan_frame

Simulated = RuleName | Literal["all-reduce"]
"""Every rule, and a reference that is none: synchronous SGD with a ring all-reduce, as other systems do it."""
SPARSE: frozenset[str] = frozenset({"state", "gradient", "choco"})
"""Rules whose frame is a share of the model."""
DENSE_F32: frozenset[str] = frozenset({"sync-ps", "async-ps", "gossip-dense"})
"""Rules whose frames are dense float32. The laboratory sends them raw unless a codec is asked for: compressing them, to four
fifths, takes longer than loopback does, and the step of a barrier waits for it."""
WAITING: frozenset[str] = frozenset({"sync-ps", "all-reduce"})
"""Rules that wait for everybody at every step."""
RANGE_BYTES = 12
"""Bytes of the block numbers of one range."""


@dataclass(frozen=True, slots=True)
class Parcels:
    """What carries one exchange to one peer: ``parts`` frames of ``size`` bytes, headers included."""

    size: float
    parts: int

    @property
    def total(self) -> float:
        """Bytes of all frames."""
        return self.size * self.parts


def usual_codec(rule: str) -> str:
    """Return the codec that the laboratory's runs of a rule take, unless one is asked for."""
    return "raw" if rule in DENSE_F32 else "auto"


@lru_cache(maxsize=256)
def parcels_of(
    rule: Simulated, parameters: int, exchange: ExchangeSettings, codec: str = "", max_frame: int = 8 << 20
) -> Parcels:
    """Return what one exchange of ``rule`` with one peer weighs.

    Args:
        rule: its name.
        parameters: size P of the model.
        exchange: density, block and value type; rules that send everything look at the block only.
        codec: compression of frames, as a run takes it; measured on random weights. Empty: :func:`usual_codec`.
        max_frame: bytes of a payload at most.
    """
    codec = codec or usual_codec(rule)
    if rule in {"local", "all-reduce"}:
        return Parcels(0.0, 0)
    if rule in SPARSE:
        return Parcels(plan_frame(parameters, exchange, codec=codec, max_frame=max_frame).size, 1)
    wire: Literal["int8", "f32"] = "int8" if rule == "gossip-qsgd" else "f32"
    block = exchange.block if rule == "gossip-qsgd" and exchange.block else LARGE_BLOCK
    whole = replace(exchange, density=1.0, block=block, wire=wire, refresh=0.0)
    frame = plan_frame(parameters, whole, codec=codec, max_frame=max_frame)
    parts = -(-frame.blocks // frame.count)
    values = (frame.value_bytes + frame.scale_bytes) / frame.count * frame.blocks
    return Parcels(values * frame.compressed / parts + frame.header_bytes + RANGE_BYTES, parts)
