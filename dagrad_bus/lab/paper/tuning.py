"""Each rule's learning rate: the best of a declared grid, on the validation part, never on the test part.

Few validation samples give many equal accuracies: of those the lower loss counts.

A rule of which no rate beats one at an edge of the grid gets one more beyond that edge, once; the report says where that
happened, and where even the added rate was the best. All rates are tried with the first seed; with the other seeds only the
best two of them, between which the mean over all seeds decides.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Protocol, cast

from dagrad_bus.lab.paper.cells import SETTLE_FACTOR, Cell
from dagrad_bus.lab.paper.measuring import Measure
from dagrad_bus.lab.paper.workloads import find_workload
from dagrad_bus.lab.rates import best_rates
from dagrad_bus.settings import Settings, from_environment
from dagrad_bus.workers.problem import ScheduleName
from dagrad_bus.workers.shards import Kind

TIE = 1e-4
"""Accuracy that one nat of loss is worth: less than one sample, for any loss of a model that learned."""


FINALISTS = 2
"""Rates of a rule that are tried with every seed."""


class Tuner(Protocol):
    """Says how accurate a rule becomes at a rate."""

    name: str
    """Its results are kept apart from those of other tuners."""

    def accuracies(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, float]]:
        """Yield each cell and its accuracy on the validation part, mean over the workers, as they come."""
        ...


class ProcessTuner:
    """Tunes on real processes, one run after the other: slow, for workloads that virtual time does not know.

    Args:
        measure: makes one run.
        folder: the runs' folders go there.
    """

    name = "process"

    def __init__(self, measure: Measure, folder: Path) -> None:
        self._measure = measure
        self._folder = folder

    def accuracies(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, float]]:
        """Run one after the other."""
        for cell in cells:
            found = self._measure(cell, self._folder / cell.name)
            yield cell, fmean(found.accuracies)


class VirtualTuner:
    """Tunes in virtual time: all workers of a run in one process, through the rules that run for real.

    Args:
        jobs: runs at a time, each in a process of its own.
    """

    name = "virtual"

    def __init__(self, jobs: int = 2) -> None:
        self._jobs = jobs

    def accuracies(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, float]]:
        """Run ``jobs`` at a time; an order to stop ends those that wait."""
        context = multiprocessing.get_context("spawn")  # a fork of a process that has threads may hang
        pool = ProcessPoolExecutor(min(self._jobs, len(cells) or 1), mp_context=context, initializer=_prepare)
        try:
            asked = {pool.submit(train_virtually, cell): cell for cell in cells}
            for future in as_completed(asked):
                yield asked[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare() -> None:
    """Leave Ctrl-C to the parent, and the other cores to the other runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)


def train_virtually(cell: Cell) -> float:
    """Return the validation accuracy, mean over the workers, of one run in virtual time; less a little for its loss."""
    from dagrad_bus.lab.costs import Costs
    from dagrad_bus.lab.experiment import Experiment, run_experiment

    workload, settings = find_workload(cell.workload), settings_of(cell)
    experiment = Experiment(
        task=workload.virtual[cell.model],
        workers=cell.workers,
        steps=cell.steps,
        batch=workload.batch,
        lr=cell.lr,
        schedule=cast(ScheduleName, cell.schedule or "none"),
        shards=cast(Kind, cell.shards),
        seed=cell.seed,
        settle=SETTLE_FACTOR,
        report="val",
        exchange=settings.exchange,
        degree=settings.degree,
        topology=settings.topology,
        costs=Costs(compute=max(cell.pace, 0.02)),
        compress=False,  # the codec loses nothing, and only bytes depend on it
    )
    result = run_experiment(experiment)
    return result.accuracy if result.diverged else result.accuracy - TIE * min(result.loss, 10.0)


def settings_of(cell: Cell) -> Settings:
    """Return the settings that the workers of a cell would have.

    Raises:
        SettingsError: a setting that does not exist, or is out of range.
    """
    given = {"DAGRAD_RULE": cell.rule, "DAGRAD_DENSITY": str(cell.density)}
    graph = {"DAGRAD_TOPOLOGY": cell.graph} if cell.graph is not None else {}
    settings = from_environment({**cell.environment(), **given, **graph})
    return replace(settings, exchange=replace(settings.exchange, seed=cell.seed))


@dataclass(frozen=True, slots=True)
class Tuned:
    """The rate of one rule and how it was found."""

    rate: float
    tried: Mapping[float, float]
    """Rate, rising, to validation accuracy, mean over the seeds it was tried with; empty where one rate was given."""
    note: str = ""
    """What a reader should know."""


def conclude(grid: Sequence[float], tried: Mapping[float, float], final: Mapping[float, float]) -> Tuned:
    """Return what was found.

    Args:
        grid: the declared rates.
        tried: those and what was added beyond its edges, to validation accuracy with the first seed.
        final: the finalists, to the mean over all seeds; empty with one seed.
    """
    best, edges = best_rates(final or tried)[0], {min(tried), max(tried)}
    added = sorted(set(tried) - set(grid))
    note = ""
    if added:
        note = f"best at the edge of the grid: {' and '.join(f'{rate:g}' for rate in added)} tried too"
        note += ", and it is the best: a rate still further out might be better" if best in added else ""
    elif len(tried) > 1 and best in edges:
        note = "best at the edge of the grid"
    return Tuned(best, dict(sorted({**tried, **final}.items())), note)
