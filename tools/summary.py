"""The numbers of a finished run, from its folder: one frozen summary, ready for JSON, tables and figures.

Bytes are what the transport was handed, headers included. Synchronous dense training, the yardstick, moves
2 * 4 * P bytes a worker and step: a reduce-scatter and an all-gather of P float32 values.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median, pstdev
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.metrics import histogram_median, sum_bins
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.journal import Record, read_record

SCHEMA = "dagrad.summary/1"
_GROWTH = 1.35
"""Rise of the consensus distance from the second to the last quarter of a run that is suspicious: replicas that train
independently drift apart as the square root of time, which gives 1.5; replicas that mix settle."""
_NEAR = 0.02
"""A consensus distance below this is never suspicious."""

_SURVIVED = ("done", "stopped")

Verdict = Literal["mixed", "drifting", "not mixed", "unknown", "not asked"]


@dataclass(frozen=True, slots=True)
class WorkerSummary:
    """One worker. None where the worker reported no such number."""

    name: str
    state: str
    """``done``, ``stopped`` by the user, ``exit 7``, ``SIGKILL``, ``unknown``."""
    steps: int
    rate: float | None
    """Steps per second."""
    loss: float | None
    accuracy: float | None
    bytes_per_step: float | None
    """Bytes sent per local step."""
    frames_sent: int
    frames_accepted: int
    frames_mixed: int
    median_age: float | None
    """Of the versions mixed, in local steps."""


@dataclass(frozen=True, slots=True)
class Mixing:
    """Whether the replicas really exchanged values and stayed together."""

    verdict: Verdict
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """One run. Schema ``dagrad.summary/1``."""

    run: str
    command: tuple[str, ...]
    rule: str
    workers: tuple[WorkerSummary, ...]
    parameters: int | None
    """Size P of the model."""
    steps: int
    """Of all workers together."""
    rate: float | None
    """Steps per second of all workers together."""
    accuracy: Mapping[str, float] | None
    """``mean``, ``worst`` and ``std`` over the own replicas of the workers that reached the end."""
    loss: Mapping[str, float] | None
    bytes_per_step: float | None
    """Bytes sent per worker and step, mean over the workers."""
    dense_share: float | None
    """The same as a share of synchronous dense training."""
    dropped: Mapping[str, int]
    """Frames dropped by all workers, by reason."""
    median_age: float | None
    consensus: tuple[tuple[int, float], ...]
    """(step, mean over workers of ||x_i - mean|| / ||mean||), at steps common to the workers."""
    mixing: Mixing
    failures: tuple[Mapping[str, Any], ...]
    """Workers that failed, first one first: name, code, signal, time."""

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON takes it: ``schema`` first, no NaN or infinity."""
        return {"schema": SCHEMA, **cast(dict[str, Any], _finite(asdict(self)))}


