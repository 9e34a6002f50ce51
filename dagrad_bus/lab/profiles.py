"""Made-up clusters by name: models on accelerators, links, and what goes wrong. Every number has its source.

A profile says how long a step computes and what an exchange costs its training thread; a link says what the network
costs. :func:`costs_of` joins them. Nothing here was measured by this project but what says so: a number is published by
somebody else, counted, or an assumption, and :attr:`Profile.sources` says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.costs import Costs

_SPREAD = 0.05
_HOST_COPY = 2e-10
_SPREAD_SOURCE = "assumption: step times are log-normal with sigma 0.05"


@dataclass(frozen=True, slots=True)
class Profile:
    """One model on one kind of machine."""

    name: str
    title: str
    parameters: int
    batch: int
    """Samples of one worker in a step."""
    throughput: float
    """Samples a second of one worker alone."""
    spread: float
    """Sigma of the logarithm of a step's time."""
    exchange: float
    """Seconds that one step boundary costs the training thread, whatever it sends."""
    exchange_byte: float
    """Seconds that each byte handed over or taken in costs it."""
    sources: Mapping[str, str]
    """Where each number is from."""

    @property
    def compute(self) -> float:
        """Seconds of a step alone, median."""
        return self.batch / self.throughput


PROFILES = {
    "resnet50": Profile(
        name="resnet50",
        title="ResNet-50, ImageNet, one V100 16 GB a worker, mixed precision",
        parameters=25_557_032,
        batch=256,
        throughput=893.09,
        spread=_SPREAD,
        exchange=5.3e-4,
        exchange_byte=_HOST_COPY,
        sources={
            "parameters": "counted: 25 557 032, as of torchvision's resnet50",
            "throughput": "published: 893.09 images/s, 1 GPU of a DGX-1, mixed precision, pytorch 19.10 "
            "(NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5/README.md, revision 3bbe228)",
            "batch": "assumption: 256, that of the same recipe; a smaller batch makes communication weigh more",
            "spread": _SPREAD_SOURCE,
            "exchange": "assumption: 1.55 passes over the model (1.31 to send, 0.24 to mix: docs/benchmarks.md, measured "
            "on a CPU) of 12 bytes an element at 900 GB/s, the V100's memory",
            "exchange_byte": "assumption: a copy over PCIe 3 at 12 GB/s and one on the host at 8 GB/s",
        },
    ),
    "bert-base": Profile(
        name="bert-base",
        title="BERT-base, SQuAD 1.1 (384 tokens), one V100 16 GB a worker, 16 bit",
        parameters=109_482_240,
        batch=12,
        throughput=123.1,
        spread=_SPREAD,
        exchange=2.3e-3,
        exchange_byte=_HOST_COPY,
        sources={
            "parameters": "counted: 109 482 240, as of bert-base-uncased",
            "throughput": "assumption: two epochs of SQuAD 1.1 in 24 min on one V100 16 GB, as users of huggingface's example "
            "reported; about 88 600 windows an epoch make that 123.1 a second; neither number was checked",
            "batch": "assumption: 12, the batch of the same report",
            "spread": _SPREAD_SOURCE,
            "exchange": "assumption: as for resnet50",
            "exchange_byte": "assumption: as for resnet50",
        },
    ),
}


@dataclass(frozen=True, slots=True)
class Wire:
    """A network: what a worker's card moves each way, and how long a message flies."""

    bandwidth: float
    """Bytes a second."""
    latency: float
    """Seconds."""
    source: str


WIRES = {
    "10gbit": Wire(1.25e9, 5e-5, "nominal bandwidth; assumption: 0.05 ms one way, in one rack"),
    "1gbit": Wire(1.25e8, 2e-4, "nominal bandwidth; assumption: 0.2 ms one way, in one building"),
    "100mbit": Wire(1.25e7, 1e-2, "nominal bandwidth; assumption: 10 ms one way, between sites"),
}


def find_profile(name: str, known: Mapping[str, Profile] | None = None) -> Profile:
    """Return a profile by name.

    Args:
        name: of it.
        known: more of them, a calibrated one for instance.

    Raises:
        UsageError: there is none.
    """
    all_known = {**PROFILES, **(known or {})}
    if name not in all_known:
        raise UsageError(f"no profile {name!r}: there are {', '.join(all_known)}")
    return all_known[name]


def find_wire(name: str) -> Wire:
    """Return a link by name.

    Raises:
        UsageError: there is none.
    """
    if name not in WIRES:
        raise UsageError(f"no link {name!r}: there are {', '.join(WIRES)}")
    return WIRES[name]


def rebatch(profile: Profile, batch: int) -> Profile:
    """Return a profile with another batch at the same throughput, which small batches do not reach in truth."""
    assumed = {"batch": f"assumption: {batch}, asked for; samples a second stay what they are"}
    return replace(profile, batch=batch, sources={**profile.sources, **assumed})


def costs_of(
    profile: Profile, wire: Wire, *, stragglers: Sequence[int] = (), factor: float = 1.0, swing: float = 0.0
) -> Costs:
    """Return what everything costs.

    Args:
        profile: of computing and exchanging.
        wire: of the network.
        stragglers: workers whose steps take longer.
        factor: how many times longer.
        swing: share by which every card's bandwidth swings over time, [0, 1).
    """
    return Costs(
        compute=profile.compute,
        spread=profile.spread,
        slowdown=dict.fromkeys(stragglers, factor),
        exchange=profile.exchange,
        exchange_byte=profile.exchange_byte,
        bandwidth=wire.bandwidth,
        latency=wire.latency,
        swing=swing,
        swing_period=20 * profile.compute,
    )


def draw_stragglers(count: int, workers: int) -> tuple[int, ...]:
    """Return ``count`` workers spread evenly, worker 0 last of all: it serves where a rule has a server.

    Raises:
        UsageError: more of them than workers.
    """
    if not 0 <= count <= workers:
        raise UsageError(f"{count} stragglers of {workers} workers: needs 0 to {workers}")
    return tuple((1 + place * workers // count) % workers for place in range(count)) if count else ()
