from __future__ import annotations

import json

import pytest

from dagrad_bus.lab.paper.bench import Findings
from dagrad_bus.lab.paper.document import Report, number, table, to_json, to_markdown
from dagrad_bus.lab.paper.rows import Over, make_pair, make_rows
from dagrad_bus.lab.paper.verdicts import judge


@pytest.fixture
def report(findings: Findings) -> Report:
    rows, pair = make_rows(findings), make_pair(findings)
    return Report(findings, rows, pair, judge(rows, pair), "counted by hand")


def test_a_number_shows_its_spread_where_it_has_one() -> None:
    assert number(Over(0.97, 0.001), 100) == "97.00 ± 0.10"
    assert number(Over(0.97, None), 100) == "97.00"
    assert number(None) == "-"
    assert number(0.5, 100, 1) == "50.0"


def test_a_table_lines_up() -> None:
    lines = table(["a", "long head"], [["1", "2"], ["333", "4"]]).splitlines()
    assert lines[0] == "| a   | long head |"
    assert lines[1] == "|-----|-----------|"
    assert len({len(line) for line in lines}) == 1


def section(page: str, title: str) -> str:
    _, _, rest = page.partition(f"## {title}\n")
    return rest.partition("\n## ")[0]


def test_the_page_has_both_tables_with_a_row_a_rule(report: Report) -> None:
    page = to_markdown(report)
    for title in ("Table 1: bandwidth and accuracy", "Table 2: efficiency and stragglers"):
        rows = [line for line in section(page, title).splitlines() if line.startswith("|")][2:]
        assert [row.split()[1] for row in rows] == ["sync-ps", "gossip-dense", "state", "local"]
    assert "counted by hand" in page
    assert "- met: state is at most 0.3 points behind sync-ps: +0.05 points (2 seeds, standard error 0.00)" in page


def test_the_judged_difference_is_on_the_page_with_its_error(report: Report) -> None:
    page = to_markdown(report)
    assert "## The judged pair: state against sync-ps, seeds 0, 1" in page
    assert "| state is behind by | +0.05 (standard error 0.00) |" in page
    assert to_json(report)["pair"]["error"] == 0.0


def test_every_column_with_a_figure_of_the_paper_says_so(report: Report) -> None:
    head = section(to_markdown(report), "Table 1: bandwidth and accuracy").strip().splitlines()[0]
    rows = section(to_markdown(report), "Table 1: bandwidth and accuracy").strip().splitlines()[2:6]
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        for column, cell in zip(columns, cells, strict=True):
            assert (cell in {"100", "92.1", "68", "90.8", "29", "91.9"}) <= ("paper, not measured here" in column)


def test_the_rates_tried_are_on_the_page(report: Report) -> None:
    text = section(to_markdown(report), "Learning rates")
    assert "in virtual time" in text and "validation" in text
    assert "| rule         | rate 0.05 | rate 0.1 | rate 0.2 | chosen | remark |" in text


def test_the_data_say_what_was_measured_and_what_was_not(report: Report) -> None:
    data = json.loads(json.dumps(to_json(report)))
    assert data["schema"] == "dagrad.bench.paper/1"
    assert data["published"]["measured_here"] is False
    assert [row["rule"] for row in data["rows"]] == ["sync-ps", "gossip-dense", "state", "local"]
    assert data["tuning"]["rules"]["state"]["tried"] == [[0.05, 0.9], [0.1, 0.95], [0.2, 0.91]]
    assert len(data["runs"]["state"]) == 2
    assert all(verdict["met"] for verdict in data["verdicts"])
