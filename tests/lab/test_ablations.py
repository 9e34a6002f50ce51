from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.ablations import EXCHANGE, STUDIES, Scale, Study, make_study
from dagrad_bus.lab.budget import bytes_a_step

SCALE = Scale()


@pytest.fixture(scope="module")
def studies() -> dict[str, Study]:
    return {name: make_study(name, SCALE) for name in STUDIES}


def test_studies_are_small_and_say_what_they_ask(studies: dict[str, Study]) -> None:
    for name, study in studies.items():
        assert study.name == name
        assert study.title
        assert study.question.endswith("?")
        assert study.axis == "names" or study.axis_label
        assert 8 <= len(study.cells) <= 42


def test_no_two_cells_of_a_study_are_the_same_run(studies: dict[str, Study]) -> None:
    for study in studies.values():
        assert len({json.dumps(cell.experiment.key, sort_keys=True) for cell in study.cells}) == len(study.cells)
        assert len({(cell.group, cell.label) for cell in study.cells}) == len(study.cells)


def test_a_study_with_an_axis_of_numbers_has_a_value_in_each_cell(studies: dict[str, Study]) -> None:
    for study in studies.values():
        values = [cell.value for cell in study.cells]
        assert study.axis == "names" or None not in values


def test_runs_of_a_cell_differ_in_their_seed_only(studies: dict[str, Study]) -> None:
    runs = studies["w0"].cells[0].runs(3)
    assert [run.seed for run in runs] == [0, 1, 2]
    assert len({repr(replace(run, seed=0)) for run in runs}) == 1


def test_only_one_setting_varies(studies: dict[str, Study]) -> None:
    for name, field in {"w0": "w0", "refresh": "refresh", "frontier": "density"}.items():
        for cell in studies[name].cells:
            exchange = cell.experiment.exchange
            assert replace(exchange, **{field: getattr(EXCHANGE, field)}) == EXCHANGE
            assert getattr(exchange, field) == cell.value


@pytest.mark.parametrize("name", ["budget", "block", "choice", "refresh"])
def test_equal_bytes_are_equal_within_five_per_cent(studies: dict[str, Study], name: str) -> None:
    spent = {
        bytes_a_step(SCALE.elements, cell.experiment.exchange, 4, 0.05)
        for cell in studies[name].cells
        if cell.experiment.topology is None or name == "choice"
    }
    assert studies[name].equal_bytes
    assert max(spent) <= 1.05 * min(spent)


def test_the_fitted_row_of_wire_costs_what_bf16_costs(studies: dict[str, Study]) -> None:
    rows = {cell.label: cell.experiment.exchange for cell in studies["wire"].cells if cell.group.startswith("IID")}
    spent = {label: bytes_a_step(SCALE.elements, exchange, 4, 0.05) for label, exchange in rows.items()}
    assert rows["int8, bytes of bf16"].density > rows["bf16"].density
    assert spent["int8, bytes of bf16"] == pytest.approx(spent["bf16"], rel=0.02)


def test_synchronous_training_has_three_rates_and_is_the_reference(studies: dict[str, Study]) -> None:
    for cell in studies["defaults"].cells:
        assert cell.reference == (cell.experiment.exchange.rule == "sync-ps")
        assert cell.reference or cell.experiment.lr == 0.1
    assert {cell.experiment.lr for cell in studies["defaults"].cells if cell.reference} == {0.1, 0.2, 0.4}


def test_one_worker_in_four_is_slow_and_the_others_wait(studies: dict[str, Study]) -> None:
    slow = [cell.experiment for cell in studies["age"].cells if "slower" in cell.group]
    assert slow
    for experiment in slow:
        assert experiment.costs.slowdown == dict.fromkeys((3, 7), 4.0)
        assert experiment.linger > 3 * experiment.steps * experiment.costs.compute  # all end their steps in company


def test_a_study_or_a_scale_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UsageError, match="no study 'x': there are defaults, length"):
        make_study("x", SCALE)
    with pytest.raises(UsageError, match="no task 'x'"):
        Scale(task="x")
    with pytest.raises(UsageError, match="at least 2"):
        Scale(workers=1)
