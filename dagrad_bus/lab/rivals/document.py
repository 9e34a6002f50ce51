"""The scoreboard as a page and as data."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from dagrad_bus.lab.paper.document import table
from dagrad_bus.lab.rivals.environments import torch_requirement
from dagrad_bus.lab.rivals.handout import PATIENCE, SLEEP
from dagrad_bus.lab.rivals.outcome import AVERAGED
from dagrad_bus.lab.rivals.rows import Accuracy, Row
from dagrad_bus.lab.rivals.scoreboard import Findings, Request
from dagrad_bus.workers.shards import Kind

SCHEMA = "dagrad.bench.peers/1"
PARAMETERS = 301_066
HEAD = (
    "system", "kB/step", "IID, %", "worst", "sorted, %", "worst", "step, x local", "straggler, x own", "kill -9",
    "averaged",
)  # fmt: skip
COSTS = ("system", "step, ms", "p99, ms", "CPU, ms/step", "memory, MB", "start-up, kB", "install, s", "install, MB")


def number(value: float | None, digits: int = 1, scale: float = 1.0) -> str:
    """Return ``value`` times ``scale`` in plain digits; a dash for None."""
    return "-" if value is None else f"{value * scale:.{digits}f}"


def accuracy_cells(found: Accuracy | None) -> list[str]:
    """Return mean with the spread over seeds, and the worst worker, in percent."""
    if found is None:
        return ["-", "-"]
    spread = "" if found.std is None else f" ± {found.std * 100:.1f}"
    return [number(found.mean, 1, 100) + spread, number(found.worst, 1, 100)]


def main_cells(row: Row) -> list[str]:
    """Return one line of the scoreboard; see ``HEAD``."""
    kinds: tuple[Kind, ...] = ("iid", "sorted")
    return [
        row.title, number(row.bytes_per_step, 1, 1e-3),
        *(cell for kind in kinds for cell in accuracy_cells(row.accuracy[kind])),
        number(row.step_share, 2), number(row.straggler_share, 2), row.kill or "-",
        row.verdict if not row.trouble or row.bytes_per_step is not None else "-",
    ]  # fmt: skip


def cost_cells(row: Row) -> list[str]:
    """Return one line of what a system costs; see ``COSTS``."""
    return [
        row.title, number(row.step_ms), number(row.step_p99_ms), number(row.cpu_ms), number(row.peak_mb, 0),
        number(row.startup_bytes, 1, 1e-3), number(row.install_seconds, 0), number(row.install_mb, 0),
    ]  # fmt: skip


def troubles(rows: Sequence[Row]) -> list[str]:
    """Return what went wrong, a line a system."""
    return [f"{row.title}: {row.trouble}" for row in rows if row.trouble]


def tuning_lines(found: Sequence[Findings]) -> list[list[str]]:
    """Return system, shards, rates tried with their accuracy on the validation part, and the rate chosen."""
    lines: list[list[str]] = []
    for one in found:
        for kind, rate in one.rates.items():
            tried = one.tried.get(kind, {})
            seen = ", ".join(f"{lr:g}: {number(tried[lr], 1, 100)}" for lr in sorted(tried))
            edge = " (edge)" if len(tried) > 1 and rate in (min(tried), max(tried)) else ""
            lines.append([one.system.title, kind, seen or "-", f"{rate:g}{edge}"])
    return lines


def describe(request: Request) -> str:
    """Return what was measured, in a paragraph."""
    seeds = f"Seeds {', '.join(map(str, request.seeds))}"
    spread = "; ± is the standard deviation over them" if len(request.seeds) > 1 else ""
    return (
        f"Handwritten digits, MLP 64-512-512-10 of {PARAMETERS} parameters, {request.workers} workers, {request.steps} "
        f"steps of 32 samples, SGD with momentum 0.9, equal weights, shards and batches for all; a step computes for "
        f"{request.pace * 1000:g} ms at least. {seeds}{spread}. {os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}, "
        f"torch {version('torch')}."
    )


def explain() -> str:
    """Return how the columns are to be read."""
    return "\n".join([
        "- **kB/step**: sent by a worker in each step, read at the interface of a private network: headers, handshakes and",
        f"  control messages are in it. Dense synchronous training would move {8 * PARAMETERS / 1000:.0f} kB of values.",
        "- **IID, sorted**: accuracy of each worker's own replica on the test part, mean over workers and seeds; *worst* is",
        "  the worst worker of any seed. Sorted shards give a worker two or three classes.",
        "- **step**: mean time of a step, by that of workers that exchange nothing, same seed; median over the seeds.",
        f"- **straggler**: mean step of the healthy workers while worker 0 sleeps {SLEEP:g} s a step, by theirs without it.",
        "- **kill -9**: longest time from one step to the next of a survivor after a worker was killed, beyond its usual",
        f"  one; *froze*: nobody took a step for {PATIENCE['kill']:.0f} s.",
        f"- **averaged**: replicas lie within {AVERAGED * 100:.0f} % of the distance that replicas have which exchange nothing.",
    ])  # fmt: skip


def to_markdown(request: Request, found: Sequence[Findings], rows: Sequence[Row]) -> str:
    """Return the page."""
    parts = [
        "# Other systems beside this one",
        describe(request),
        table(HEAD, [main_cells(row) for row in rows]),
        explain(),
        "## What it costs",
        table(COSTS, [cost_cells(row) for row in rows]),
        "Installing is beside torch. Memory and processor time include a worker's child processes.",
        "## How each was run",
        "\n".join(f"- **{row.title}**: {row.says}." for row in rows),
    ]
    if any(one.tried for one in found):
        head = ["system", "shards", "accuracy on the validation part, %, by rate", "chosen"]
        parts += ["## Learning rates", table(head, tuning_lines(found))]
    if bad := troubles(rows):
        parts += ["## What went wrong", "\n".join(f"- {line}" for line in bad)]
    return "\n\n".join(parts) + "\n"


def to_json(request: Request, found: Sequence[Findings], rows: Sequence[Row]) -> dict[str, Any]:
    """Return the same as data: ``schema`` first."""
    return {
        "schema": SCHEMA,
        "request": {
            "systems": [system.name for system in request.systems], "workers": request.workers,
            "steps": request.steps, "seeds": list(request.seeds), "rates": list(request.rates), "pace": request.pace,
        },
        "machine": {
            "cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version(),
            "torch": torch_requirement(),
        },
        "parameters": PARAMETERS,
        "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
        "systems": {one.system.name: _system_json(one) for one in found},
    }  # fmt: skip


def _system_json(one: Findings) -> Mapping[str, Any]:
    system = one.system
    return {
        "requirements": list(system.requirements), "options": dict(system.options), "driver": system.driver,
        "tried": {kind: [[rate, seen] for rate, seen in tried.items()] for kind, tried in one.tried.items()},
        "finals": {kind: [outcome.to_json() for outcome in runs] for kind, runs in one.finals.items()},
        "straggler": None if one.straggler is None else one.straggler.to_json(),
        "kill": None if one.kill is None else one.kill.to_json(),
    }  # fmt: skip
