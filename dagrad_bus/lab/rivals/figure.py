"""``scoreboard.png``: bytes a step against accuracy, one panel for each kind of shards. Matplotlib is imported late."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.rivals.rows import Accuracy, Row
from dagrad_bus.lab.rivals.scoreboard import SHARDS
from dagrad_bus.lab.rivals.systems import OWN, REFERENCE
from dagrad_bus.workers.shards import Kind

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

TITLES: dict[Kind, str] = {"iid": "IID shards", "sorted": "label-sorted shards"}
COLOURS = ("#c4511d", "#2a7f62", "#7b5ea7", "#d08a1d", "#8c564b", "#444444")
MARKERS = ("s", "^", "D", "+", "v", "X")
"""One a colour; different forms, as points may lie upon one another."""
OWN_COLOUR, REFERENCE_COLOUR = "#1b4f8a", "#777777"
_GRID = "#d9d9d9"
_DPI = 140
_ROOM = 0.5
"""Share of the panel's range by which the reference may lie below all others and still be drawn."""


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
    handles: dict[str, Artist] = {}
    for axes in panels:
        found, names = axes.get_legend_handles_labels()
        handles |= dict(zip(names, found, strict=True))
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside right center", frameon=False, fontsize=9)
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
    reference, low, high = None, 100.0, 0.0
    for number, row in enumerate(rows):
        found = row.accuracy[kind]
        if found is None:
            continue
        if row.system == REFERENCE:
            reference = found.mean * 100
        elif row.bytes_per_step:
            _point(axes, row, found, number)
            low, high = min(low, found.worst * 100), max(high, found.mean * 100)
    axes.margins(x=0.25, y=0.12)
    if reference is not None:
        _reference(axes, reference, is_near=reference > low - _ROOM * (high - low))


def _point(axes: Axes, row: Row, found: Accuracy, number: int) -> None:
    """Draw mean and, at the end of a line, the worst worker."""
    assert row.bytes_per_step is not None
    place, mean, worst = row.bytes_per_step / 1000, found.mean * 100, found.worst * 100
    is_own, kind = row.system == OWN, number % len(COLOURS)
    shade = OWN_COLOUR if is_own else COLOURS[kind]
    axes.plot([place, place], [worst, mean], color=shade, linewidth=1, alpha=0.6)
    axes.plot([place], [mean], marker="o" if is_own else MARKERS[kind], markersize=10 if is_own else 8, color=shade,
              markeredgewidth=1.8, fillstyle="full" if is_own else "none", linestyle="", label=row.title)  # fmt: skip


def _reference(axes: Axes, accuracy: float, *, is_near: bool) -> None:
    """Say what is reached without exchange; as a line where that does not press all others together."""
    if is_near:
        axes.axhline(accuracy, color=REFERENCE_COLOUR, linestyle="--", linewidth=1, label="no exchange")
        return
    axes.annotate(f"no exchange: {accuracy:.1f} %, far below", (0.02, 0.02), xycoords="axes fraction", fontsize=9,
                  color=REFERENCE_COLOUR)  # fmt: skip
