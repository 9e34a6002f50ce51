"""What studies gave: rows over the seeds, a page with a table a study, and the same as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dagrad_bus.lab.ablations import Cell, Scale, Study
from dagrad_bus.lab.paper.document import number, table
from dagrad_bus.lab.paper.rows import Over
from dagrad_bus.lab.results import Results

SCHEMA = "dagrad.bench.ablations/1"
PARTS = {"val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One cell over its seeds. Accuracies and shares are shares of 1."""

    cell: Cell
    seeds: int
    """How many are at hand."""
    by_seed: Mapping[int, float]
    """Seed to accuracy."""
    accuracy: Over
    """Mean over the workers' own replicas."""
    worst: Over
    """Of the worst worker."""
    mean_model: Over
    consensus: Over | None
    """None where all runs diverged."""
    dense_share: Over
    """Bytes as a share of synchronous dense training."""
    bytes_per_step: Over
    median_age: Over | None
    skipped: Over
    """Share of the exchanges for which no link had credit."""
    diverged: int
    """Runs with values that are not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A study and what it gave so far."""

    study: Study
    scale: Scale
    seeds: int
    """Asked for."""
    rows: Sequence[Row]
    """Of cells with a result at hand, in the order of the study."""

    @property
    def is_whole(self) -> bool:
        """Whether every run is at hand."""
        return len(self.rows) == len(self.study.cells) and all(row.seeds == self.seeds for row in self.rows)

    @property
    def groups(self) -> dict[str, list[Row]]:
        """Return the rows by panel."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.cell.group, []).append(row)
        return found


def make_report(study: Study, scale: Scale, seeds: int, results: Results) -> Report:
    """Return what is at hand for a study."""
    rows: list[Row] = []
    for cell in study.cells:
        kept = {experiment.seed: results.get(experiment.key) for experiment in cell.runs(seeds)}
        found = {seed: run for seed, run in kept.items() if run is not None}
        if found:
            rows.append(_make_row(cell, found))
    return Report(study=study, scale=scale, seeds=seeds, rows=rows)


def _make_row(cell: Cell, by_seed: Mapping[int, Mapping[str, Any]]) -> Row:
    runs = list(by_seed.values())

    def over(name: str) -> Over:
        found = Over.seeds(run[name] for run in runs)
        assert found is not None  # there is at least one run, and it has this number
        return found

    return Row(
        cell=cell, seeds=len(runs), by_seed={seed: run["accuracy"] for seed, run in by_seed.items()},
        accuracy=over("accuracy"), worst=over("worst"), mean_model=over("mean_model"),
        consensus=Over.seeds(run["consensus"] for run in runs if math.isfinite(run["consensus"])),
        dense_share=over("dense_share"), bytes_per_step=over("bytes_per_step"),
        median_age=Over.seeds(run["median_age"] for run in runs), skipped=over("skipped"),
        diverged=sum(bool(run["diverged"]) for run in runs),
    )  # fmt: skip


def best_reference(rows: Sequence[Row]) -> Row | None:
    """Return the most accurate reference of a panel, None where there is none."""
    return max((row for row in rows if row.cell.reference), key=lambda row: row.accuracy.mean, default=None)


def difference(row: Row, other: Row) -> Over | None:
    """Return how much more accurate ``row`` is than ``other``, seed by seed: both had the same data and first weights."""
    common = sorted(set(row.by_seed) & set(other.by_seed))
    return Over.seeds(row.by_seed[seed] - other.by_seed[seed] for seed in common)


def spread_of_bytes(rows: Sequence[Row]) -> float:
    """Return by how much the most expensive cell of a panel costs more than the cheapest, as a share of that."""
    spent = [row.bytes_per_step.mean for row in rows]
    return max(spent) / min(spent) - 1 if spent and min(spent) > 0 else 0.0


def _table(rows: Sequence[Row]) -> str:
    reference = best_reference(rows)
    head = [
        "setting", "accuracy, %", "worst worker", "mean model", "consensus distance", "bytes, % of sync dense",
        "bytes/step", "median age, steps", "skipped, %",
    ]  # fmt: skip
    lines = [
        [
            row.cell.label, number(row.accuracy, 100), number(row.worst, 100), number(row.mean_model, 100),
            number(row.consensus, digits=4), number(row.dense_share.mean, 100), number(row.bytes_per_step.mean, digits=0),
            number(row.median_age), number(row.skipped.mean, 100, 1),
        ]
        for row in rows
    ]  # fmt: skip
    head.append(f"difference to {'the best reference' if reference else 'the first row'}, points")
    for line, row in zip(lines, rows, strict=True):
        against = reference or rows[0]
        line.append("-" if row is against else number(difference(row, against), 100))
    if any(row.diverged for row in rows):
        head.append("diverged")
        for line, row in zip(lines, rows, strict=True):
            line.append(f"{row.diverged} of {row.seeds}")
    return table(head, lines)


def _section(report: Report) -> str:
    study = report.study
    parts = [f"## {study.title} (`{study.name}`)", study.question]
    if not report.is_whole:
        at_hand, asked = sum(row.seeds for row in report.rows), len(study.cells) * report.seeds
        parts.append(f"**Not finished:** {at_hand} of {asked} runs are at hand; ± is over those.")
    for group, rows in report.groups.items():
        parts += [f"### {group[0].upper()}{group[1:]}", _table(rows)]
    if study.equal_bytes and report.rows:
        most = max(spread_of_bytes(rows) for rows in report.groups.values())
        parts.append(f"Bytes measured differ by at most {100 * most:.1f} % between the settings of one table.")
    if study.note:
        parts.append(study.note)
    if report.rows:
        parts.append(f"![{study.title}]({study.name}.png)")
    return "\n\n".join(parts)


def to_markdown(reports: Sequence[Report]) -> str:
    """Return the page."""
    scale, seeds = reports[0].scale, reports[0].seeds
    base = scale.base
    about = (
        f"Task `{scale.task}` ({scale.elements} parameters), {scale.workers} workers in virtual time, {scale.steps} "
        f"steps of {base.batch} samples each, learning rate {base.lr:g}, rule `state`, density "
        f"{base.exchange.density:g}, w0 {base.exchange.w0:g}, {base.exchange.wire}, {min(base.degree, base.workers - 1)} neighbours "
        f"({base.costs.compute:g} s a step, flights of {base.costs.latency:g} s), where a row says nothing else. "
        f"Accuracy is that of each worker's own replica on the {PARTS[scale.report]} part, mean over the workers and "
        f"over {seeds} seed{'s' if seeds > 1 else ''}; ± is the standard deviation over the seeds, of "
        "differences that of the differences seed by seed. Bytes are those of "
        "frames with their headers, receipts and heartbeats."
    )
    return "\n\n".join(["# One setting at a time", about, *map(_section, reports)]) + "\n"


def to_json(report: Report) -> dict[str, Any]:
    """Return one study as data: ``schema`` first."""
    study = report.study
    return {
        "schema": SCHEMA,
        "study": study.name,
        "title": study.title,
        "question": study.question,
        "note": study.note,
        "scale": asdict(report.scale),
        "seeds": report.seeds,
        "whole": report.is_whole,
        "rows": [_row_to_json(row) for row in report.rows],
    }


def _row_to_json(row: Row) -> dict[str, Any]:
    numbers = {name: value for name, value in asdict(row).items() if name != "cell"}
    cell = row.cell
    return {
        "group": cell.group, "label": cell.label, "value": cell.value, "reference": cell.reference, **numbers,
        "experiment": {name: value for name, value in cell.experiment.key.items() if name != "seed"},
    }  # fmt: skip
