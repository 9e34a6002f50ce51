from __future__ import annotations

import pytest

from dagrad_bus.topology.comparison import PUBLISHED, compare


@pytest.mark.parametrize(("kind", "size"), [(kind, size) for kind, size in PUBLISHED if size <= 64])
def test_the_published_gaps_are_reproduced(kind: str, size: int) -> None:
    row = compare(kind, size, degree=4, seeds=25)
    assert row.gap is not None and row.gap_published is not None
    slack = 0.0005 if row.gap_error is None else 3 * row.gap_error + 0.003  # theirs are means over few draws
    assert row.gap == pytest.approx(row.gap_published, abs=slack)


def test_a_row_without_chance_is_drawn_once() -> None:
    told: list[int] = []
    row = compare("torus", 36, degree=4, seeds=50, told=lambda: told.append(1))
    assert (row.seeds, len(told), row.gap_error) == (1, 1, None)
    assert (row.sends, row.diameter, row.per_leave) == (4, 6, 2)
    assert row.survives is not None and row.survives > 0.8


def test_a_kind_without_such_a_graph_says_why() -> None:
    row = compare("torus", 17, degree=4, seeds=3)
    assert "product of two numbers" in row.refused
    assert row.gap is row.rounds is row.diameter is None


def test_an_exact_sequence_says_after_how_many_rounds() -> None:
    row = compare("base", 9, degree=2, seeds=3)
    assert (row.exact_after, row.rounds, row.per_leave, row.gap) == (2, 2, None, 1)


def test_draws_that_fall_into_parts_leave_no_mean() -> None:
    row = compare("equi-static", 32, degree=2, seeds=20)
    assert row.gap is not None and row.diameter is None and row.rounds is None
    assert compare("hash-rings", 32, degree=6, seeds=2).gap_published is None, "named for degree 4"
