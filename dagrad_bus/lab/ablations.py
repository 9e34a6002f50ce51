"""Studies that vary one setting at a time, as data: which runs, under which names, on which axis.

All runs are in virtual time with real training (:mod:`dagrad_bus.lab.experiment`). What a study concludes is not written
here: tables and figures say it, for the machine and the version they were made with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal

from torch import nn

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.budget import bytes_a_step, fit_density
from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.experiment import Experiment
from dagrad_bus.lab.task import MODELS
from dagrad_bus.settings import ExchangeSettings
from dagrad_bus.workers.problem import Report, ScheduleName
from dagrad_bus.workers.shards import Kind

Axis = Literal["names", "value", "bytes"]
BOTH: tuple[Kind, ...] = ("iid", "sorted")
ALL: tuple[Kind, ...] = ("sorted", "dirichlet", "iid")
COSTS = Costs(compute=0.05, spread=0.1, latency=0.002)
TAIL = Costs(compute=0.05, spread=0.1, latency=0.05, tail=0.3, tail_index=1.1)
"""Flights of 0.3 s in the median, six steps, and sometimes of many seconds."""
EXCHANGE = ExchangeSettings()
SLOWER, EVERY = 4.0, 4
"""A straggler's steps take so many times as long; one worker in so many is one."""
PATIENCE = 60.0
"""Virtual seconds that fast workers go on mixing beside stragglers: all are compared after all their steps."""
REFERENCE_RATES = (0.1, 0.2, 0.4)
LENGTHS, LONG_RATES = (1, 2, 4), (0.1, 0.2)
"""Times the steps of the others that the runs take which ask what length does, and their rates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large every run is."""

    task: str = "digits-mlp"
    workers: int = 8
    steps: int = 150
    report: Report = "val"

    def __post_init__(self) -> None:
        """Check what no experiment checks in time."""
        if self.task not in MODELS:
            raise UsageError(f"no task {self.task!r}: there are {', '.join(MODELS)}")
        if self.workers < 2:
            raise UsageError(f"{self.workers} workers: an exchange needs at least 2")

    @property
    def elements(self) -> int:
        """Return the parameters of the task's model."""
        return sum(parameter.numel() for parameter in _parameters(MODELS[self.task](0)))

    @property
    def base(self) -> Experiment:
        """Return what every study starts from."""
        return Experiment(
            task=self.task, workers=self.workers, steps=self.steps, report=self.report, lr=0.1, exchange=EXCHANGE,
            costs=COSTS,
        )  # fmt: skip


def _parameters(model: nn.Module) -> list[nn.Parameter]:
    return list(model.parameters())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of a study: runs that differ in their seed only."""

    group: str
    """Its panel."""
    label: str
    value: float | None = None
    """Its place on an axis of numbers."""
    reference: bool = False
    """Whether others of its group are compared with it; of several references the best counts."""
    experiment: Experiment

    def runs(self, seeds: int) -> list[Experiment]:
        """Return one experiment a seed, from 0."""
        return [replace(self.experiment, seed=seed) for seed in range(seeds)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One question."""

    name: str
    title: str
    question: str
    axis: Axis = "names"
    """What a panel's other axis shows, beside accuracy: names of settings, their values, or bytes measured."""
    axis_label: str = ""
    log: bool = False
    equal_bytes: bool = True
    """Whether the cells of a group are meant to cost the same bytes."""
    note: str = ""
    """What a reader must know."""
    cells: Sequence[Cell] = field(default_factory=tuple[Cell, ...])


def vary(base: Experiment, exchange: Mapping[str, Any] | None = None, **changes: Any) -> Experiment:
    """Return ``base`` with other settings of the exchange, and other fields of its own."""
    return replace(base, exchange=replace(base.exchange, **(exchange or {})), **changes)


def shards_name(kind: str) -> str:
    """Return the title of a panel."""
    return {"iid": "IID shards", "sorted": "label-sorted shards", "dirichlet": "Dirichlet(0.1) shards"}[kind]


def _near(base: Experiment) -> int:
    return min(base.degree, base.workers - 1)


