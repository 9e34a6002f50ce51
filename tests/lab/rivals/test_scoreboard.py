from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.results import Results
from dagrad_bus.lab.rivals.environments import Installed
from dagrad_bus.lab.rivals.handout import Trial
from dagrad_bus.lab.rivals.outcome import Outcome
from dagrad_bus.lab.rivals.scoreboard import Findings, Request, Scoreboard, folder_name, search
from dagrad_bus.lab.rivals.systems import System, find_systems


@dataclass
class Heard:
    """A reporter that remembers."""

    seconds: float = 0.0
    fresh: list[Trial] = field(default_factory=list[Trial])
    kept: list[Trial] = field(default_factory=list[Trial])
    said: list[str] = field(default_factory=list[str])

    def plan(self, seconds: float) -> None:
        self.seconds = seconds

    def done(self, trial: Trial, outcome: Outcome, *, fresh: bool) -> None:
        (self.fresh if fresh else self.kept).append(trial)

    def say(self, text: str) -> None:
        self.said.append(text)


@dataclass
class Bench:
    """A comparison whose runs are a function of their trial."""

    board: Scoreboard
    heard: Heard

    def make(self) -> dict[str, Findings]:
        return {one.system.name: one for one in self.board.make()}


@pytest.fixture
def make_bench(tmp_path: Path, make_outcome: Callable[..., Outcome]) -> Callable[..., Bench]:
    def make(*, fail: str = "", missing: str = "", **changes: Any) -> Bench:
        def install(system: System) -> Installed:
            if system.name == missing:
                raise UsageError("no network")
            return Installed(f"/venv/{system.name}")

        def run(trial: Trial, python: str, folder: Path) -> Outcome:
            assert python == f"/venv/{trial.system}"
            assert folder.name == folder_name(trial)
            if fail in {trial.system, trial.fault}:
                return make_outcome(ending="froze", accuracies=())
            right = 0.9 - abs(trial.lr - (0.1 if trial.system == "ddp" else 0.05))  # each has its own best rate
            return make_outcome(accuracies=(right, right))

        usual: dict[str, Any] = {"systems": tuple(find_systems(["ddp", "dagrad"])), "workers": 4, "steps": 150,
                                 "seeds": (0, 1, 2), "rates": (0.02, 0.05, 0.1), "pace": 0.05}  # fmt: skip
        heard = Heard()
        request = Request(**{**usual, **changes})
        return Bench(Scoreboard(request, Results(tmp_path / "r"), tmp_path, install, run, heard), heard)

    return make


def test_rates_are_chosen_on_the_validation_part_and_rows_are_of_the_test_part(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    found = bench.make()
    assert found["dagrad"].rates == {"iid": 0.05, "sorted": 0.05}
    assert found["ddp"].rates == {"iid": 0.1, "sorted": 0.1}
    assert found["ddp"].tried["iid"].keys() == {0.02, 0.05, 0.1, 0.2}  # the best was an edge: one beyond it
    tuning = [trial for trial in bench.heard.fresh if trial.report == "val"]
    assert {trial.seed for trial in tuning} == {0} and len(tuning) == 2 * (3 + 3 + 4)
    rows = [trial for trial in bench.heard.fresh if trial.report == "test" and trial.fault == "none"]
    assert len(rows) == 3 * 2 * 3
    assert {trial.lr for trial in rows if trial.system == "ddp"} == {0.1}
    assert [trial.system for trial in rows[:3]] == ["local", "dagrad", "ddp"]  # side by side in time
    assert [len(found["ddp"].finals[kind]) for kind in ("iid", "sorted")] == [3, 3]


def test_faults_come_last_and_nobody_kills_the_reference(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    found = bench.make()
    faults = [(trial.system, trial.fault, trial.steps) for trial in bench.heard.fresh[-5:]]
    assert faults == [("local", "straggler", 60), ("dagrad", "straggler", 60), ("dagrad", "kill", 100),
                      ("ddp", "straggler", 60), ("ddp", "kill", 100)]  # fmt: skip
    assert found["local"].kill is None and found["ddp"].kill is not None


def test_a_second_call_runs_nothing(make_bench: Callable[..., Bench]) -> None:
    first, second = make_bench(), make_bench()
    first.make()
    again = Scoreboard(first.board.request, Results(first.board.results.file), *_rest(second))
    again.make()
    assert first.heard.seconds > 0 and second.heard.seconds == 0
    assert not second.heard.fresh and len(second.heard.kept) == len(first.heard.fresh)


def _rest(bench: Bench) -> tuple[Any, ...]:
    return bench.board.folder, bench.board.install, bench.board.run, bench.board.reporter


def test_a_failed_run_is_tried_again_by_the_next_call_but_a_kill_is_a_result(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(fail="ddp", rates=(0.05,), seeds=(0,))
    bench.make()
    known = len(Results(bench.board.results.file))
    assert known == 3 + 4 + 1  # two shards and the straggler, twice; the kill of this system; that of the failed one


def test_what_will_not_install_is_left_out_and_the_others_go_on(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(missing="ddp")
    found = bench.make()
    assert found["ddp"].installed is None and found["ddp"].why == "no network"
    assert bench.heard.said == ["DDP, gloo: left out: no network"]
    assert "ddp" not in {trial.system for trial in bench.heard.fresh} and found["dagrad"].finals


def test_one_rate_needs_no_tuning(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(rates=(0.03,))
    assert bench.make()["ddp"].rates == {"iid": 0.03, "sorted": 0.03}
    assert not [trial for trial in bench.heard.fresh if trial.report == "val"]


def test_a_search_goes_beyond_its_edges_a_few_times_and_asks_for_each_rate_once() -> None:
    asked: list[float] = []

    def ask(rate: float) -> float:
        asked.append(rate)
        return 0.9

    assert list(search((0.05, 0.1), ask)) == asked == [0.05, 0.1, 0.025, 0.2, 0.0125, 0.4]


def test_where_no_run_gave_an_accuracy_nothing_further_is_tried() -> None:
    assert search((0.05, 0.1), lambda _: None) == {0.05: None, 0.1: None}
