from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from dagrad_bus.lab.rivals.document import HEAD, explain, main_cells, to_json, to_markdown
from dagrad_bus.lab.rivals.environments import Installed
from dagrad_bus.lab.rivals.outcome import Outcome
from dagrad_bus.lab.rivals.rows import make_rows
from dagrad_bus.lab.rivals.scoreboard import Findings, Request
from dagrad_bus.lab.rivals.systems import SYSTEMS, find_systems


@pytest.fixture
def request_() -> Request:
    return Request(
        systems=tuple(find_systems(["ddp", "dagrad"])), workers=4, steps=150, seeds=(0, 1), rates=(0.02, 0.05), pace=0.05
    )  # fmt: skip


@pytest.fixture
def found(make_outcome: Callable[..., Outcome]) -> list[Findings]:
    """The reference, this system, and one that would not install."""
    alone = Findings(SYSTEMS["local"], Installed("python"), rates={"iid": 0.05, "sorted": 0.05})
    alone.finals = {kind: [make_outcome(spread=0.4, bytes_per_step=0.0)] for kind in ("iid", "sorted")}
    own = Findings(SYSTEMS["dagrad"], Installed("python", 9.0, 20.0), rates={"iid": 0.05, "sorted": 0.1})
    own.tried = {"iid": {0.02: 0.91, 0.05: 0.95}, "sorted": {0.02: 0.8, 0.05: None, 0.1: 0.9}}
    runs = [make_outcome(accuracies=(0.97, 0.95)), make_outcome(accuracies=(0.95, 0.93))]
    own.finals = {"iid": runs, "sorted": list(runs)}
    own.straggler, own.kill = make_outcome(step_ms=57.0), make_outcome(gap_ms=20.0)
    return [alone, own, Findings(SYSTEMS["ddp"], why="ddp will not install: no network")]


def test_a_line_of_the_scoreboard(found: list[Findings]) -> None:
    cells = main_cells(make_rows(found)[1])
    assert cells == ["dagrad-bus", "20.0", "95.0 ± 1.0", "93.0", "95.0 ± 1.0", "93.0", "1.00", "1.04", "paused 20 ms", "averaged"]  # fmt: skip
    assert len(cells) == len(HEAD)


def test_a_missing_system_has_dashes(found: list[Findings]) -> None:
    assert main_cells(make_rows(found)[2]) == ["DDP, gloo", *["-"] * 9]


def test_the_page_says_what_was_measured_and_what_went_wrong(request_: Request, found: list[Findings]) -> None:
    page = to_markdown(request_, found, make_rows(found))
    assert "4 workers, 150 steps of 32 samples" in page and "Seeds 0, 1;" in page
    assert "- DDP, gloo: ddp will not install: no network" in page
    assert "2.0: 91.0" not in page and "0.02: 91.0, 0.05: 95.0" in page and "0.05 (edge)" in page
    assert "0.02: 80.0, 0.05: -, 0.1: 90.0" in page
    assert explain() in page


def test_the_page_has_no_empty_sections(request_: Request, found: list[Findings]) -> None:
    found[1].tried = {}
    page = to_markdown(request_, found[:2], make_rows(found[:2]))
    assert "What went wrong" not in page and "Learning rates" not in page


def test_the_data_survive_json(request_: Request, found: list[Findings]) -> None:
    data = json.loads(json.dumps(to_json(request_, found, make_rows(found))))
    assert next(iter(data)) == "schema" and data["schema"] == "dagrad.bench.peers/1"
    assert [row["verdict"] for row in data["rows"]] == ["no exchange", "averaged", "unknown"]
    assert data["systems"]["dagrad"]["tried"]["iid"] == [[0.02, 0.91], [0.05, 0.95]]
    assert data["systems"]["dagrad"]["kill"]["gap_ms"] == 20.0
    assert data["request"]["systems"] == ["local", "dagrad", "ddp"]
