from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.paper.cells import ALONE_STEPS, RULES, STRAGGLER_STEPS, Request

FOLDER = Path("out")


@pytest.fixture
def request_() -> Request:
    return Request(workers=4, rules=("sync-ps", "state"), seeds=(3, 1), extra={"age-power": "0"}).filled()


def test_a_request_takes_what_is_missing_from_its_workload() -> None:
    filled = Request().filled()
    assert (filled.model, filled.steps, filled.pace, filled.rules) == ("mlp", 150, 0.05, RULES)
    assert filled.rates == (0.02, 0.05, 0.1, 0.2, 0.4)
    assert (filled.seeds, filled.tune_seeds) == ((0, 1, 2), (0, 1, 2))
    assert Request(steps=7, pace=0.0, rates=(0.3,), tune_seeds=(5,)).filled().pace == 0.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rules": ("state", "magic")}, "no magic"),
        ({"rules": ()}, "no rule given"),
        ({"rules": ("state", "state")}, "given twice"),
        ({"model": "huge"}, "no model 'huge'"),
        ({"workers": 1}, "at least 2"),
        ({"seeds": ()}, "at least one"),
        ({"seeds": (-1,)}, "from 0"),
        ({"pair_seeds": (2,)}, "given twice"),
        ({"pair_seeds": (-1,)}, "from 0"),
        ({"rates": (0.1, 0.05)}, "rising"),
        ({"rates": (0.0, 0.05)}, "rising"),
        ({"density": 0.0}, "density"),
        ({"workload": "cats"}, "no workload"),
        ({"shards": "groups"}, "no shards 'groups'"),
        ({"data_dir": "here"}, "needs no --data-dir"),
        ({"workload": "images"}, "imagenet --make-data DIR makes one"),
    ],
)
def test_a_request_out_of_range_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Request(**changes)


def test_a_rule_with_a_server_gets_links_between_all(request_: Request) -> None:
    words = request_.cell("measure", "sync-ps", 0.1, 3).command(FOLDER)
    assert words[words.index("--topology") + 1] == "complete"
    assert "--topology" not in request_.cell("measure", "state", 0.1, 3).command(FOLDER)


def test_a_measured_run_is_launched_with_the_seed_and_the_rate(request_: Request) -> None:
    cell = request_.cell("measure", "state", 0.1, 3)
    words = cell.command(FOLDER)
    options, program = words[: words.index("-m", 3)], words[words.index("-m", 3) :]
    assert options[options.index("-n") + 1] == "4"
    assert options[options.index("--seed") + 1] == program[program.index("--seed") + 1] == "3"
    assert program[:2] == ["-m", "dagrad_bus.workers.digits"]
    assert program[program.index("--lr") + 1] == "0.1"
    assert "--report" not in program and "--sleep" not in program
    assert cell.environment() == {"DAGRAD_AGE_POWER": "0", "DAGRAD_CODEC": "auto"}


def test_dense_rules_are_not_compressed_unless_a_codec_is_asked_for(request_: Request) -> None:
    assert request_.cell("measure", "sync-ps", 0.1, 3).environment()["DAGRAD_CODEC"] == "raw"
    asked = Request(extra={"codec": "zlib"}).filled()
    assert asked.cell("measure", "sync-ps", 0.1, 3).environment() == {"DAGRAD_CODEC": "zlib"}


def test_a_workload_with_data_is_told_where_they_are() -> None:
    request = Request(workload="spam", data_dir="mails", shards="groups").filled()
    words = request.cell("measure", "state", 0.1, 3).program()
    assert words[words.index("--data-dir") + 1] == "mails"
    assert words[words.index("--size") + 1] == "small"
    assert words[words.index("--shards") + 1] == "groups"
    assert words[words.index("--task") + 1] == "spam"


def test_rates_are_chosen_on_the_validation_part_only(request_: Request) -> None:
    words = request_.cell("tune", "state", 0.1, 3).command(FOLDER)
    assert words[words.index("--report") + 1] == "val"


def test_the_straggler_is_the_last_worker_and_its_run_is_short(request_: Request) -> None:
    cell = request_.cell("straggler", "state", 0.1, 3)
    words = cell.command(FOLDER)
    assert words[words.index("--sleep") + 1] == "local.3:0.2"
    assert words[words.index("--steps") + 1] == str(STRAGGLER_STEPS)


def test_one_worker_alone_runs_without_a_launcher(request_: Request) -> None:
    cell = request_.cell("alone", "local", 0.1, 3)
    assert (cell.workers, cell.steps) == (1, ALONE_STEPS)
    assert cell.program()[1:3] == ["-m", "dagrad_bus.workers.digits"]


def test_rules_take_turns_within_a_seed(request_: Request) -> None:
    cells = request_.measured_cells({"sync-ps": 0.2, "state": 0.05})
    assert [(cell.purpose, cell.rule, cell.seed, cell.lr) for cell in cells] == [
        ("alone", "local", 3, 0.2),
        ("measure", "sync-ps", 3, 0.2),
        ("measure", "state", 3, 0.05),
        ("measure", "sync-ps", 1, 0.2),
        ("measure", "state", 1, 0.05),
        ("straggler", "sync-ps", 3, 0.2),
        ("straggler", "state", 3, 0.05),
    ]


def test_the_judged_pair_has_further_seeds_and_they_come_last() -> None:
    rates = {"sync-ps": 0.2, "state": 0.05, "local": 0.1}
    request = Request(rules=("sync-ps", "state", "local"), seeds=(0,), pair_seeds=(5, 6)).filled()
    cells = request.measured_cells(rates)
    assert [(cell.purpose, cell.rule, cell.seed, cell.lr) for cell in cells[-4:]] == [
        ("pair", "sync-ps", 5, 0.2), ("pair", "state", 5, 0.05), ("pair", "sync-ps", 6, 0.2), ("pair", "state", 6, 0.05),
    ]  # fmt: skip


def test_one_rule_of_the_pair_alone_has_no_further_seeds() -> None:
    request = Request(rules=("state", "local"), seeds=(0,), pair_seeds=(5, 6)).filled()
    assert {cell.seed for cell in request.measured_cells({"state": 0.1, "local": 0.1})} == {0}


def test_cells_differ_in_name_and_key(request_: Request) -> None:
    cells = request_.measured_cells({"sync-ps": 0.2, "state": 0.05})
    assert len({cell.name for cell in cells}) == len({str(cell.key) for cell in cells}) == len(cells)


def test_a_slower_run_is_guessed_longer(request_: Request) -> None:
    quick, slow = request_.cell("measure", "state", 0.1, 0), request_.cell("straggler", "state", 0.1, 0)
    assert slow.guess / slow.steps > quick.guess / quick.steps
