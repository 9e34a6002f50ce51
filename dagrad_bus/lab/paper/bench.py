"""The bench: tune, measure, slow one worker down, train alone; each result is kept as it comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Protocol

from dagrad_bus.lab.paper.cells import Cell, Request
from dagrad_bus.lab.paper.measuring import Measure, Measured
from dagrad_bus.lab.paper.tuning import FINALISTS, Tuned, Tuner, conclude
from dagrad_bus.lab.rates import best_rates, beyond
from dagrad_bus.lab.results import Results


class Reporter(Protocol):
    """Is told how far the bench is."""

    def plan(self, phase: str, cells: int, missing: Sequence[Cell]) -> None:
        """A phase begins, with so many runs, of which ``missing`` are not at hand."""
        ...

    def done(self, cell: Cell, found: str, *, fresh: bool) -> None:
        """A run is over, or it was at hand: not ``fresh``."""
        ...


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was measured for a request."""

    request: Request
    tuner: str
    tuned: Mapping[str, Tuned]
    """By rule."""
    measured: Mapping[str, tuple[Measured, ...]]
    """By rule, in the order of the seeds."""
    further: Mapping[str, tuple[Measured, ...]]
    """By rule of the judged pair, in the order of its further seeds."""
    stragglers: Mapping[str, Measured]
    """By rule, with one worker slowed down."""
    alone: Measured
    """One worker that exchanges nothing, at the same pace."""

    @property
    def seconds(self) -> float:
        """Return how long the measured runs took, tuning apart."""
        runs = [run for part in (self.measured, self.further) for found in part.values() for run in found]
        return sum(run.seconds for run in [*runs, *self.stragglers.values(), self.alone])


class Bench:
    """Fills what is missing and returns all.

    Args:
        request: filled, see :meth:`Request.filled`.
        results: the store of this folder.
        folder: for the folders of the runs.
        tuner: chooses rates.
        measure: makes a run.
        reporter: is told of each.
    """

    def __init__(
        self, request: Request, results: Results, folder: Path, tuner: Tuner, measure: Measure, reporter: Reporter
    ) -> None:
        self._request = request
        self._results = results
        self._folder = folder
        self._tuner = tuner
        self._measure = measure
        self._reporter = reporter

    def run(self) -> Findings:
        """Make all runs that are not at hand.

        Raises:
            RunFailed: one failed; those before it are kept.
        """
        request = self._request
        tuned = self.tune()
        cells = request.measured_cells({rule: found.rate for rule, found in tuned.items()})
        self._reporter.plan("measuring", len(cells), [c for c in cells if self._results.get(c.key) is None])
        found = {(cell.purpose, cell.rule, cell.seed): self._fill(cell) for cell in cells}
        first = request.seeds[0]
        return Findings(
            request,
            self._tuner.name,
            tuned,
            {rule: tuple(found["measure", rule, seed] for seed in request.seeds) for rule in request.rules},
            {rule: tuple(found["pair", rule, seed] for seed in request.pair_seeds) for rule in request.pair},
            {rule: found["straggler", rule, first] for rule in request.rules},
            found["alone", "local", first],
        )

    def _fill(self, cell: Cell) -> Measured:
        kept = self._results.get(cell.key)
        if kept is None:
            found = self._measure(cell, self._folder / cell.name)
            self._results.put(cell.key, found.to_json())
        else:
            found = Measured.from_json(kept)
        speed, accuracy = found.rate / found.workers, fmean(found.accuracies)
        text = f"accuracy {accuracy:.4f}  {found.bytes_per_step / 1000:.2f} kB/step  {speed:.2f} steps/s"
        self._reporter.done(cell, text, fresh=kept is None)
        return found

    def tune(self) -> dict[str, Tuned]:
        """Return each rule's rate; with one rate given there is nothing to choose."""
        request = self._request
        if len(request.rates) == 1:
            return {rule: Tuned(request.rates[0], {}) for rule in request.rules}
        first = request.tune_seeds[:1]
        tried = self._try(dict.fromkeys(request.rules, request.rates), first)
        further = {rule: beyond(found) for rule, found in tried.items()}
        for rule, found in self._try(further, first).items():
            tried[rule] |= found
        finalists = {rule: best_rates(found)[:FINALISTS] for rule, found in tried.items()}
        final = self._try(finalists, request.tune_seeds) if len(request.tune_seeds) > 1 else {}
        return {rule: conclude(request.rates, found, final.get(rule, {})) for rule, found in tried.items()}

    def _try(self, rates: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> dict[str, dict[float, float]]:
        """Return, by rule and rate, the validation accuracy, mean over ``seeds``."""
        request = self._request
        cells = [
            request.cell("tune", rule, rate, seed) for seed in seeds for rule, grid in rates.items() for rate in grid
        ]
        found: dict[str, dict[float, list[float]]] = {rule: {rate: [] for rate in grid} for rule, grid in rates.items()}
        missing = [cell for cell in cells if self._results.get(self._tuning_key(cell)) is None]
        self._reporter.plan("tuning", len(cells), missing)
        for cell in cells:
            if (kept := self._results.get(self._tuning_key(cell))) is not None:
                found[cell.rule][cell.lr].append(kept["accuracy"])
                self._reporter.done(cell, f"validation {kept['accuracy']:.4f}", fresh=False)
        for cell, accuracy in self._tuner.accuracies(missing) if missing else ():
            self._results.put(self._tuning_key(cell), {"accuracy": accuracy})
            found[cell.rule][cell.lr].append(accuracy)
            self._reporter.done(cell, f"validation {accuracy:.4f}", fresh=True)
        return {rule: {rate: fmean(seen) for rate, seen in grid.items()} for rule, grid in found.items()}

    def _tuning_key(self, cell: Cell) -> dict[str, object]:
        return {**cell.key, "tuner": self._tuner.name}
