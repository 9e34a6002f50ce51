"""Figures of a run as PNG files: learning curves, traffic, ages, consensus distance.

Matplotlib is imported when the first figure is drawn, without pyplot: no window, no global state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.metrics import AGE_EDGES, sum_bins
from dagrad_bus.tools.summary import Summary
from dagrad_bus.workers.launch.journal import Record, numbers_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STRONG = "#1b4f8a"
_THIN = "#7fa8d1"
_ACCENT = "#c4511d"
_GRID = "#d9d9d9"
_SIZE = (7.6, 4.4)
_DPI = 140

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps, rising, and a value at each."""


def draw_figures(folder: Path, summary: Summary, records: Sequence[Record]) -> list[Path]:
    """Draw every figure the run has numbers for; return the files.

    Args:
        folder: made if it is missing.
        summary: of the run.
        records: its journals.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import rcParams

    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    drawings: dict[str, Callable[[Axes], bool]] = {
        "accuracy": partial(_draw_logged, "accuracy", records, summary.accuracy),
        "loss": partial(_draw_logged, "loss", records, summary.loss),
        "bytes": partial(_draw_bytes, records, summary),
        "ages": partial(_draw_ages, records, summary),
        "consensus": partial(_draw_consensus, summary),
    }
    rcParams["font.size"] = 10
    for name, draw in drawings.items():
        figure, axes = _new_figure()
        if draw(axes):
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=_DPI)
    return paths


def _new_figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _title(axes: Axes, title: str, caption: str) -> None:
    """Write a title and, below it, a quiet line with the numbers to remember."""
    axes.set_title(title, loc="left", pad=20, fontsize=12, fontweight="bold")
    axes.text(0, 1.015, caption, transform=axes.transAxes, fontsize=9, color="#555555", va="bottom")


def _draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw each worker thin and their mean bold, over the steps that all of them cover."""
    for number, (steps, values) in enumerate(curves):
        label = f"each of {len(curves)} workers" if number == 0 else None
        axes.plot(steps, values, color=_THIN, linewidth=0.9, alpha=0.8, label=label)
    if len(curves) > 1 and (mean := mean_curve(curves)) is not None:
        axes.plot(*mean, color=_STRONG, linewidth=2.4, label="mean of workers")
    axes.set_xlabel("local step")
    axes.margins(x=0.01)
    axes.legend(frameon=False)


def mean_curve(curves: Sequence[Curve]) -> Curve | None:
    """Return the mean of the curves, interpolated, where more than half of them are defined; None if nowhere."""
    grid = np.unique(np.concatenate([steps for steps, _ in curves]))
    rows = np.stack([np.interp(grid, steps, values, left=np.nan, right=np.nan) for steps, values in curves])
    enough = np.isfinite(rows).sum(axis=0) * 2 > len(curves)
    if enough.sum() < 2:
        return None
    return grid[enough], np.nanmean(rows[:, enough], axis=0)


def _draw_logged(name: str, records: Sequence[Record], final: Mapping[str, float] | None, axes: Axes) -> bool:
    curves = [curve for record in records if (curve := logged_curve(record, name)) is not None]
    if not curves or final is None:
        return False
    _draw_curves(axes, curves)
    axes.set_ylabel("accuracy of each own replica (share)" if name == "accuracy" else "training loss")
    numbers = f"at the end: mean {final['mean']:.4f}, worst {final['worst']:.4f}, standard deviation {final['std']:.4f}"
    _title(axes, f"{name.capitalize()} against step", numbers)
    return True


def logged_curve(record: Record, name: str) -> Curve | None:
    """Return what a worker logged under ``name``; None if nothing."""
    points = [(entry["step"], numbers_of(entry)[name]) for entry in record.logs if name in numbers_of(entry)]
    return _to_curve(points)


def _to_curve(points: Sequence[tuple[float, float]]) -> Curve | None:
    if not points:
        return None
    array = np.asarray(sorted(points), dtype=np.float64)
    return array[:, 0], array[:, 1]


def traffic_curve(record: Record) -> Curve | None:
    """Return the bytes a worker sent per step between its progress reports; None with less than two of them."""
    points: list[tuple[float, float]] = []
    for former, latter in zip(record.progress, record.progress[1:], strict=False):
        steps = latter["step"] - former["step"]
        size = latter["counters"].get("bytes_sent", 0) - former["counters"].get("bytes_sent", 0)
        if steps > 0:
            points.append((latter["step"], size / steps))
    return _to_curve(points)


def _draw_bytes(records: Sequence[Record], summary: Summary, axes: Axes) -> bool:
    curves = [curve for record in records if (curve := traffic_curve(record)) is not None]
    if summary.bytes_per_step is None or not any(values.any() for _, values in curves):
        return False
    axes.set_yscale("log")
    caption = f"mean {summary.bytes_per_step / 1e3:,.2f} kB per worker and step".replace(",", " ")
    if summary.parameters and summary.dense_share is not None:
        dense = 8 * summary.parameters
        axes.axhline(dense, color=_ACCENT, linestyle="--", linewidth=1.5, label="synchronous dense, 2 · 4 · P bytes")
        caption += f": {100 * summary.dense_share:.3g} % of synchronous dense training"
    _draw_curves(axes, [(steps, np.where(values > 0, values, np.nan)) for steps, values in curves])
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.5, high * 4)  # room for the legend above the dense line
    axes.set_ylabel("bytes per worker and step, headers included")
    _title(axes, "Bytes sent per step", caption)
    return True


def _draw_ages(records: Sequence[Record], summary: Summary, axes: Axes) -> bool:
    bins = sum_bins([record.ages for record in records])
    total = sum(bins)
    if total == 0:
        return False
    used = max(place for place, count in enumerate(bins) if count) + 1
    labels = [f"{edge:g}" for edge in AGE_EDGES] + [f"> {AGE_EDGES[-1]:g}"]
    shares = 100 * np.asarray(bins[:used]) / total
    axes.bar(np.arange(used), shares, width=0.86, color=_THIN, edgecolor=_STRONG, linewidth=0.8)
    axes.set_xticks(np.arange(used), labels[:used])
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("age up to (the receiver's local steps)")
    axes.set_ylabel("share of versions mixed (%)")
    median = "-" if summary.median_age is None else f"{summary.median_age:.2f}"
    text = f"{total} versions, {len(records)} workers; median {median} steps"
    _title(axes, "Age of versions when mixed", text)
    return True


def _draw_consensus(summary: Summary, axes: Axes) -> bool:
    if not summary.consensus:
        return False
    steps, values = zip(*summary.consensus, strict=True)
    axes.plot(steps, values, color=_STRONG, linewidth=2, marker="o" if len(steps) < 30 else None, markersize=4)
    axes.set_ylim(0, max(values) * 1.08 or 1.0)
    axes.margins(x=0.01)
    axes.set_xlabel("local step (equal for all workers)")
    axes.set_ylabel(r"$\Vert x_i - \bar{x} \Vert \; / \; \Vert \bar{x} \Vert$, mean over workers")
    _title(axes, "Consensus distance", f"last {values[-1]:.4f}, largest {max(values):.4f}; 0: all replicas are equal")
    return True