def _finite(value: object) -> object:
    """Return a copy with None for NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in cast(dict[str, object], value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast(Sequence[object], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_records(folder: RunFolder) -> list[Record]:
    """Read the journals of all workers of a run, in the order of the roster."""
    return [read_record(folder.journal(name), name) for name in folder.read_run()["workers"]]


def summarize(run: Mapping[str, Any], records: Sequence[Record]) -> Summary:
    """Return the summary of a run.

    Args:
        run: ``run.json``; its ``exits`` are missing when the launcher was killed.
        records: one for each worker.
    """
    exits = {ended["name"]: ended for ended in run.get("exits", [])}
    workers = tuple(_summarize_worker(record, _state(record, exits)) for record in records)
    alive = [worker for worker in workers if worker.state in _SURVIVED] or workers
    kept = {worker.name for worker in alive}
    sizes = [record.start["parameters"] for record in records if "parameters" in record.start]
    rule = str(run.get("settings", {}).get("exchange", {}).get("rule", "state"))
    traffic = _mean([worker.bytes_per_step for worker in workers])
    consensus = consensus_distance([record for record in records if record.name in kept])
    rates = [worker.rate for worker in workers if worker.rate is not None]
    return Summary(
        run=run["run"],
        command=tuple(run.get("command", ())),
        rule=rule,
        workers=workers,
        parameters=sizes[0] if sizes else None,
        steps=sum(worker.steps for worker in workers),
        rate=sum(rates) if rates else None,
        accuracy=_spread([worker.accuracy for worker in alive], worst=min),
        loss=_spread([worker.loss for worker in alive], worst=max),
        bytes_per_step=traffic,
        dense_share=traffic / (8 * sizes[0]) if traffic is not None and sizes and sizes[0] else None,
        dropped=_sum_dropped(records),
        median_age=histogram_median(sum_bins([record.ages for record in records])),
        consensus=consensus,
        mixing=judge_mixing(rule, workers, consensus),
        failures=tuple(ended for ended in run.get("exits", []) if ended.get("failed")),
    )


def _state(record: Record, exits: Mapping[str, Mapping[str, Any]]) -> str:
    if record.name in exits and not record.is_back(float(exits[record.name].get("time", math.inf))):
        return str(exits[record.name]["state"])
    return "done" if record.ended else "unknown"


def _summarize_worker(record: Record, state: str) -> WorkerSummary:
    sent = record.counter("bytes_sent")
    return WorkerSummary(
        name=record.name,
        state=state,
        steps=record.step,
        rate=_rate(record),
        loss=record.latest.get("loss"),
        accuracy=record.latest.get("accuracy"),
        bytes_per_step=sent / record.step if record.step else None,
        frames_sent=record.counter("frames_sent"),
        frames_accepted=record.counter("frames_accepted"),
        frames_mixed=record.counter("frames_mixed"),
        median_age=histogram_median(record.ages),
    )


def _rate(record: Record) -> float | None:
    """Steps per second between the first and the last report; start-up and the time before are no training."""
    seconds = float(record.last.get("time", 0.0)) - float(record.first.get("time", 0.0))
    steps = record.step - int(record.first.get("step", 0))
    if seconds > 0 and steps > 0:
        return steps / seconds
    return record.last.get("rate")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _spread(values: Sequence[float | None], *, worst: Any) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    finite = all(math.isfinite(value) for value in known)
    return {"mean": fmean(known), "worst": worst(known), "std": pstdev(known) if finite else math.nan}


def _sum_dropped(records: Sequence[Record]) -> dict[str, int]:
    reasons: dict[str, int] = {}
    for record in records:
        for name, count in record.last.get("counters", {}).items():
            head, _, reason = name.partition(".")
            if head == "frames_dropped" and count:
                reasons[reason or "other"] = reasons.get(reason or "other", 0) + count
    return dict(sorted(reasons.items()))


def consensus_distance(records: Sequence[Record]) -> tuple[tuple[int, float], ...]:
    """Return (step, mean over workers of ||x_i - mean|| / ||mean||) at the steps that all workers sampled."""
    by_worker = [_read_samples(record) for record in records]
    by_worker = [samples for samples in by_worker if samples]
    if len(by_worker) < 2:
        return ()
    common = sorted(set[int].intersection(*(set(samples) for samples in by_worker)))
    points: list[tuple[int, float]] = []
    for step in common:
        rows = [samples[step] for samples in by_worker]
        if len({row.size for row in rows}) != 1:
            continue  # another model in one of them: it did not mix with the others either
        values = np.stack(rows).astype(np.float64)
        center = values.mean(axis=0)
        norm = float(np.linalg.norm(center))
        if norm > 0:
            points.append((step, float(np.linalg.norm(values - center, axis=1).mean()) / norm))
    return tuple(points)


def _read_samples(record: Record) -> dict[int, NDArray[np.float32]]:
    samples: dict[int, NDArray[np.float32]] = {}
    for entry in record.samples:
        try:
            samples[int(entry["step"])] = np.frombuffer(base64.b64decode(entry["values"], validate=True), np.float32)
        except (KeyError, TypeError, ValueError):
            record.damaged += 1
    return samples


_ENOUGH = 5
"""Steps without a frame mixed that say something: a worker that has just come (back) says nothing."""


def judge_mixing(rule: str, workers: Sequence[WorkerSummary], consensus: Sequence[tuple[int, float]]) -> Mixing:
    """Say whether mixing really happened: every survivor took frames in, and the replicas did not drift apart."""
    if rule == "local" or len(workers) < 2:
        return Mixing("not asked", ())
    told = [worker for worker in workers if worker.state in _SURVIVED]
    survivors = [worker for worker in told if worker.frames_mixed or worker.steps >= _ENOUGH] or told
    idle = [worker.name for worker in survivors if worker.frames_mixed == 0]
    if idle:
        who = "no worker" if len(idle) == len(survivors) else f"{', '.join(idle)} never"
        return Mixing("not mixed", (f"{who} mixed a single frame of a neighbour in",))
    if len(survivors) < 2:
        return Mixing("unknown", (f"{len(survivors)} of {len(workers)} workers reached the end",))
    values = [value for _, value in consensus]
    if len(values) >= 8:
        quarter = len(values) // 4
        early, late = median(values[quarter : 2 * quarter]), median(values[-quarter:])
        if late > max(_NEAR, _GROWTH * early):
            growth = f"the distance between replicas still grows: {early:.3g} early on, {late:.3g} at the end"
            return Mixing("drifting", (growth,))
    return Mixing("mixed", ())