def _spent(scale: Scale, settings: ExchangeSettings) -> float:
    return bytes_a_step(scale.elements, settings, _near(scale.base), scale.base.costs.compute)


def _fitted(scale: Scale, settings: ExchangeSettings, wanted: float) -> ExchangeSettings:
    found = fit_density(scale.elements, settings, wanted, _near(scale.base), scale.base.costs.compute)
    return replace(settings, density=found)


def _grid(
    scale: Scale, rows: Sequence[tuple[str, float | None, ExchangeSettings]], shards: Sequence[Kind] = BOTH
) -> tuple[Cell, ...]:
    """Return the cells of some settings on some shards."""
    return tuple(
        Cell(
            group=shards_name(kind),
            label=label,
            value=value,
            experiment=replace(scale.base, shards=kind, exchange=exchange),
        )
        for kind in shards
        for label, value, exchange in rows
    )


def make_defaults(scale: Scale) -> Study:
    """Return the gap to synchronous training, for the settings that were and are the defaults."""
    rows: dict[str, dict[str, Any]] = {
        "w0 0.65, bf16, density 0.01": {"w0": 0.65, "wire": "bf16", "density": 0.01},
        "w0 0.85, bf16, density 0.01": {"w0": 0.85, "wire": "bf16", "density": 0.01},
        "w0 0.9, int8, density 0.01": {"density": 0.01},
        "w0 0.9, int8, density 0.015": {},
    }
    rows |= {f"B = 64, {name}": set_ | {"block": 64} for name, set_ in rows.items()}
    cells: list[Cell] = []
    for kind in ALL:
        base, group = replace(scale.base, shards=kind), shards_name(kind)
        cells += _references(base, group, REFERENCE_RATES)
        cells += [Cell(group=group, label=label, experiment=vary(base, set_)) for label, set_ in rows.items()]
    return Study(
        name="defaults", title="The gap to synchronous training", equal_bytes=False, cells=tuple(cells),
        question="How far behind synchronous training with a server are the default settings, and which do best?",
        note="Synchronous training counts at the best of its three learning rates; all others have rate 0.1.",
    )  # fmt: skip


def _references(base: Experiment, group: str, rates: Sequence[float]) -> list[Cell]:
    """Return synchronous training at some rates, of which the best counts."""
    return [
        Cell(group=group, label=f"sync-ps, rate {rate:g}", reference=True,
             experiment=vary(base, {"rule": "sync-ps"}, lr=rate))
        for rate in rates
    ]  # fmt: skip


def make_length(scale: Scale) -> Study:
    """Return what long runs need: few bytes a step, as every element is sent often enough in all."""
    cells: list[Cell] = []
    few: dict[Kind, dict[str, Any]] = {"sorted": {"density": 0.01}, "iid": {"density": 0.01, "interval": 4}}
    for (kind, set_), factor in product(few.items(), LENGTHS):
        base = replace(scale.base, steps=factor * scale.steps, shards=kind)
        group = f"{shards_name(kind).removesuffix(' shards')}, {base.steps} steps"
        cells += _references(base, group, REFERENCE_RATES)
        cells += [
            Cell(group=group, label=f"{name}, rate {rate:g}", experiment=vary(base, exchange, lr=rate))
            for name, exchange in (("defaults", {}), ("few bytes", set_))
            for rate in LONG_RATES
        ]
    return Study(
        name="length", title="Length of the run", equal_bytes=False, cells=tuple(cells),
        question="How far behind synchronous training are few bytes a step, in short runs and in long ones?",
        note="Few bytes: density 0.01, and on IID shards a frame at every 4th step only. Of the bytes of synchronous dense "
        "training that is about 1 % on label-sorted shards and a quarter of it on IID ones.",
    )  # fmt: skip


