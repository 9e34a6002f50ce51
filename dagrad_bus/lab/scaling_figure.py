"""The figure of ``dagrad simulate``: parallel efficiency and age against the number of workers, a column a link."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.paper.figures import STYLES
from dagrad_bus.lab.paper.published import ROWS
from dagrad_bus.lab.scaling import Question, Row

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_DPI = 140
_GRID = "#d9d9d9"
_OTHER = ("#000000", "d")
PAPER_WIRE = "10gbit"
"""The link of the paper's figures."""
PAPER_WORKERS = 32, 128


def draw(question: Question, rows: Sequence[Row], file: Path, caption: str) -> Path:
    """Draw it as a PNG file; return the file.

    Args:
        question: what was asked.
        rows: what came out.
        file: its folder is made.
        caption: what the numbers rest on.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("figures need matplotlib: pip install 'dagrad-bus[digits]'") from None
    wires = list(question.wires)
    width = 4.4 + 3.8 * len(wires)
    figure = Figure(figsize=(width, 7.2), layout="constrained")
    grid = figure.subplots(2, len(wires), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 2))
    for column, wire in enumerate(wires):
        _draw_efficiency(grid[0, column], question, [row for row in rows if row.wire == wire], wire)
        _draw_ages(grid[1, column], question, [row for row in rows if row.wire == wire])
    grid[0, 0].set_ylabel("parallel efficiency, %")
    grid[1, 0].set_ylabel("median age, steps")
    handles, labels = _legend(grid[0, 0], grid[0, -1])
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    told = "\n".join(fill(line, round(13 * width)) for line in (question.profile.title, caption))
    figure.suptitle(told, fontsize=9, x=0.01, ha="left")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=_DPI)
    return file


def _legend(*axes: Axes) -> tuple[list[Artist], list[str]]:
    found: dict[str, Artist] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(str(label), handle)
    return list(found.values()), list(found)


def _prepare(axes: Axes, question: Question) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xscale("log", base=2)
    axes.set_xticks(question.workers, [str(count) for count in question.workers], minor=False)
    axes.minorticks_off()


def _draw_efficiency(axes: Axes, question: Question, rows: Sequence[Row], wire: str) -> None:
    _prepare(axes, question)
    axes.set_title(wire, loc="left", fontsize=11, fontweight="bold")
    axes.set_ylim(-3, 104)
    for place, rule in enumerate(question.rules):
        points = [(row.timing.workers, 100 * row.timing.efficiency) for row in rows if row.timing.rule == rule]
        _plot(axes, points, rule, place)
    if wire == PAPER_WIRE and question.profile.name == "resnet50":
        _draw_paper(axes)


def _draw_paper(axes: Axes) -> None:
    for row in ROWS:
        colour, marker = STYLES.get(row.rules[0], _OTHER)
        values = [row.efficiency] if row.efficiency_at_128 is None else [row.efficiency, row.efficiency_at_128]
        axes.plot(
            PAPER_WORKERS[: len(values)], values, linestyle=":", color=colour, marker=marker, fillstyle="none",
            linewidth=0.9, label=f"paper: {row.method}",
        )  # fmt: skip


def _draw_ages(axes: Axes, question: Question, rows: Sequence[Row]) -> None:
    _prepare(axes, question)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlabel("workers")
    for place, rule in enumerate(question.rules):
        known = [(row.timing.workers, row.timing.median_age) for row in rows if row.timing.rule == rule]
        _plot(axes, [(count, age) for count, age in known if age is not None], rule, place)


def _plot(axes: Axes, points: Sequence[tuple[int, float]], rule: str, place: int) -> None:
    """Draw one rule; equal ones stay visible below each other, the first on top and small."""
    colour, marker = STYLES.get(rule, _OTHER)
    axes.plot(
        [count for count, _ in points], [value for _, value in points], color=colour, marker=marker, label=rule,
        linewidth=1.2 + 0.2 * place, markersize=4.5 + 0.5 * place, zorder=3 - 0.1 * place,
    )  # fmt: skip
