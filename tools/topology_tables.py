"""Topologies on the terminal, by rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from dagrad_bus.tools.tables import format_number, format_share, make_console
from dagrad_bus.topology.comparison import Row, compare
from dagrad_bus.topology.graph import Topology
from dagrad_bus.topology.kinds import KINDS
from dagrad_bus.topology.spectrum import Spectrum
from dagrad_bus.topology.structure import Structure

if TYPE_CHECKING:
    from dagrad_bus.tools.topology_rewire import Rewiring


def measure(kinds: Sequence[str], sizes: Sequence[int], *, degree: int, seeds: int) -> list[Row]:
    """Measure every kind at every size, with a bar on stderr."""
    work = [(kind, size, seeds if KINDS[kind].random else 1) for size in sizes for kind in kinds]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=make_console(to_stderr=True), transient=True) as bar:
        task = bar.add_task("", total=sum(count for _, _, count in work))
        rows: list[Row] = []
        for kind, size, count in work:
            bar.update(task, description=f"{kind}, {size} workers")
            done = bar.tasks[0].completed
            rows.append(compare(kind, size, degree=degree, seeds=count, told=lambda: bar.advance(task)))
            bar.update(task, completed=done + count)
        return rows


def comparison(rows: Sequence[Row], *, degree: int) -> RenderableType:
    """Return the table of ``dagrad topology compare``."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)  # its dividers are blanks: 80 columns are enough
    published = any(row.gap_published is not None for row in rows)
    table.add_column("\nkind", no_wrap=True)
    heads = [
        "N",
        "gap",
        *["named"] * published,
        "to\n1e-3",
        "sends\n/round",
        "dia-\nmeter",
        "edges\n/leave",
        "whole\nat 25 %",
    ]
    for head in heads:
        table.add_column(head if "\n" in head else f"\n{head}", justify="right", no_wrap=True)
    for i, row in enumerate(rows):
        table.add_row(*_cells(row, published), end_section=i + 1 < len(rows) and rows[i + 1].size != row.size)
    notes = [Text(_NOTES.format(degree=degree, seeds=max((row.seeds for row in rows), default=1)), style="dim")]
    if published:
        notes.append(
            Text("named: the gap that the project's design names for degree 4, from fewer draws.", style="dim")
        )
    notes += [Text(f"{row.kind}, {row.size}: {row.refused}", style="yellow") for row in rows if row.refused]
    return Group(table, *notes)


_NOTES = (
    "Degree {degree}; means over {seeds} draws where chance has a part, +- standard error. gap: 1 - |lambda_2|; = means the "
    "exact mean after so many rounds. -: cannot run live, or some draw fell into parts. edges/leave: opened when one leaves. "
    "whole at 25 %: in how many of 100 draws the rest is connected when a quarter dies at once, before any repair."
)


def _cells(row: Row, published: bool) -> list[str | Text]:
    if row.gap is None:
        return [row.kind, str(row.size), Text("none", style="yellow")]
    error = "" if row.gap_error is None else f" ±{row.gap_error:.3f}".replace("±0", "±")
    named = ["-" if row.gap_published is None else f"{row.gap_published:.3f}"] if published else []
    rounds = f"= {row.exact_after}" if row.exact_after else format_number(row.rounds, 0)
    cells: list[str | Text] = [row.kind, str(row.size), f"{row.gap:.3f}{error}", *named, rounds]
    sends = format_number(row.sends, 0 if row.sends is not None and row.sends == round(row.sends) else 2)
    return [
        *cells,
        sends,
        format_number(row.diameter, 1),
        format_number(row.per_leave),
        "-" if row.survives is None else f"{100 * row.survives:.3g}",
    ]


def inspection(found: Topology, speed: Spectrum, shape: Structure) -> RenderableType:
    """Return what ``dagrad topology inspect`` shows."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    sequence = len(found.rounds) > 1
    links = "directed links" if found.directed else "edges"
    title = Text(f"{found.kind}, {found.size} workers", style="bold")
    if sequence:
        title.append(f", {len(found.rounds)} rounds{'' if found.periodic else ' drawn'}", style="bold")
    rows: list[tuple[str, RenderableType]] = [
        (links, f"{shape.edges}{' over all rounds' if sequence else ''}"),
        ("degree", _degree(shape, sequence)),
        ("connected", Text("yes") if shape.connected else Text("no: it falls into parts", style="bold red")),
        ("distances", _distances(shape)),
        ("clustering", f"{shape.clustering:.3f}"),
        ("spectral gap", f"{speed.gap:.4f}  (|lambda_2| {speed.second:.4f}{' a round' if sequence else ''})"),
        ("to 1e-3", _rounds(speed)),
        ("mean kept", "yes" if speed.keeps_mean else "in expectation only: columns of W do not sum to one"),
        (
            "after deaths",
            ", ".join(f"{format_share(d)}: whole in {format_share(s)}" for d, s in shape.survives.items()),
        ),
        ("liars", _liars(shape)),
    ]
    for name, value in rows:
        table.add_row(name, value)
    return Group(title, table)


def _degree(shape: Structure, sequence: bool) -> str:
    least, most = shape.degree_least, shape.degree_most
    text = f"{least}" if least == most else f"{least} to {most}, mean {shape.degree_mean:.2f}"
    return f"{text} over all rounds; at most {shape.sends_most} a round" if sequence else text


def _distances(shape: Structure) -> str:
    if shape.diameter is None or shape.mean_path is None:
        return "some are not reached"
    return f"diameter {shape.diameter}, mean {shape.mean_path:.2f}"


def _rounds(speed: Spectrum) -> str:
    if speed.exact_after is not None:
        return f"exact mean after {speed.exact_after} rounds"
    return "never" if speed.rounds is None else f"{speed.rounds} rounds predicted"


def _liars(shape: Structure) -> str:
    trimmed = f"a trimmed mean outvotes {shape.trimmed} of any worker's neighbours"
    if shape.robustness is None:
        return trimmed
    return f"{trimmed}; W-MSR is sure of {shape.liars} (r >= {shape.robustness})"


def rewiring(done: Rewiring) -> RenderableType:
    """Return what ``dagrad topology rewire`` shows."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("")
    for head in ("graph", "edges", "degree", "gap", "to 1e-3"):
        table.add_column(head, justify="left" if head == "graph" else "right")
    for name, side in (("before", done.before), ("after", done.after)):
        rounds = "never" if side.rounds is None else f"{side.rounds} rounds"
        table.add_row(name, side.text, str(side.edges), side.degrees, f"{side.gap:.4f}", rounds)
    change = f"{done.members} workers; {done.kept} edges kept, {done.new} new, {done.closed} closed"
    return Group(table, Text(change), _outcome(done))


def _outcome(done: Rewiring) -> Text:
    if done.version is None:
        return Text("dry run: nothing was published", style="yellow")
    text = f"version {done.version}: {len(done.adopted)} workers have it after {done.seconds:.2f} s"
    if done.silent:
        return Text(f"{text}; not heard of: {', '.join(done.silent)}", style="bold red")
    return Text(text, style="green")
