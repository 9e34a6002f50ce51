"""Pictures of topologies, by matplotlib: workers as dots coloured by degree, links as lines or arrows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.errors import UsageError
from dagrad_bus.topology.formats import networkx
from dagrad_bus.topology.graph import Round, Topology
from dagrad_bus.topology.spectrum import spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

Layout = Literal["circular", "spring", "kamada"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
SUFFIXES = (".png", ".svg")
MOST_DRAWN = 1024
"""Workers in a picture."""
MOST_PANELS = 12
"""Rounds of a sequence that are drawn."""
_LABELLED = 40
_COLOURS = "viridis"
_LINK = "#5b6f86"
_SIDE = 3.6
_ARROWS = 4096
Places = NDArray[np.float64]
"""float64[size, 2], within -1 .. 1."""


def place(one: Round, layout: Layout) -> Places:
    """Return where each worker is drawn; the same graph gives the same picture.

    ``circular``: in the order of the numbers. ``spring``: Fruchterman and Reingold 1991, by networkx. ``kamada``: by
    stress majorisation, the energy of Kamada and Kawai 1989 as Gansner, Koren and North 2004 minimise it.
    """
    angles = np.pi / 2 - 2 * np.pi * np.arange(one.size) / one.size
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    match layout:
        case "circular":
            return circle
        case "spring":
            return _spring(one, circle)
        case "kamada":
            return _stress(one, circle)


def _centred(places: Places) -> Places:
    places = places - places.mean(axis=0)
    return np.asarray(places / max(1e-9, np.abs(places).max()), np.float64)


def _spring(one: Round, start: Places) -> Places:
    nx = networkx()
    graph = nx.Graph()
    graph.add_nodes_from(range(one.size))
    graph.add_edges_from(one.edges.tolist())
    found = nx.spring_layout(graph, pos=dict(enumerate(start)), seed=1, iterations=200, method="force")
    return _centred(np.array([found[i] for i in range(one.size)]))


def _stress(one: Round, start: Places, iterations: int = 150) -> Places:
    hops = _distances(one)
    pull = 1 / np.maximum(hops, 1) ** 2
    np.fill_diagonal(pull, 0)
    noise: Places = 0.05 * np.random.default_rng(1).standard_normal(start.shape)  # off the circle's symmetry
    places: Places = start * hops.max() / 2 + noise
    for _ in range(iterations):
        apart: Places = places[:, None] - places[None]
        length: Places = np.maximum(np.sqrt((apart**2).sum(axis=2)), 1e-9)
        wanted: Places = places[None] + (hops / length)[:, :, None] * apart
        places = (pull[:, :, None] * wanted).sum(axis=1) / pull.sum(axis=1)[:, None]
    return _centred(places)


def _distances(one: Round) -> NDArray[np.float64]:
    """Return the hops between every two, both ways along links; unreachable ones count as one more than the longest."""
    adjacent = np.zeros((one.size, one.size), np.float32)
    adjacent[one.edges[:, 0], one.edges[:, 1]] = 1
    adjacent = np.maximum(adjacent, adjacent.T)
    hops = np.zeros((one.size, one.size))
    reached = np.eye(one.size, dtype=bool)
    step = 0
    while True:
        step += 1
        new = (reached @ adjacent > 0) & ~reached
        if not new.any():
            hops[~reached] = step
            return hops
        hops[new] = step
        reached |= new


def draw(topology: Topology, path: Path, *, layout: Layout = "circular", title: str = "") -> None:
    """Draw a topology; of a sequence the first rounds, side by side, all with the places of their union.

    Args:
        topology: at most :data:`MOST_DRAWN` workers.
        path: .png or .svg.
        layout: where workers stand.
        title: over the picture; empty: kind and size.

    Raises:
        UsageError: another suffix, too many workers, or the file cannot be written.
        ImportError: matplotlib (or, for ``spring``, networkx) is not installed.
    """
    shown = topology.rounds[:MOST_PANELS]
    places = place(topology.union(), layout)
    sequence = len(topology.rounds) > 1
    names = [f"round {i + 1} of {len(topology.rounds)}" for i in range(len(shown))] if sequence else [""]
    heading = title or f"{topology.kind}, {topology.size} workers"
    panels = [(one, places, name) for one, name in zip(shown, names, strict=True)]
    draw_panels(panels, path, title=heading, labels=topology.labels, one_scale=sequence)


def draw_side_by_side(found: Sequence[Topology], path: Path, *, layout: Layout = "circular", title: str = "") -> None:
    """Draw several topologies, all rounds of a sequence in one, each under its kind, degrees and gap; see :func:`draw`."""
    panels: list[tuple[Round, Places, str]] = []
    for one in found:
        whole = one.union()
        sends = whole.sends()
        degrees = f"{sends.min()}" if sends.min() == sends.max() else f"{sends.min()} to {sends.max()}"
        rounds = f", {len(one.rounds)} rounds" if len(one.rounds) > 1 else ""
        caption = f"{one.kind}, {one.size} workers\ndegree {degrees}{rounds}, gap {spectrum(one).gap:.3f}"
        panels.append((whole, place(whole, layout), caption))
    draw_panels(panels, path, title=title)


def draw_panels(
    panels: Sequence[tuple[Round, Places, str]],
    path: Path,
    *,
    title: str = "",
    labels: Sequence[str] = (),
    one_scale: bool = False,
) -> None:
    """Draw graphs side by side, each with its places and a line above; see :func:`draw`.

    Args:
        panels: graph, places, caption.
        path: .png or .svg.
        title: over all.
        labels: names of the workers, drawn in a single panel of few.
        one_scale: the same colour for the same degree in all panels, with a scale beside them.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: a picture needs one of {', '.join(SUFFIXES)}")
    if max(one.size for one, _, _ in panels) > MOST_DRAWN:
        raise UsageError(f"a picture of more than {MOST_DRAWN} workers shows nothing: inspect it instead")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(len(panels), 4 if len(panels) > 6 or len(panels) == 4 else 3)
    rows = math.ceil(len(panels) / columns)
    side = _SIDE if len(panels) > 1 else 7.2
    figure = Figure(figsize=(side * columns, side * rows + 0.4), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    most = max(int(one.sends().max()) for one, _, _ in panels)
    for axes, (one, places, caption) in zip(grid, panels, strict=False):
        scale = (0, most) if one_scale else (int(one.sends().min()), int(one.sends().max()))
        dots = _draw_round(axes, one, places, labels, scale)
        axes.set_title(caption, fontsize=10)
        if (one_scale and one is panels[0][0]) or (len(panels) == 1 and scale[0] < scale[1]):
            figure.colorbar(dots, ax=list(grid), shrink=0.5, label="degree", ticks=MaxNLocator(integer=True, nbins=6))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def _draw_round(
    axes: Axes, one: Round, places: Places, labels: Sequence[str], scale: tuple[int, int]
) -> PathCollection:
    from matplotlib.collections import LineCollection

    whole = len(axes.figure.axes) == 1
    dot = min(260.0, max(9.0, 6500 / one.size)) * (1 if whole else 0.4)
    crowd = len(one.edges) / max(1, one.size)
    strength = min(0.8, max(0.12, 2.2 / max(1.0, crowd)))
    axes.set_aspect("equal")
    axes.set_xlim(-1.12, 1.12)
    axes.set_ylim(-1.12, 1.12)
    lines = places[one.edges]
    if one.directed and len(one.edges) <= _ARROWS:
        (x, y), (dx, dy) = lines[:, 0].T, (0.95 * (lines[:, 1] - lines[:, 0])).T
        axes.quiver(x, y, dx, dy, angles="xy", scale_units="xy", scale=1, color=_LINK, alpha=strength,
                    width=0.0016 if whole else 0.003, headwidth=6, headlength=8, headaxislength=7, zorder=1)  # fmt: skip
    else:
        axes.add_collection(LineCollection(list(lines), colors=_LINK, linewidths=0.9, alpha=strength, zorder=1))
    flat = scale[0] == scale[1]
    dots = axes.scatter(places[:, 0], places[:, 1], s=dot, c=one.sends(), cmap=_COLOURS, vmin=scale[0] - flat,
                        vmax=scale[1] + flat, edgecolors="white", linewidths=0.6, zorder=2)  # fmt: skip
    if whole and one.size <= _LABELLED:
        _label(axes, places, labels, dots)
    return dots


def _label(axes: Axes, places: Places, labels: Sequence[str], dots: PathCollection) -> None:
    outside = max(map(len, labels), default=0) > 3
    shades = dots.to_rgba(np.asarray(dots.get_array()))[:, :3] @ [0.299, 0.587, 0.114]
    for text, (x, y), shade in zip(labels, places, shades, strict=False):
        where = (x, y - 0.06) if outside else (x, y)
        axes.annotate(text, where, ha="center", va="top" if outside else "center", fontsize=7,
                      color="white" if shade < 0.6 and not outside else "#222222", zorder=3)  # fmt: skip
