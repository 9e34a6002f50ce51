from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dagrad_bus.errors import SettingsError
from dagrad_bus.lab.paper.cells import Cell, Request
from dagrad_bus.lab.paper.measuring import Measured
from dagrad_bus.lab.paper.tuning import (
    ProcessTuner,
    VirtualTuner,
    conclude,
    settings_of,
    train_virtually,
)

GRID = (0.05, 0.1, 0.2)


@pytest.mark.parametrize(
    ("tried", "rate", "note"),
    [
        ({0.05: 0.7, 0.1: 0.9, 0.2: 0.8}, 0.1, ""),
        ({0.05: 0.7, 0.1: 0.8, 0.2: 0.9, 0.4: 0.6}, 0.2, "0.4 tried too$"),
        ({0.05: 0.7, 0.1: 0.8, 0.2: 0.9, 0.4: 0.95}, 0.4, "0.4 tried too, and it is the best"),
    ],
)
def test_what_was_found_says_whether_the_grid_was_wide_enough(
    tried: dict[float, float], rate: float, note: str
) -> None:
    tuned = conclude(GRID, tried, {})
    assert tuned.rate == rate
    assert list(tuned.tried) == sorted(tried)
    assert re.search(note or "^$", tuned.note)


def test_between_the_finalists_the_mean_over_all_seeds_decides() -> None:
    tuned = conclude(GRID, {0.05: 0.7, 0.1: 0.9, 0.2: 0.89}, {0.1: 0.8, 0.2: 0.85})
    assert tuned.rate == 0.2
    assert tuned.tried == {0.05: 0.7, 0.1: 0.8, 0.2: 0.85}


def test_tuning_on_processes_measures_one_after_the_other(make_run: Callable[..., Measured], tmp_path: Path) -> None:
    request = Request(workers=4, rates=(0.1, 0.2)).filled()
    cells = [request.cell("tune", "state", rate, 0) for rate in request.rates]
    folders: list[Path] = []

    def measure(cell: Cell, folder: Path) -> Measured:
        folders.append(folder)
        return make_run(accuracies=(cell.lr, 3 * cell.lr))

    found = list(ProcessTuner(measure, tmp_path).accuracies(cells))
    assert found == [(cells[0], 0.2), (cells[1], 0.4)]
    assert folders == [tmp_path / cell.name for cell in cells]


def test_the_settings_of_a_cell_are_those_of_its_workers() -> None:
    request = Request(density=0.02, extra={"w0": "0.5", "degree": "2"}).filled()
    state = settings_of(request.cell("tune", "state", 0.1, 7))
    assert (state.exchange.rule, state.exchange.density, state.exchange.w0) == ("state", 0.02, 0.5)
    assert (state.exchange.seed, state.degree, state.topology) == (7, 2, "hash-rings")
    assert settings_of(request.cell("tune", "sync-ps", 0.1, 7)).topology == "complete"


def test_a_setting_that_does_not_exist_is_refused() -> None:
    request = Request(extra={"warmth": "1"}).filled()
    with pytest.raises(SettingsError, match="WARMTH"):
        settings_of(request.cell("tune", "state", 0.1, 0))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_tuning_in_virtual_time_gives_what_one_run_gives() -> None:
    request = Request(model="conv", workers=2, steps=12, rates=(0.01, 0.05)).filled()
    cells = [request.cell("tune", "state", rate, 0) for rate in request.rates]
    found = {cell.lr: accuracy for cell, accuracy in VirtualTuner(jobs=2).accuracies(cells)}
    assert set(found) == {0.01, 0.05}
    assert found[0.05] > found[0.01] > 0.0
    assert train_virtually(cells[1]) == found[0.05]