def make_schedule(scale: Scale) -> Study:
    """Return the schedules of the rate, each at several rates, as they bear different ones."""
    schedules: tuple[ScheduleName, ...] = ("cosine", "wsd")
    cells = [
        Cell(
            group=f"{shards_name(kind).removesuffix(' shards')}, {rule}", label=f"{schedule}, rate {rate:g}",
            experiment=vary(replace(scale.base, shards=kind), {"rule": rule}, lr=rate, schedule=schedule),
        )
        for kind in BOTH for rule in ("sync-ps", "state") for schedule in schedules for rate in REFERENCE_RATES
    ]  # fmt: skip
    return Study(
        name="schedule", title="Schedule of the learning rate", equal_bytes=False, cells=tuple(cells),
        question="Does a rate that stays high and falls late (wsd) learn more in a short run than a cosine?",
    )  # fmt: skip


def make_w0(scale: Scale) -> Study:
    """Return the weight of a version against the own value."""
    rows = [(f"w0 {w0:g}", w0, replace(EXCHANGE, w0=w0)) for w0 in (0.5, 0.65, 0.8, 0.85, 0.9, 0.95)]
    return Study(
        name="w0", title="Weight of a version", axis="value", axis_label="w0, the weight of one version of typical age",
        question="How much should a received value weigh against the own one?", cells=_grid(scale, rows),
    )  # fmt: skip


def make_wire(scale: Scale) -> Study:
    """Return value types, at one density and at one number of bytes."""
    bf16 = replace(EXCHANGE, wire="bf16")
    rows = [
        ("f32", None, replace(EXCHANGE, wire="f32")),
        ("bf16", None, bf16),
        ("f16", None, replace(EXCHANGE, wire="f16")),
        ("int8", None, EXCHANGE),
        ("int8, bytes of bf16", None, _fitted(scale, EXCHANGE, _spent(scale, bf16))),
    ]
    return Study(
        name="wire", title="Value type on the wire", equal_bytes=False, cells=_grid(scale, rows),
        question="Does a narrower value type cost accuracy, and do more values make up for it at equal bytes?",
        note=f"Density {EXCHANGE.density:g} but in the last row, whose density is chosen so that it sends the bytes of bf16.",
    )  # fmt: skip


def make_budget(scale: Scale) -> Study:
    """Return density against fan-out against interval."""
    wanted = _spent(scale, EXCHANGE)
    variants: dict[str, dict[str, Any]] = {
        "all neighbours, each step": {}, "2 neighbours, each step": {"fanout": 2}, "1 neighbour, each step": {"fanout": 1},
        "all, every 2nd step": {"interval": 2}, "all, every 4th step": {"interval": 4},
        "all, every 8th step": {"interval": 8},
    }  # fmt: skip
    found = [(name, _fitted(scale, replace(EXCHANGE, **set_), wanted)) for name, set_ in variants.items()]
    rows = [(f"{name}, density {settings.density:.3f}", None, settings) for name, settings in found]
    return Study(
        name="budget", title="Density, fan-out and interval", cells=_grid(scale, rows),
        question="The same bytes: small frames to many often, or large frames to few or seldom?",
        note="Densities are chosen so that headers and receipts are paid for too: few large frames save some of them.",
    )  # fmt: skip


def make_frontier(scale: Scale) -> Study:
    """Return bytes against accuracy."""
    rows = [(f"density {d:g}", d, replace(EXCHANGE, density=d)) for d in (0.0025, 0.005, 0.01, 0.015, 0.03)]
    return Study(
        name="frontier", title="Bytes against accuracy", axis="bytes", log=True, equal_bytes=False,
        axis_label="bytes a worker and step, % of synchronous dense training (log)", cells=_grid(scale, rows),
        question="What does accuracy cost in bytes?",
    )  # fmt: skip


AGE_ROWS: dict[str, dict[str, Any]] = {
    "power 1, tau automatic": {"age_power": 1.0},
    "off": {"age_power": 0.0},
    "power 1, tau 1": {"age_power": 1.0, "tau": 1.0},
    "power 2, tau automatic": {"age_power": 2.0},
}
_FEW = tuple(AGE_ROWS)[:2]
_ALL = tuple(AGE_ROWS)


