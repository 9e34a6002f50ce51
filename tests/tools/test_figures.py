from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagrad_bus.tools.figures import draw_figures, logged_curve, mean_curve, traffic_curve
from dagrad_bus.tools.summary import read_records, summarize
from dagrad_bus.workers.launch.folder import RunFolder

Journal = Callable[..., list[dict[str, Any]]]
MakeRun = Callable[..., RunFolder]


def draw(folder: RunFolder, path: Path) -> list[Path]:
    records = read_records(folder)
    return draw_figures(path, summarize(folder.read_run(), records), records)


def test_every_figure_is_a_png_with_something_on_it(make_run: MakeRun, journal: Journal, tmp_path: Path) -> None:
    paths = draw(make_run(journal(0), journal(1), journal(2), states=("done",) * 3), tmp_path / "figures")
    assert [path.name for path in paths] == ["accuracy.png", "loss.png", "bytes.png", "ages.png", "consensus.png"]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
        assert path.stat().st_size > 5000


def test_without_numbers_there_is_no_figure(make_run: MakeRun, tmp_path: Path) -> None:
    assert draw(make_run([], []), tmp_path / "figures") == []


def test_one_worker_alone_has_curves_and_no_consensus(make_run: MakeRun, journal: Journal, tmp_path: Path) -> None:
    names = [path.name for path in draw(make_run(journal(0), states=("done",)), tmp_path / "figures")]
    assert "accuracy.png" in names
    assert "consensus.png" not in names


def test_traffic_is_bytes_over_steps_between_reports(make_run: MakeRun, journal: Journal) -> None:
    curve = traffic_curve(read_records(make_run(journal(0)))[0])
    assert curve is not None
    assert curve[0].tolist() == list(range(5, 101, 5))
    assert set(curve[1].tolist()) == {40.0}


def test_the_mean_goes_on_where_most_of_the_curves_do() -> None:
    steps = np.arange(0.0, 11.0)
    curves = [(steps, steps), (steps, steps + 2), (steps[:4], steps[:4] * 0 + 100)]
    mean = mean_curve(curves)
    assert mean is not None
    assert mean[0].tolist() == steps.tolist()
    assert mean[1][-1] == pytest.approx(11.0)
    assert mean[1][0] == pytest.approx(34.0)


def test_curves_that_do_not_overlap_have_no_mean() -> None:
    assert mean_curve([(np.array([0.0, 1.0]), np.ones(2)), (np.array([5.0, 6.0]), np.ones(2))]) is None


def test_what_was_not_logged_has_no_curve(make_run: MakeRun, journal: Journal) -> None:
    assert logged_curve(read_records(make_run(journal(0)))[0], "perplexity") is None
