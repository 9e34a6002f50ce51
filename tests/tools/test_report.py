from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from dagrad_bus.errors import UsageError
from dagrad_bus.tools.report import last_lines, report
from dagrad_bus.workers.launch.folder import RunFolder

Journal = Callable[..., list[dict[str, Any]]]
MakeRun = Callable[..., RunFolder]


def test_a_report_writes_summary_and_figures_anew(make_run: MakeRun, journal: Journal) -> None:
    folder = make_run(journal(0), journal(1), states=("done", "done"))
    result = CliRunner().invoke(report, [str(folder.path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "local.1" in result.stdout
    assert json.loads(folder.summary.read_text())["schema"] == "dagrad.summary/1"
    assert len(list(folder.figures.glob("*.png"))) == 5


def test_json_is_the_summary_and_nothing_else(make_run: MakeRun, journal: Journal) -> None:
    folder = make_run(journal(0), states=("done",))
    result = CliRunner().invoke(report, [str(folder.path), "--json", "--no-figures"], catch_exceptions=False)
    assert json.loads(result.stdout) == json.loads(folder.summary.read_text())
    assert not folder.figures.exists()


def test_without_matplotlib_all_else_is_written(
    make_run: MakeRun, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = make_run(journal(0), states=("done",))
    result = CliRunner().invoke(report, [str(folder.path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "pip install matplotlib" in result.stderr
    assert folder.summary.exists()


def test_failures_come_last_with_the_end_of_the_log(make_run: MakeRun, journal: Journal) -> None:
    folder = make_run(journal(0), journal(1, end=False), states=("done", "exit 7"))
    folder.log("local.1").write_text("".join(f"line {n}\n" for n in range(50)))
    result = CliRunner().invoke(report, [str(folder.path), "--no-figures"], catch_exceptions=False)
    assert "line 30\n  line 31" in result.stderr
    assert "line 29" not in result.stderr
    assert result.stderr.rstrip().endswith("line 49")


def test_no_run_folder_is_a_usage_error(make_run: MakeRun) -> None:
    folder = make_run([])
    with pytest.raises(UsageError, match="not a run folder"):
        CliRunner().invoke(report, [str(folder.path / "logs")], catch_exceptions=False)


def test_the_last_lines_of_a_short_log_are_all(make_run: MakeRun) -> None:
    folder = make_run([])
    folder.log("local.0").write_bytes(b"one\r\ntwo")
    assert last_lines(folder.log("local.0"), 20) == ["one", "two"]
    assert last_lines(folder.log("local.9"), 20) == []
