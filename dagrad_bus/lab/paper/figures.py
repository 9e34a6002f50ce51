"""Figures 2 and 3 as PNG files. Matplotlib is imported when the first is drawn, without pyplot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.paper.bench import Findings
from dagrad_bus.lab.paper.measuring import Measured
from dagrad_bus.lab.paper.published import ROWS, SETTING
from dagrad_bus.lab.paper.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {
    "sync-ps": ("#444444", "s"), "async-ps": ("#8c564b", "D"), "gossip-dense": ("#2a7f62", "^"),
    "gossip-qsgd": ("#7b5ea7", "v"), "choco": ("#d08a1d", "P"), "gradient": ("#c4511d", "X"),
    "state": ("#1b4f8a", "o"), "local": ("#9a9a9a", "*"),
}  # fmt: skip
"""Colour and marker of each rule, the same in all figures."""
_OTHER = ("#000000", "d")
FALL = 8.0
"""Points behind the best from which on a rule is drawn at the lower edge of figure 2."""
_GRID = "#d9d9d9"
_DPI = 140


def draw(findings: Findings, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw ``figure2.png`` and ``figure3.png``; return the files.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("figures need matplotlib: pip install 'dagrad-bus[digits]'") from None
    figures = {"figure2.png": Figure(figsize=(11.0, 4.8), layout="constrained")}
    draw_frontier(figures["figure2.png"], findings, rows)
    figures["figure3.png"] = Figure(figsize=(8.4, 4.8), layout="constrained")
    draw_traffic(figures["figure3.png"], findings)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=_DPI)
    return [folder / name for name in figures]


def _prepare(axes: Axes, title: str, caption: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", pad=20, fontsize=12, fontweight="bold")
    axes.text(0, 1.015, caption, transform=axes.transAxes, fontsize=9, color="#555555", va="bottom")


def draw_frontier(figure: Figure, findings: Findings, rows: Sequence[Row]) -> None:
    """Draw bandwidth against accuracy: measured here on the left, the paper's points on the right."""
    request = findings.request
    ours, theirs = figure.subplots(1, 2, width_ratios=(3, 2))
    seeds = f"{len(request.seeds)} seed{'s' if len(request.seeds) > 1 else ''}"
    caption = f"{request.workload}, {request.workers} workers, {request.shards} shards; {seeds}, ± standard deviation"
    _prepare(ours, "Figure 2: measured here", caption)
    floor = max(100 * row.accuracy.mean for row in rows) - FALL
    for row in rows:
        if 100 * row.accuracy.mean < floor:  # it would press the others together
            _draw_below(ours, row, floor)
            continue
        colour, marker = STYLES.get(row.rule, _OTHER)
        ours.errorbar(
            100 * row.bandwidth.mean, 100 * row.accuracy.mean,
            xerr=100 * (row.bandwidth.spread or 0.0), yerr=100 * (row.accuracy.spread or 0.0),
            fmt=marker, color=colour, markersize=9, capsize=3, elinewidth=1, label=row.rule,
        )  # fmt: skip
    ours.set_xscale("log")
    ours.xaxis.set_major_formatter("{x:g}")
    ours.set_xlabel("bandwidth, % of synchronous dense training (log)")
    ours.set_ylabel("test accuracy, mean over own replicas (%)")
    ours.legend(frameon=False, fontsize=9, loc="best")
    ours.margins(0.12)
    _prepare(theirs, "The paper's points, not measured here", SETTING)
    for point in ROWS:
        colour, marker = STYLES[point.rules[0]]
        theirs.plot(point.bandwidth, point.accuracy, marker, color=colour, markersize=9, markerfacecolor="white")
        theirs.annotate(
            point.method.replace(", ", ",\n"), (point.bandwidth, point.accuracy), textcoords="offset points",
            xytext=(9, -4), fontsize=8, color="#333333",
        )  # fmt: skip
    theirs.set_xlim(15, 160)
    theirs.margins(y=0.15)
    theirs.set_xlabel("bandwidth, % of synchronous SGD")
    theirs.set_ylabel("accuracy (%)")


def _draw_below(axes: Axes, row: Row, floor: float) -> None:
    """Draw a rule that is far behind at the lower edge, its accuracy written beside it."""
    colour, marker = STYLES.get(row.rule, _OTHER)
    at = (100 * row.bandwidth.mean, floor)
    axes.plot(*at, marker, color=colour, markersize=9, markerfacecolor="white", label=f"{row.rule}, far below")
    axes.annotate(
        f"↓ {100 * row.accuracy.mean:.1f} %", at, textcoords="offset points", xytext=(8, -3), fontsize=8, color=colour
    )


def mean_curve(runs: Sequence[Measured]) -> tuple[list[int], list[float]]:
    """Return steps and bytes a step, mean over the runs, at the steps that all of them have."""
    curves = [dict(run.curve) for run in runs if run.curve]
    steps = sorted(set[int].intersection(*(set(curve) for curve in curves))) if curves else []
    return steps, [float(np.mean([curve[step] for curve in curves])) for step in steps]


def draw_traffic(figure: Figure, findings: Findings) -> None:
    """Draw the bytes of each step over training, one line a rule."""
    request = findings.request
    axes = figure.subplots()
    caption = f"{request.workload}, {request.workers} workers; handed to ZeroMQ, mean over workers and seeds"
    _prepare(axes, "Figure 3: bytes per step over training", caption)
    axes.set_yscale("log")
    for rule in request.rules:
        steps, sizes = mean_curve(findings.measured[rule])
        shown = [(step, size / 1000) for step, size in zip(steps, sizes, strict=True) if size > 0]
        if shown:
            colour, marker = STYLES.get(rule, _OTHER)
            axes.plot(*zip(*shown, strict=True), color=colour, marker=marker, markersize=5, linewidth=1.6, label=rule)
    dense = 8 * findings.measured[request.rules[0]][0].parameters / 1000
    axes.axhline(dense, color="#000000", linestyle="--", linewidth=1.2, label="synchronous dense, 2 · 4 · P")
    axes.set_xlabel("local step")
    axes.set_ylabel("kB sent per worker and step (log)")
    axes.margins(x=0.02)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
