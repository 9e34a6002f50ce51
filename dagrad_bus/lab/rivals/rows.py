"""The scoreboard's rows: one a system, from its findings and those of the system without exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev

from dagrad_bus.lab.rivals.handout import PATIENCE
from dagrad_bus.lab.rivals.outcome import Outcome, is_averaged
from dagrad_bus.lab.rivals.scoreboard import SHARDS, Findings
from dagrad_bus.lab.rivals.systems import OWN, REFERENCE
from dagrad_bus.workers.shards import Kind

BYTES_PER_VALUE = 4
RING_SHARE = 2
"""Synchronous dense training moves each value twice: to be summed, and back."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of right answers on one kind of shards, own replicas."""

    mean: float
    """Over workers and seeds."""
    std: float | None
    """Of the seeds' means; None with one seed."""
    worst: float
    """Of all workers of all seeds."""
    spread: float
    """Best less worst worker of a seed, mean over the seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One system. None, or an empty text, where there is no number."""

    system: str
    title: str
    says: str
    rates: dict[Kind, float]
    accuracy: dict[Kind, Accuracy | None]
    bytes_per_step: float | None
    startup_bytes: float | None
    step_ms: float | None
    step_share: float | None
    """Mean step time by that without exchange, same seed; median over the seeds."""
    step_p99_ms: float | None
    straggler_share: float | None
    """Mean step time of the healthy workers beside a straggler, by theirs without it."""
    kill: str
    """What the survivors did: ``paused 12 ms``, ``froze``, ``died``."""
    kill_gap_ms: float | None
    cpu_ms: float | None
    peak_mb: float | None
    install_seconds: float | None
    install_mb: float | None
    averaged: dict[Kind, bool | None]
    spread: dict[Kind, float | None]
    """See :mod:`dagrad_bus.lab.rivals.outcome`; mean over the seeds."""
    trouble: str
    """What went wrong; empty: nothing."""

    @property
    def verdict(self) -> str:
        """Whether averaging really happened, in words."""
        if self.system == REFERENCE:
            return "no exchange"
        told = [found for found in self.averaged.values() if found is not None]
        if not told:
            return "unknown"
        if all(told):
            return "averaged"
        bad = [kind for kind, found in self.averaged.items() if found is False]
        return "NOT AVERAGED" + ("" if len(bad) == len(told) else f" on {', '.join(bad)} shards")

    @property
    def failed(self) -> bool:
        """Whether a run without faults has no result."""
        return bool(self.trouble)


def make_rows(found: Sequence[Findings]) -> list[Row]:
    """Return the rows in the order of the findings; the reference is among them."""
    reference = next((one for one in found if one.system.name == REFERENCE), None)
    return [_row(one, reference) for one in found]


def own_failed(rows: Sequence[Row]) -> bool:
    """Return whether this system was asked for and a run of it failed, or did not average."""
    return any(row.system == OWN and (row.failed or False in row.averaged.values()) for row in rows)


def _done(one: Findings | None, kind: Kind) -> list[Outcome]:
    return [] if one is None else [found for found in one.finals.get(kind, []) if found.ending == "done"]


def _row(one: Findings, reference: Findings | None) -> Row:
    iid = _done(one, "iid")
    spreads: dict[Kind, float | None] = {kind: _mean([found.spread for found in _done(one, kind)]) for kind in SHARDS}
    drifts: dict[Kind, float | None] = {
        kind: _mean([found.spread for found in _done(reference, kind)]) for kind in SHARDS
    }
    installed = one.installed
    return Row(
        system=one.system.name, title=one.system.title, says=one.system.says, rates=dict(one.rates),
        accuracy={kind: _accuracy(_done(one, kind)) for kind in SHARDS},
        bytes_per_step=_mean([found.bytes_per_step for kind in SHARDS for found in _done(one, kind)]),
        startup_bytes=_mean([found.startup_bytes for kind in SHARDS for found in _done(one, kind)]),
        step_ms=_mean([found.step_ms for found in iid]), step_share=_step_share(one, reference),
        step_p99_ms=_mean([found.step_p99_ms for found in iid]), straggler_share=_straggler_share(one, iid),
        kill=describe_kill(one.kill), kill_gap_ms=None if one.kill is None else one.kill.gap_ms,
        cpu_ms=_mean([found.cpu_ms for found in iid]), peak_mb=max((f.peak_mb for f in iid if f.peak_mb), default=None),
        install_seconds=None if installed is None else installed.seconds,
        install_mb=None if installed is None else installed.megabytes,
        averaged={kind: None if one is reference else is_averaged(spreads[kind], drifts[kind]) for kind in SHARDS},
        spread=spreads, trouble=_trouble(one),
    )  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _accuracy(found: Sequence[Outcome]) -> Accuracy | None:
    runs = [outcome.accuracies for outcome in found if outcome.accuracies]
    if not runs:
        return None
    means = [fmean(run) for run in runs]
    worst, spread = min(min(run) for run in runs), fmean(max(run) - min(run) for run in runs)
    return Accuracy(fmean(means), pstdev(means) if len(means) > 1 else None, worst, spread)


def _step_share(one: Findings, reference: Findings | None) -> float | None:
    if reference is None:
        return None
    pairs = zip(one.finals.get("iid", []), reference.finals.get("iid", []), strict=False)
    shares = [a.step_ms / b.step_ms for a, b in pairs if a.ending == "done" and a.step_ms and b.step_ms]
    return median(shares) if shares else None


def _straggler_share(one: Findings, iid: Sequence[Outcome]) -> float | None:
    without = _mean([found.step_ms for found in iid])
    if one.straggler is None or one.straggler.step_ms is None or not without:
        return None
    return one.straggler.step_ms / without


def describe_kill(found: Outcome | None) -> str:
    """Return what the survivors of a kill did, in words; empty if nobody was killed."""
    if found is None:
        return ""
    if found.ending == "froze":
        return f"froze (> {PATIENCE['kill']:.0f} s)"
    if found.ending == "crashed":
        return "all died"
    if found.ending != "done":
        return found.ending
    return "went on" if found.gap_ms is None else f"paused {found.gap_ms:.0f} ms"


def _trouble(one: Findings) -> str:
    if one.installed is None:
        return one.why
    runs = [found for kind in SHARDS for found in one.finals.get(kind, [])]
    runs += [one.straggler] if one.straggler is not None else []
    bad = [found for found in runs if found.ending != "done"]
    if not bad:
        return ""
    return f"{len(bad)} of {len(runs)} runs {bad[0].ending} at step {bad[0].steps}: {bad[0].reason}"
