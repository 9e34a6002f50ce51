"""The findings as a page and as data."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dagrad_bus.lab.paper.bench import Findings
from dagrad_bus.lab.paper.cells import SETTLE_FACTOR, SLEEP, STRAGGLER_STEPS
from dagrad_bus.lab.paper.published import ROWS, SETTING, find_published
from dagrad_bus.lab.paper.rows import Over, Pair, Row
from dagrad_bus.lab.paper.tuning import FINALISTS
from dagrad_bus.lab.paper.verdicts import Verdict
from dagrad_bus.lab.paper.workloads import find_workload

SCHEMA = "dagrad.bench.paper/1"
_PAPER = "paper, not measured here"


@dataclass(frozen=True, slots=True)
class Report:
    """What is written and shown."""

    findings: Findings
    rows: Sequence[Row]
    pair: Pair | None
    """The comparison that is judged."""
    verdicts: Sequence[Verdict]
    counting: str
    """Where bytes were counted."""


def number(value: Over | float | None, scale: float = 1.0, digits: int = 2) -> str:
    """Return a number times ``scale``, its spread over the seeds behind it, a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, Over):
        spread = "" if value.spread is None else f" ± {value.spread * scale:.{digits}f}"
        return f"{value.mean * scale:.{digits}f}{spread}"
    return f"{value * scale:.{digits}f}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown whose columns line up."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *lines, strict=True)]

    def join(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([join(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(join, lines)])


def table_1(rows: Sequence[Row]) -> str:
    """Return bandwidth and accuracy, the paper's figures in columns of their own."""
    head = [
        "rule", "rate", "bandwidth, % of sync dense", "kB/step", "accuracy, %", "worst worker", "std between workers",
        "mean model", "consensus distance", f"bandwidth, % ({_PAPER})", f"accuracy, % ({_PAPER})",
    ]  # fmt: skip
    lines: list[list[str]] = []
    for row in rows:
        paper = find_published(row.rule)
        lines.append([
            row.rule, f"{row.lr:g}", number(row.bandwidth, 100), number(row.bytes_per_step, 1e-3),
            number(row.accuracy, 100), number(row.worst, 100), number(row.std, 100), number(row.mean_model, 100),
            number(row.consensus, digits=4), number(paper.bandwidth if paper else None, digits=0),
            number(paper.accuracy if paper else None, digits=1),
        ])  # fmt: skip
    return table(head, lines)


def table_2(rows: Sequence[Row], unit: str) -> str:
    """Return efficiency, throughput and stragglers, the paper's figures in columns of their own."""
    head = [
        "rule", "parallel efficiency, %", f"throughput, {unit}/s", "healthy rate beside a straggler, %",
        "median age, steps", f"efficiency, % ({_PAPER})", f"images/s ({_PAPER})",
    ]  # fmt: skip
    lines: list[list[str]] = []
    for row in rows:
        paper = find_published(row.rule)
        lines.append([
            row.rule, number(row.efficiency, 100, 1), number(row.throughput, digits=0), number(row.healthy, 100, 1),
            number(row.median_age), number(paper.efficiency if paper else None, digits=0),
            number(paper.throughput if paper else None, digits=0),
        ])  # fmt: skip
    return table(head, lines)


def table_of_tuning(findings: Findings) -> str:
    """Return the rates tried and what they gave on the validation part."""
    rates = sorted({rate for tuned in findings.tuned.values() for rate in tuned.tried})
    lines = [
        [rule, *(number(tuned.tried.get(rate), 100) for rate in rates), f"{tuned.rate:g}", tuned.note or "-"]
        for rule, tuned in findings.tuned.items()
    ]
    return table(["rule", *(f"rate {rate:g}" for rate in rates), "chosen", "remark"], lines)


def table_of_counts(rows: Sequence[Row]) -> str:
    """Return how the two counts of bytes agree, and whether the replicas mixed."""
    head = ["rule", "interface less packet headers, by socket", "runs that disagree", "mixing"]
    return table(
        head,
        [
            [
                row.rule, number(row.agreement, digits=4),
                ", ".join(f"seed {seed}" for seed in row.disagreeing) or "none", ", ".join(row.mixing),
            ]
            for row in rows
        ],
    )  # fmt: skip


def table_of_the_paper() -> str:
    """Return the paper's tables as they are."""
    head = ["method", "rules here", "bandwidth, %", "accuracy, %", "efficiency, %", "images/s", "128 workers, %"]
    return table(
        head,
        [
            [
                row.method, ", ".join(row.rules), f"{row.bandwidth:g}", f"{row.accuracy:g}", f"{row.efficiency:g}",
                str(row.throughput), number(row.efficiency_at_128, digits=0),
            ]
            for row in ROWS
        ],
    )  # fmt: skip


def to_markdown(report: Report) -> str:
    """Return the page."""
    findings, request = report.findings, report.findings.request
    workload = find_workload(request.workload)
    runs = findings.measured[request.rules[0]]
    samples = request.workers * request.steps * workload.batch
    extra = ", ".join(f"{name}={value}" for name, value in request.extra.items())
    about = (
        f"Measured on {os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}: "
        f"model `{request.model}` of {runs[0].parameters} parameters, {request.shards} shards, {request.steps} steps of "
        f"{workload.batch} {workload.unit} a worker ({samples} {workload.unit} for every rule), "
        f"{f'schedule {workload.schedule}, ' if workload.schedule else ''}a step takes "
        f"{request.pace:g} s at least, density {request.density:g} (times {SETTLE_FACTOR} in the last steps, of rate 0){', ' + extra if extra else ''}; "
        f"seeds {', '.join(map(str, request.seeds))}, ± is the standard deviation over them. Bytes: {report.counting}."
    )
    note_1 = (
        f"Accuracy is that of each worker's own replica on the test part. 100 % bandwidth is 2 * 4 * P = "
        f"{8 * runs[0].parameters / 1000:.1f} kB a worker and step. {_PAPER.capitalize()}: {SETTING}; "
        "those of its method, DAGrad, stand beside `gradient`, which does what its text says, and beside `state`."
    )
    note_2 = (
        f"Parallel efficiency is throughput by N times that of one worker alone at the same pace "
        f"({findings.alone.rate:.2f} steps/s). The straggler sleeps {SLEEP:g} s each step, for at most "
        f"{STRAGGLER_STEPS} steps; the healthy rate is that of all others, by theirs without it."
    )
    parts = [
        f"# The paper's tables on {request.workload}, {request.workers} workers",
        about,
        "## Table 1: bandwidth and accuracy",
        table_1(report.rows),
        note_1,
        *_describe_pair(report.pair),
        "## Table 2: efficiency and stragglers",
        table_2(report.rows, workload.unit),
        note_2,
        "## Learning rates",
        _describe_tuning(findings),
        "## How the bytes were counted",
        table_of_counts(report.rows),
        f"## The paper's own figures ({_PAPER})",
        f"{SETTING}; its efficiencies with 128 workers in the last column.",
        table_of_the_paper(),
        "## Targets",
        "\n".join(f"- {verdict.line}" for verdict in report.verdicts),
    ]
    return "\n\n".join(parts) + "\n"


def _describe_pair(pair: Pair | None) -> list[str]:
    """Return the section about the judged pair, where it has more than one seed."""
    if pair is None or pair.error is None:
        return []
    lines = [[rule, number(found, 100)] for rule, found in (("sync-ps", pair.sync), ("state", pair.state))]
    behind = f"{100 * pair.behind.mean:+.2f} (standard error {100 * pair.error:.2f})"
    lines.append(["state is behind by", behind])
    return [
        f"## The judged pair: state against sync-ps, seeds {', '.join(map(str, pair.seeds))}",
        table(["", "accuracy, %"], lines),
        "The difference is taken seed by seed. Other rows are of the seeds above; a few test sets cannot tell tenths of a point.",
    ]


def _describe_tuning(findings: Findings) -> str:
    request = findings.request
    if not any(tuned.tried for tuned in findings.tuned.values()):
        return f"One rate was given for all rules: {request.rates[0]:g}."
    seeds = f"seed {request.tune_seeds[0]}"
    if others := ", ".join(map(str, request.tune_seeds[1:])):
        seeds += f"; the best {FINALISTS} of them with seed {others} too"
    how = {"virtual": "in virtual time, one process a run", "process": "on real processes"}[findings.tuner]
    text = f"Chosen by accuracy on the validation part (percent), {how}, {seeds}."
    return f"{text}\n\n{table_of_tuning(findings)}"


def to_json(report: Report) -> dict[str, Any]:
    """Return the same as data: ``schema`` first."""
    findings = report.findings
    return {
        "schema": SCHEMA,
        "request": asdict(findings.request),
        "machine": {
            "cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version(),
        },
        "counting": report.counting,
        "rows": [asdict(row) for row in report.rows],
        "pair": None if report.pair is None else asdict(report.pair) | {"error": report.pair.error},
        "tuning": {
            "tuner": findings.tuner,
            "rules": {
                rule: {"rate": t.rate, "tried": [[rate, seen] for rate, seen in t.tried.items()], "note": t.note}
                for rule, t in findings.tuned.items()
            },
        },
        "runs": {rule: [run.to_json() for run in runs] for rule, runs in findings.measured.items()},
        "further": {rule: [run.to_json() for run in runs] for rule, runs in findings.further.items()},
        "stragglers": {rule: run.to_json() for rule, run in findings.stragglers.items()},
        "alone": findings.alone.to_json(),
        "seconds": findings.seconds,
        "published": {"setting": SETTING, "measured_here": False, "rows": [asdict(row) for row in ROWS]},
        "verdicts": [{"text": verdict.text, "met": verdict.met} for verdict in report.verdicts],
    }  # fmt: skip
