"""The plug-in writes what tests say of their rows, and fails a test whose figures are out of bounds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dagrad_bus.faults.rows import RowReport

ROOT = Path(__file__).parents[2]
CONFTEST = 'pytest_plugins = ["dagrad_bus.faults.rows"]\n'
TESTS = """
import pytest

@pytest.mark.row(7, layer="L3")
def test_good(row):
    row.felt("pauses", 2)
    row.at_most("DEAD", 0, 0)

@pytest.mark.row(8, layer="L3")
def test_bad(row):
    row.at_most("seconds", 6.0, 5, "s")
    row.exactly("kept although one failed", 1, 1)

@pytest.mark.row(2, layer="L4")
def test_cannot():
    pytest.skip("needs root")

@pytest.mark.row(32, layer="L1")
def test_plain(record_property):
    record_property("cases", 100)
"""


def test_figures_and_verdicts_reach_the_file(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_some.py").write_text(TESTS)
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rows", "rows.json", "--fault-seed", "9"]
    done = subprocess.run(
        [*call, "-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    rows = {entry["row"]: entry for entry in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert {number: entry["verdict"] for number, entry in rows.items()} == {
        7: "passed", 8: "failed", 2: "skipped", 32: "passed",
    }, done.stdout  # fmt: skip
    assert rows[2]["reason"] == "needs root"
    assert "seconds is 6.0, not <= 5 s" in rows[8]["reason"]
    assert len(rows[8]["figures"]) == 2
    assert rows[32]["figures"] == [{"name": "cases", "value": 100}]
    assert rows[7]["seed"] == 9


def test_a_report_concludes_at_its_end() -> None:
    report = RowReport(3)
    report.at_least("rate", 1.0, 0.9)
    report.note("scope", "short")
    report.conclude()
    report.inject("nothing")
    report.felt("faults", 0)
    with pytest.raises(AssertionError, match="seed 3"):
        report.conclude()
