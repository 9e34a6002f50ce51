from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.paper.bench import Findings
from dagrad_bus.lab.paper.cells import RULES
from dagrad_bus.lab.paper.figures import STYLES, draw, draw_frontier, draw_traffic, mean_curve
from dagrad_bus.lab.paper.measuring import Measured
from dagrad_bus.lab.paper.rows import make_rows


def test_every_rule_has_a_look_of_its_own() -> None:
    assert set(STYLES) == set(RULES)
    assert len(set(STYLES.values())) == len(STYLES)


def test_both_figures_are_written(findings: Findings, tmp_path: Path) -> None:
    paths = draw(findings, make_rows(findings), tmp_path)
    assert [path.name for path in paths] == ["figure2.png", "figure3.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_the_paper_s_points_have_a_panel_of_their_own(findings: Findings) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    draw_frontier(figure, findings, make_rows(findings))
    ours, theirs = figure.axes
    assert theirs.get_title(loc="left") == "The paper's points, not measured here"
    assert ours.get_xscale() == "log"
    names = [text.get_text() for text in ours.get_legend().get_texts()]
    assert sorted(names) == ["gossip-dense", "local, far below", "state", "sync-ps"]
    assert len(theirs.get_lines()) == 5


def test_traffic_has_a_line_a_rule_and_the_dense_bound(findings: Findings) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    draw_traffic(figure, findings)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["state"].get_xdata()) == [10, 30, 50]
    assert list(lines["state"].get_ydata()) == pytest.approx([0.1, 0.11, 0.12])
    assert lines["synchronous dense, 2 · 4 · P"].get_ydata()[0] == 8.0
    assert len(lines) == 5


def test_a_curve_is_the_mean_of_the_runs_where_all_have_points(make_run: Callable[..., Measured]) -> None:
    runs = [make_run(curve=((10, 1.0), (20, 2.0))), make_run(curve=((20, 4.0), (30, 5.0))), make_run(curve=())]
    assert mean_curve(runs) == ([20], [3.0])
    assert mean_curve([make_run(curve=())]) == ([], [])


def test_without_matplotlib_the_extra_is_named(
    findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="dagrad-bus\\[digits\\]"):
        draw(replace(findings), make_rows(findings), tmp_path)
