"""What can be trained: a line a workload.

A new program needs the flags of the digits program, under any names, and must log its accuracy and say
``step N ... accuracy A`` after each evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dagrad_bus.errors import UsageError

FLAGS = {name: f"--{name.replace('_', '-')}" for name in (
    "lr", "seed", "steps", "batch", "shards", "report", "pace", "settle", "sleep", "eval_every", "model", "data_dir",
)}  # fmt: skip
"""What the bench tells every program, and how the digits program calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One training program and what is known about it."""

    module: str
    """Run as ``python -m``."""
    models: tuple[str, ...]
    """Sizes it has; the first is the default."""
    batch: int
    """Samples of each worker in a step."""
    steps: int
    """Steps of each worker."""
    pace: float
    """Seconds that a step takes at least, for eight workers on two cores."""
    rates: tuple[float, ...]
    """Learning rates to choose from."""
    schedule: str = ""
    """Of the rate, for a program that has a choice."""
    pair_seeds: tuple[int, ...] = ()
    """Seeds beyond 0 to 2 by which ``state`` and ``sync-ps`` are judged: as many as the time allows."""
    unit: str = "samples"
    """What a throughput counts."""
    virtual: Mapping[str, str] = field(default_factory=dict[str, str])
    """Model: the task of :mod:`dagrad_bus.lab.task` that is the same; a model without one is tuned on processes."""
    shards: tuple[str, ...] = ("iid", "dirichlet", "sorted")
    """How its data can be spread over the workers."""
    data: str = ""
    """The command that makes its data in a folder; empty: it needs none."""
    fixed: tuple[str, ...] = ()
    """Words that its program always gets."""
    flags: Mapping[str, str] = field(default_factory=lambda: FLAGS)

    def words(self, values: Mapping[str, object]) -> list[str]:
        """Return flags of the program.

        Raises:
            UsageError: the program has no such flag.
        """
        unknown = sorted(set(values) - set(self.flags))
        if unknown:
            raise UsageError(f"{self.module} has no flag for {', '.join(unknown)}")
        return [*self.fixed, *(word for name, value in values.items() for word in (self.flags[name], str(value)))]


WORKLOADS: dict[str, Workload] = {
    "digits": Workload(
        module="dagrad_bus.workers.digits",
        models=("mlp", "conv"),
        batch=32,
        steps=150,
        pace=0.05,
        rates=(0.02, 0.05, 0.1, 0.2, 0.4),
        schedule="wsd",
        pair_seeds=(3, 4, 5, 6, 7, 8, 9),
        flags=FLAGS | {"schedule": "--schedule"},
        unit="images",
        virtual={"mlp": "digits-mlp", "conv": "digits-conv"},
    ),
    "spam": Workload(
        module="dagrad_bus.workers.glue",
        models=("small", "base"),
        batch=16,
        steps=150,
        pace=0.5,
        rates=(3e-4, 1e-3, 3e-3),
        unit="mails",
        shards=("iid", "dirichlet", "sorted", "groups"),
        data="python -m dagrad_bus.workers.glue --fetch DIR",
        fixed=("--task", "spam", "--length", "64", "--eval-limit", "500"),
        flags=FLAGS | {"model": "--size"},
    ),
    "images": Workload(
        module="dagrad_bus.workers.imagenet",
        models=("small", "base"),
        batch=32,
        steps=100,
        pace=0.35,
        rates=(0.02, 0.05, 0.1, 0.2),
        unit="images",
        data="python -m dagrad_bus.workers.imagenet --make-data DIR",
        flags=FLAGS | {"model": "--size"},
    ),
}


def find_workload(name: str) -> Workload:
    """Return a workload.

    Raises:
        UsageError: no such one.
    """
    if name not in WORKLOADS:
        raise UsageError(f"no workload {name!r}: there are {', '.join(WORKLOADS)}")
    return WORKLOADS[name]
