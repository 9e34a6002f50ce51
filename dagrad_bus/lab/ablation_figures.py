"""One PNG a study, one panel a group of cells. Matplotlib is imported when the first is drawn, without pyplot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.ablation_pages import PARTS, Report, Row, best_reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MEAN, _WORST, _MODEL, _REFERENCE = "#1b4f8a", "#c4511d", "#2a7f62", "#444444"
_GRID = "#d9d9d9"
_DPI = 140
_ACROSS = 3
"""Panels in a row, at most."""


def draw(report: Report, file: Path) -> Path:
    """Draw what is at hand.

    Args:
        report: with at least one row.
        file: of the PNG.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("figures need matplotlib: pip install 'dagrad-bus[digits]'") from None
    groups = report.groups
    across = min(_ACROSS, len(groups))
    down = -(-len(groups) // across)
    height = 4.6 if report.study.axis != "names" else 1.7 + 0.42 * max(map(len, groups.values()))
    figure = Figure(figsize=(1.6 + 4.5 * across, 0.9 + height * down), layout="constrained")
    draw_panels(figure, report, down, across)
    figure.savefig(file, dpi=_DPI)
    return file


def draw_panels(figure: Figure, report: Report, down: int, across: int) -> None:
    """Draw a panel for each group of cells, and one legend for all."""
    study, scale = report.study, report.scale
    seeds = f"{report.seeds} seeds, ± standard deviation" if report.seeds > 1 else "1 seed"
    state = "" if report.is_whole else "; NOT FINISHED"
    lengths = sorted({cell.experiment.steps for cell in study.cells})
    steps = f"{' to '.join(map(str, dict.fromkeys((lengths[0], lengths[-1]))))} steps"
    figure.suptitle(f"{study.title}\n{scale.task}, {scale.workers} workers, {steps}, {seeds}{state}", fontsize=11)
    for number, (group, rows) in enumerate(report.groups.items()):
        axes = figure.add_subplot(down, across, number + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color=_GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_title(group, loc="left", fontsize=11, fontweight="bold")
        label = f"{PARTS[scale.report]} accuracy, %"
        if study.axis == "names":
            _draw_names(axes, rows, label, shows_names=number % across == 0 or not _same_names(report))
        else:
            _draw_curve(axes, report, rows, label)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=9, loc="outside lower center", ncols=4)


def _same_names(report: Report) -> bool:
    return len({tuple(row.cell.label for row in rows) for rows in report.groups.values()}) == 1


def _draw_names(axes: Axes, rows: Sequence[Row], label: str, *, shows_names: bool) -> None:
    """Draw settings one below the other, accuracy to the right."""
    places = list(range(len(rows)))
    means, spreads = _percent(rows)
    axes.errorbar(means, places, xerr=spreads, fmt="o", color=_MEAN, markersize=7, capsize=3, label="own replicas")
    axes.plot(
        [100 * row.worst.mean for row in rows], places, "|", color=_WORST, markersize=11, markeredgewidth=2,
        label="worst worker",
    )  # fmt: skip
    axes.plot(
        [100 * row.mean_model.mean for row in rows], places, "D", color=_MODEL, markersize=5, markerfacecolor="none",
        label="mean model",
    )  # fmt: skip
    reference = best_reference(rows)
    if reference is not None:
        axes.axvline(
            100 * reference.accuracy.mean, color=_REFERENCE, linestyle="--", linewidth=1, label="best reference"
        )
    axes.set_yticks(places, [row.cell.label for row in rows] if shows_names else [""] * len(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.margins(x=0.08)


def _draw_curve(axes: Axes, report: Report, rows: Sequence[Row], label: str) -> None:
    """Draw accuracy over the values of a setting, or over the bytes measured."""
    study = report.study
    places = [100 * row.dense_share.mean if study.axis == "bytes" else row.cell.value or 0.0 for row in rows]
    means, spreads = _percent(rows)
    if study.log:
        axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:.3g}" for place in places])
    axes.set_xticks([], minor=True)
    axes.errorbar(
        places, means, yerr=spreads, fmt="o-", color=_MEAN, markersize=6, capsize=3, linewidth=1.5, label="own replicas"
    )
    axes.plot(places, [100 * row.worst.mean for row in rows], "_", color=_WORST, markersize=11, markeredgewidth=2,
              label="worst worker")  # fmt: skip
    axes.plot(places, [100 * row.mean_model.mean for row in rows], "D", color=_MODEL, markersize=5,
              markerfacecolor="none", label="mean model")  # fmt: skip
    axes.set_xlabel(study.axis_label)
    axes.set_ylabel(label)


def _percent(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Return mean accuracies and their spreads in percent."""
    return [100 * row.accuracy.mean for row in rows], [100 * (row.accuracy.spread or 0.0) for row in rows]
