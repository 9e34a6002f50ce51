from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dagrad_bus.lab.paper.bench import Bench
from dagrad_bus.lab.paper.cells import Cell, Request
from dagrad_bus.lab.paper.measuring import Measured
from dagrad_bus.lab.paper.tuning import FINALISTS
from dagrad_bus.lab.results import Results

REQUEST = Request(
    workers=4, rules=("state", "local"), rates=(0.05, 0.1, 0.2), seeds=(0, 1), tune_seeds=(0, 1), steps=50
).filled()


@dataclass
class Desk:
    """Plays tuner, measurement and reporter, and keeps what it was asked."""

    make_run: Callable[..., Measured]
    name: str = "virtual"
    best: Mapping[str, float] = field(default_factory=dict[str, float])
    """Rule to the rate at which it is best; 0.1 for those that are missing."""
    fail: Callable[[Cell], bool] = lambda cell: False
    """Which runs end in Ctrl-C."""
    tuned: list[Cell] = field(default_factory=list[Cell])
    measured: list[Cell] = field(default_factory=list[Cell])
    plans: list[tuple[str, int, int]] = field(default_factory=list[tuple[str, int, int]])
    said: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])

    def accuracies(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, float]]:
        for cell in cells:
            self._check(cell)
            self.tuned.append(cell)
            yield cell, 0.9 - abs(cell.lr - self.best.get(cell.rule, 0.1))

    def measure(self, cell: Cell, folder: Path) -> Measured:
        self._check(cell)
        self.measured.append(cell)
        if cell.purpose == "alone":
            return self.make_run(
                workers=1, rates=(12.5,), parameters=0, interface_bytes=None, packets=None, socket_bytes=0
            )
        rates = (8.0,) * (cell.workers - 1) + (3.0,) if cell.purpose == "straggler" else (10.0,) * cell.workers
        return self.make_run(workers=cell.workers, steps=cell.steps, rates=rates)

    def _check(self, cell: Cell) -> None:
        if self.fail(cell):
            raise KeyboardInterrupt

    def plan(self, phase: str, cells: int, missing: Sequence[Cell]) -> None:
        self.plans.append((phase, cells, len(missing)))

    def done(self, cell: Cell, found: str, *, fresh: bool) -> None:
        self.said.append((f"{cell.purpose} {cell.rule}", fresh))


@pytest.fixture
def desk(make_run: Callable[..., Measured]) -> Desk:
    return Desk(make_run)


def make_bench(desk: Desk, folder: Path, request: Request = REQUEST) -> Bench:
    return Bench(request, Results(folder / "results.jsonl"), folder / "runs", desk, desk.measure, desk)


def test_every_rule_is_tuned_measured_slowed_down_and_one_worker_trains_alone(desk: Desk, tmp_path: Path) -> None:
    found = make_bench(desk, tmp_path).run()
    assert {rule: tuned.rate for rule, tuned in found.tuned.items()} == {"state": 0.1, "local": 0.1}
    assert len(desk.tuned) == 2 * (3 + FINALISTS), "all rates with the first seed, the finalists with the second"
    assert {rule: len(runs) for rule, runs in found.measured.items()} == {"state": 2, "local": 2}
    assert all(run.rates[-1] == 3.0 for run in found.stragglers.values())
    assert found.alone.workers == 1
    assert found.seconds == 7 * 12.0
    assert {cell.lr for cell in desk.measured} == {0.1}


def test_a_rate_at_an_edge_is_followed_once(desk: Desk, tmp_path: Path) -> None:
    desk.best = {"state": 0.9}
    found = make_bench(desk, tmp_path).run()
    assert found.tuned["state"].rate == 0.4
    assert "0.4 tried too, and it is the best" in found.tuned["state"].note
    assert sorted({cell.lr for cell in desk.tuned if cell.rule == "state"}) == [0.05, 0.1, 0.2, 0.4]
    assert sorted({cell.lr for cell in desk.tuned if cell.rule == "local"}) == [0.05, 0.1, 0.2]


def test_with_one_rate_nothing_is_tuned(desk: Desk, tmp_path: Path) -> None:
    request = Request(workers=4, rules=("state",), rates=(0.07,), seeds=(0,), steps=50).filled()
    found = make_bench(desk, tmp_path, request).run()
    assert desk.tuned == []
    assert found.tuned["state"].rate == 0.07
    assert desk.plans == [("measuring", 3, 3)]


def test_a_second_run_makes_nothing_again(desk: Desk, tmp_path: Path) -> None:
    first = make_bench(desk, tmp_path).run()
    made = len(desk.tuned) + len(desk.measured)
    second = make_bench(desk, tmp_path).run()
    assert len(desk.tuned) + len(desk.measured) == made
    assert second == first
    assert desk.plans[-1] == ("measuring", 7, 0)
    assert not any(fresh for _, fresh in desk.said[-7:])


@pytest.mark.parametrize("purpose", ["tune", "measure", "straggler"])
def test_what_was_stopped_goes_on_where_it_was(purpose: str, desk: Desk, tmp_path: Path) -> None:
    whole = make_bench(desk, tmp_path / "whole").run()
    made = len(desk.tuned) + len(desk.measured)
    desk.tuned, desk.measured = [], []
    desk.fail = lambda cell: cell.purpose == purpose and cell.rule == "local"
    with pytest.raises(KeyboardInterrupt):
        make_bench(desk, tmp_path).run()
    assert 0 < len(desk.tuned) + len(desk.measured) < made
    desk.fail = lambda cell: False
    assert make_bench(desk, tmp_path).run() == whole
    assert len(desk.tuned) + len(desk.measured) == made


def test_results_of_another_request_are_not_taken(desk: Desk, tmp_path: Path) -> None:
    make_bench(desk, tmp_path).run()
    made = len(desk.measured)
    other = Request(
        workers=4, rules=("state", "local"), rates=(0.05, 0.1, 0.2), seeds=(0, 1), steps=50, extra={"wire": "f16"}
    ).filled()
    make_bench(desk, tmp_path, other).run()
    assert len(desk.measured) == 2 * made