def make_age(scale: Scale) -> Study:
    """Return the weight of old versions, with and without delay."""
    places = range(EVERY - 1, scale.workers, EVERY) or (scale.workers - 1,)
    slow = replace(COSTS, slowdown=dict.fromkeys(places, SLOWER))
    conditions: list[tuple[str, Kind, Costs, Sequence[str]]] = [
        ("heavy-tailed delays", "sorted", TAIL, _ALL),
        ("heavy-tailed delays", "iid", TAIL, _ALL),
        ("1 worker in 4 is 4x slower", "sorted", slow, _ALL),
        ("1 worker in 4 is 4x slower", "iid", slow, _FEW),
        ("no delay", "sorted", COSTS, _FEW),
    ]
    cells = tuple(
        Cell(
            group=f"{name}, {shards_name(kind)}",
            label=row,
            experiment=vary(
                scale.base, AGE_ROWS[row], shards=kind, costs=costs, linger=PATIENCE if costs.slowdown else 5.0
            ),
        )
        for name, kind, costs, rows in conditions
        for row in rows
    )
    return Study(
        name="age", title="Weight of old versions", cells=cells,
        question="Does it pay to let old versions count less, and where?",
        note=f"Flights of heavy-tailed delays take {TAIL.latency:g} s and {TAIL.tail:g} s times a Pareto number of index "
        f"{TAIL.tail_index:g} (infinite variance); a step takes {TAIL.compute:g} s. Beside stragglers, the others go on "
        "mixing until all have done their steps.",
    )  # fmt: skip


def make_choice(scale: Scale) -> Study:
    """Return whom a frame goes to."""
    one = {"fanout": 1, "density": scale.base.degree * EXCHANGE.density}
    cells = tuple(
        Cell(
            group=f"{shards_name(kind)}, 1 of {'the neighbours' if graph == 'hash-rings' else 'all members'}",
            label=choice,
            experiment=vary(scale.base, {**one, "choice": choice}, shards=kind, topology=graph),
        )
        for graph, kind, choice in product(("hash-rings", "complete"), ALL, ("random", "complementary", "similar"))
        if not (kind == "iid" and choice == "similar")  # a control, for where workers differ
    )
    return Study(
        name="choice", title="Whom a frame goes to", cells=cells,
        question="Does it pay to send to peers that train unlike oneself?",
        note=f"Each step one frame of density {one['density']:g} to one peer, however it is chosen.",
    )  # fmt: skip


def make_block(scale: Scale) -> Study:
    """Return elements a block, at equal bytes."""
    coarse = replace(EXCHANGE, block=64, density=0.02)
    wanted = _spent(scale, coarse)
    found = [_fitted(scale, replace(EXCHANGE, block=block), wanted) for block in (1, 8, 16, 64)]
    rows = [(f"B = {found.block}, density {found.density:.4f}", float(found.block), found) for found in found]
    return Study(
        name="block", title="Elements a block", axis="value", axis_label="B, elements a block (log)", log=True,
        question="The same bytes: single elements with their places, or whole blocks?", cells=_grid(scale, rows),
    )  # fmt: skip


def make_refresh(scale: Scale) -> Study:
    """Return the share of each frame that goes round robin."""
    names = {0.0: "0", 1 / 16: "1/16", 1 / 4: "1/4", 1 / 2: "1/2", 1.0: "1"}
    rows = [(f"refresh {name}", share, replace(EXCHANGE, refresh=share)) for share, name in names.items()]
    return Study(
        name="refresh", title="Refresh stripe", axis="value", axis_label="share of a frame that goes round robin",
        question="How much of a frame should go round robin over the whole model?", cells=_grid(scale, rows),
    )  # fmt: skip


STUDIES: dict[str, Callable[[Scale], Study]] = {
    "defaults": make_defaults, "length": make_length, "schedule": make_schedule, "w0": make_w0,
    "wire": make_wire, "budget": make_budget, "frontier": make_frontier,
    "age": make_age, "choice": make_choice, "block": make_block, "refresh": make_refresh,
}  # fmt: skip
"""In the order in which they run."""


def make_study(name: str, scale: Scale) -> Study:
    """Return a study.

    Raises:
        UsageError: no such one.
    """
    if name not in STUDIES:
        raise UsageError(f"no study {name!r}: there are {', '.join(STUDIES)}")
    return STUDIES[name](scale)
