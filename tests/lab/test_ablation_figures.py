from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.ablation_figures import draw, draw_panels
from dagrad_bus.lab.ablation_pages import Report, make_report
from dagrad_bus.lab.ablations import Scale, Study, make_study
from dagrad_bus.lab.results import Results

SCALE = Scale()
MakeReport = Callable[[str], Report]


@pytest.fixture
def make(filled: Callable[[Study, int], Results]) -> MakeReport:
    """Return a report of a study with made-up results."""

    def of(name: str) -> Report:
        study = make_study(name, SCALE)
        return make_report(study, SCALE, 2, filled(study, 2))

    return of


@pytest.mark.parametrize("name", ["frontier", "age"])
def test_a_figure_is_written(make: MakeReport, tmp_path: Path, name: str) -> None:
    assert draw(make(name), tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_names_stand_once_where_all_panels_have_the_same(make: MakeReport) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    draw_panels(figure, make("defaults"), 1, 3)
    first, second, _ = figure.axes
    assert first.get_yticklabels()[0].get_text() == "sync-ps, rate 0.1"
    assert {text.get_text() for text in second.get_yticklabels()} == {""}
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["best reference", "mean model", "own replicas", "worst worker"]


def test_bytes_are_the_measured_ones_on_a_logarithmic_axis(make: MakeReport) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    draw_panels(figure, make("frontier"), 1, 2)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert list(axes.get_lines()[0].get_xdata()) == pytest.approx([1, 2, 3, 4, 5])
    assert list(axes.get_lines()[0].get_ydata()) == pytest.approx([91, 90, 89, 88, 87])
    assert axes.get_ylabel() == "validation accuracy, %"


def test_without_matplotlib_the_extra_is_named(
    make: MakeReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="dagrad-bus\\[digits\\]"):
        draw(make("w0"), tmp_path / "a.png")
