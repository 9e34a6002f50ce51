"""``scoreboard.png``: bytes a step against accuracy, one panel for each kind of shards. Matplotlib is imported late."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.rivals.rows import Row
from dagrad_bus.lab.rivals.scoreboard import SHARDS
from dagrad_bus.lab.rivals.systems import OWN, REFERENCE
from dagrad_bus.workers.shards import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES: dict[Kind, str] = {"iid": "IID shards", "sorted": "label-sorted shards"}
COLOURS = ("#c4511d", "#2a7f62", "#7b5ea7", "#d08a1d", "#8c564b", "#444444")
OWN_COLOUR = "#1b4f8a"
_GRID = "#d9d9d9"
_DPI = 140
_DENSE = 600.0
"""Kilobytes a step from which on a name stands left of its point."""
_NEAR = 0.02
"""Distance, as logarithm of bytes and as share of right answers, below which names would cover one another."""


def draw(rows: Sequence[Row], file: Path) -> Path:
    """Draw the rows that have both numbers; a line shows the system without exchange.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("the figure needs matplotlib: pip install 'dagrad-bus[digits]'") from None
    figure = Figure(figsize=(11.0, 4.8), layout="constrained")
    panels = [figure.add_subplot(1, len(SHARDS), place + 1) for place in range(len(SHARDS))]
    for axes, kind in zip(panels, SHARDS, strict=True):
        _panel(axes, rows, kind)
    figure.savefig(file, dpi=_DPI)
    return file


def _panel(axes: Axes, rows: Sequence[Row], kind: Kind) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_title(TITLES[kind], loc="left", fontsize=12, fontweight="bold")
    axes.set_xscale("log")
    axes.set_xlabel("kB a worker and step, at the interface")
    axes.set_ylabel("accuracy of own replicas, mean and worst, %")
    taken: list[tuple[float, float]] = []
    for number, row in enumerate(rows):
        found = row.accuracy[kind]
        if found is None:
            continue
        if row.system == REFERENCE:
            axes.axhline(found.mean * 100, color="#9a9a9a", linestyle="--", linewidth=1)
            axes.annotate(row.title, (0.99, found.mean * 100), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                          fontsize=8, color="#777777")  # fmt: skip
        elif row.bytes_per_step:
            place = row.bytes_per_step / 1000
            near = sum(
                1 for other, high in taken if abs(log10(other / place)) < _NEAR and abs(high - found.mean) < _NEAR
            )
            taken.append((place, found.mean))
            _point(axes, row, kind, COLOURS[number % len(COLOURS)], near)
    axes.margins(x=0.25, y=0.12)


def _point(axes: Axes, row: Row, kind: Kind, colour: str, near: int) -> None:
    """Draw mean and worst; the name of a dense system stands left, above or ``near`` lines lower, of others right."""
    found = row.accuracy[kind]
    assert row.bytes_per_step is not None
    assert found is not None
    place, mean, worst = row.bytes_per_step / 1000, found.mean * 100, found.worst * 100
    is_own, is_dense = row.system == OWN, place > _DENSE
    shade = OWN_COLOUR if is_own else colour
    axes.plot([place, place], [worst, mean], color=shade, linewidth=1, alpha=0.6)
    axes.plot([place], [mean], marker="o" if is_own else "s", markersize=9 if is_own else 6, color=shade)
    offset = (-7, 4 - 10 * near) if is_dense else (7, -10 - 10 * near)
    axes.annotate(row.title, (place, mean), xytext=offset, textcoords="offset points", fontsize=8, color=shade,
                  ha="right" if is_dense else "left")  # fmt: skip
