from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dagrad_bus.lab.rivals.environments import Installed
from dagrad_bus.lab.rivals.outcome import Outcome
from dagrad_bus.lab.rivals.rows import describe_kill, make_rows, own_failed
from dagrad_bus.lab.rivals.scoreboard import Findings
from dagrad_bus.lab.rivals.systems import SYSTEMS

MakeOutcome = Callable[..., Outcome]


@pytest.fixture
def found(make_outcome: MakeOutcome) -> list[Findings]:
    """The reference and this system, two seeds."""
    both: list[Findings] = []
    for name, spread, step in (("local", 0.4, 50.0), ("dagrad", 0.02, 60.0)):
        runs = [
            make_outcome(spread=spread, step_ms=step),
            make_outcome(spread=spread, step_ms=step, accuracies=(0.7, 0.6)),
        ]
        one = Findings(SYSTEMS[name], Installed("python", 12.0, 30.0), rates={"iid": 0.05, "sorted": 0.1})
        one.finals = {"iid": runs, "sorted": list(runs)}
        one.straggler = make_outcome(step_ms=step * 1.1)
        both.append(one)
    both[1].kill = make_outcome(gap_ms=12.4)
    return both


def test_a_row_has_what_its_runs_have(found: list[Findings]) -> None:
    _, row = make_rows(found)
    seen = row.accuracy["iid"]
    assert seen is not None
    assert (seen.mean, seen.std, seen.worst, seen.spread) == pytest.approx((0.75, 0.1, 0.6, 0.1))
    assert (row.bytes_per_step, row.step_ms, row.cpu_ms, row.peak_mb) == (20_000, 60, 8, 300)
    assert row.step_share == pytest.approx(1.2) and row.straggler_share == pytest.approx(1.1)
    assert (row.kill, row.kill_gap_ms, row.install_seconds, row.install_mb) == ("paused 12 ms", 12.4, 12, 30)
    assert row.verdict == "averaged" and not row.failed


def test_the_reference_is_judged_by_nobody(found: list[Findings]) -> None:
    row = make_rows(found)[0]
    assert row.verdict == "no exchange"
    assert row.step_share == 1.0


def test_a_system_whose_replicas_drift_as_if_alone_has_not_averaged(
    found: list[Findings], make_outcome: MakeOutcome
) -> None:
    found[1].finals["sorted"] = [make_outcome(spread=0.39)]
    rows = make_rows(found)
    assert rows[1].verdict == "NOT AVERAGED on sorted shards"
    assert own_failed(rows)
    found[1].finals["iid"] = [make_outcome(spread=0.5)]
    assert make_rows(found)[1].verdict == "NOT AVERAGED"
    assert make_rows(found[1:])[0].verdict == "unknown"  # nothing to compare with


def test_a_failed_run_is_told_and_the_others_count(found: list[Findings], make_outcome: MakeOutcome) -> None:
    found[1].finals["iid"][1] = make_outcome(ending="froze", accuracies=(), steps=7, reason="no answer")
    rows = make_rows(found)
    assert rows[1].trouble == "1 of 5 runs froze at step 7: no answer"
    assert rows[1].accuracy["iid"] is not None and rows[1].accuracy["iid"].mean == pytest.approx(0.85)
    assert own_failed(rows)


def test_a_system_that_is_not_installed_has_an_empty_row(found: list[Findings]) -> None:
    rows = make_rows([found[0], Findings(SYSTEMS["ddp"], why="ddp will not install: no network")])
    assert rows[1].trouble == "ddp will not install: no network"
    assert (rows[1].accuracy["iid"], rows[1].bytes_per_step, rows[1].step_share, rows[1].kill) == (None, None, None, "")
    assert not own_failed(rows)


def test_no_run_of_this_system_is_no_failure(found: list[Findings]) -> None:
    assert not own_failed(make_rows(found[:1]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ending": "froze"}, "froze (> 20 s)"),
        ({"ending": "crashed"}, "all died"),
        ({"ending": "too slow"}, "too slow"),
        ({"gap_ms": 1100.2}, "paused 1100 ms"),
        ({"gap_ms": None}, "went on"),
    ],
)
def test_what_survivors_did(make_outcome: MakeOutcome, change: dict[str, object], said: str) -> None:
    assert describe_kill(replace(make_outcome(), **change)) == said  # type: ignore[arg-type]  # a table
    assert describe_kill(None) == ""
