"""Rows of the tables: one a rule, each number over the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev, stdev

from dagrad_bus.lab.paper.bench import Findings
from dagrad_bus.lab.paper.measuring import Measured
from dagrad_bus.lab.paper.workloads import find_workload


@dataclass(frozen=True, slots=True)
class Over:
    """One number over the seeds."""

    mean: float
    spread: float | None
    """Standard deviation over the seeds; None with one seed."""

    @classmethod
    def seeds(cls, values: Iterable[float | None]) -> Over | None:
        """Return mean and spread of the values that are known; None if there are none."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(fmean(known), stdev(known) if len(known) > 1 else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One rule. Accuracies and shares are shares of 1."""

    rule: str
    lr: float
    bandwidth: Over
    """Bytes a worker and step as a share of synchronous dense training, 2 * 4 * P."""
    bytes_per_step: Over
    accuracy: Over
    """Mean over the workers, each with its own replica."""
    worst: Over
    """The worst worker."""
    std: Over
    """Standard deviation between the workers of a run."""
    mean_model: Over | None
    consensus: Over | None
    agreement: Over | None
    """Bytes at the interface, packet headers taken off, by those that ZeroMQ was handed."""
    disagreeing: tuple[int, ...]
    """Seeds of runs whose two counts do not agree."""
    efficiency: Over | None
    """Throughput of N workers by N times that of one alone."""
    throughput: Over
    """Samples a second of all workers together."""
    healthy: float | None
    """Steps a second of the others while one worker sleeps, by what they do without."""
    median_age: Over | None
    """Of the versions mixed, in steps of the receiver."""
    mixing: tuple[str, ...]
    """Verdicts of the runs, each once."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rules compared seed by seed, over all seeds that both have: accuracies are shares of 1."""

    seeds: tuple[int, ...]
    sync: Over
    state: Over
    behind: Over
    """What ``state`` is behind ``sync-ps``."""

    @property
    def error(self) -> float | None:
        """Return the standard error of the mean difference; None with one seed."""
        return None if self.behind.spread is None else self.behind.spread / len(self.seeds) ** 0.5


def make_pair(findings: Findings) -> Pair | None:
    """Return the comparison that the accuracy target is about; None if one of its rules was not asked for."""
    request = findings.request
    if not request.pair:
        return None
    sync, state = ([fmean(run.accuracies) for run in _all_runs(findings, rule)] for rule in request.pair)
    behind = [theirs - ours for theirs, ours in zip(sync, state, strict=True)]
    return Pair((*request.seeds, *request.pair_seeds), _over(sync), _over(state), _over(behind))


def _all_runs(findings: Findings, rule: str) -> tuple[Measured, ...]:
    return (*findings.measured[rule], *findings.further.get(rule, ()))


def make_rows(findings: Findings) -> list[Row]:
    """Return a row for each rule, in the order asked for, all over the same seeds."""
    return [_make_row(findings, rule) for rule in findings.request.rules]


def _make_row(findings: Findings, rule: str) -> Row:
    runs, counted, request = findings.measured[rule], _all_runs(findings, rule), findings.request
    seeds = (*request.seeds, *request.pair_seeds)
    batch = find_workload(request.workload).batch
    return Row(
        rule=rule,
        lr=findings.tuned[rule].rate,
        bandwidth=_over(run.dense_share for run in runs),
        bytes_per_step=_over(run.bytes_per_step for run in runs),
        accuracy=_over(fmean(run.accuracies) for run in runs),
        worst=_over(min(run.accuracies) for run in runs),
        std=_over(pstdev(run.accuracies) for run in runs),
        mean_model=Over.seeds(run.mean_model for run in runs),
        consensus=Over.seeds(run.consensus for run in runs),
        agreement=Over.seeds(run.agreement for run in counted),
        disagreeing=tuple(seed for seed, run in zip(seeds, counted, strict=False) if run.agrees is False),
        efficiency=_efficiency(runs, findings.alone),
        throughput=_over(run.rate * batch for run in runs),
        healthy=healthy_share(runs, findings.stragglers[rule]),
        median_age=Over.seeds(run.median_age for run in runs),
        mixing=tuple(dict.fromkeys(run.mixing for run in runs)),
    )


def _over(values: Iterable[float]) -> Over:
    found = Over.seeds(values)
    assert found is not None  # a request has at least one seed
    return found


def _efficiency(runs: Sequence[Measured], alone: Measured) -> Over | None:
    if not alone.rate:
        return None
    return Over.seeds(run.rate / (run.workers * alone.rate) for run in runs)


def healthy_share(runs: Sequence[Measured], slowed: Measured) -> float | None:
    """Return how fast the others train beside a straggler, as a share of their speed without one.

    Args:
        runs: without; the median counts.
        slowed: with the last worker slowed down.
    """
    without = median(fmean(run.rates[:-1]) for run in runs)
    return fmean(slowed.rates[:-1]) / without if without and all(slowed.rates[:-1]) else None
