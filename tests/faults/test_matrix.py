"""Green needs every layer; what did not run is not proven; the table ends with 1 on red."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.faults.matrix import ROWS, judge, load, main, overall, table


def found(row: int, layer: str, verdict: str = "passed", **more: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "row": row,
        "layer": layer,
        "test": f"t{row}{layer}",
        "verdict": verdict,
        "reason": "",
        "figures": [],
    }
    return {**plain, **more}


def test_every_row_of_the_plan_is_there() -> None:
    assert [row.number for row in ROWS] == list(range(1, 43))
    assert all(row.layers and set(row.layers) <= {"L1", "L2", "L3", "L4"} for row in ROWS)


def test_one_bad_test_decides() -> None:
    row = ROWS[6]
    good = found(7, "L3", figures=[{"name": "DEAD", "value": 0, "relation": "<=", "limit": 4, "unit": ""}])
    assert judge(row, "L3", [good]).colour == "green"
    assert judge(row, "L3", [good]).text == "DEAD 0 <= 4"
    assert judge(row, "L2", [good]).colour == "not proven"
    skipped = found(7, "L3", "skipped", test="u", reason="needs root")
    assert judge(row, "L3", [good, skipped]).colour == "not proven"
    assert "needs root" in judge(row, "L3", [good, skipped]).text
    assert judge(row, "L3", [good, skipped, found(7, "L3", "failed", test="v")]).colour == "red"
    assert overall(["green", "not proven"]) == "not proven"


def test_the_table_counts_and_the_command_fails_on_red(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older, newer = tmp_path / "a.json", tmp_path / "b.json"
    older.write_text(json.dumps({"rows": [found(4, "L2", "failed")]}))
    newer.write_text(json.dumps({"rows": [found(4, "L2")]}))
    assert main([str(older)]) == 1
    assert main([str(older), str(newer)]) == 0
    said = capsys.readouterr().out
    assert "1 rows proven, 0 red, 41 not proven, of 42" in said
    assert said.count("measured twice") == 1
    assert "    L3  green" in "\n".join(table([*load([newer]), found(7, "L3")]))
