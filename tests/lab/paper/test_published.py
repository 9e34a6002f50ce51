from __future__ import annotations

import pytest

from dagrad_bus.lab.paper.published import ROWS, find_published


def test_the_rows_are_those_of_the_paper() -> None:
    found = [(row.bandwidth, row.accuracy, row.efficiency, row.throughput) for row in ROWS]
    assert found == [
        (100, 92.1, 68, 12_400),
        (82, 91.3, 79, 16_800),
        (68, 90.8, 85, 19_200),
        (51, 91.7, 82, 17_900),
        (29, 91.9, 87, 21_600),
    ]
    assert [row.efficiency_at_128 for row in ROWS] == [61, 79, None, None, 87]


@pytest.mark.parametrize("rule", ["gradient", "state"])
def test_both_forms_of_the_paper_s_method_stand_beside_its_row(rule: str) -> None:
    row = find_published(rule)
    assert row is not None and row.method == "DAGrad"


def test_a_rule_that_the_paper_has_not_has_no_row() -> None:
    assert find_published("choco") is None
    assert find_published("local") is None
