from __future__ import annotations

import json
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.results import Results


def test_what_was_put_is_found_by_the_next_reader(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "cells.jsonl"
    first = Results(file)
    first.put({"rule": "state", "seed": 1}, {"accuracy": 0.5})
    first.put({"rule": "state", "seed": 2}, {"accuracy": 0.25, "note": "é"})
    again = Results(file)
    assert len(again) == 2
    assert again.get({"seed": 2, "rule": "state"}) == {"accuracy": 0.25, "note": "é"}  # whatever the order
    assert again.get({"seed": 3, "rule": "state"}) is None


def test_the_latest_of_several_counts(tmp_path: Path) -> None:
    results = Results(tmp_path / "cells.jsonl")
    results.put({"a": 1}, {"b": 1})
    results.put({"a": 1}, {"b": 2})
    assert results.get({"a": 1}) == {"b": 2} == Results(results.file).get({"a": 1})


def test_a_torn_last_line_is_ignored_and_gives_way(tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    whole = json.dumps({"key": {"a": 1}, "result": {"b": 1}})
    file.write_text(whole + "\n" + whole[:-7])
    results = Results(file)
    assert len(results) == 1
    results.put({"a": 2}, {"b": 2})
    results.put({"a": 3}, {"b": 3})
    assert len(Results(file)) == 3
    assert len(file.read_text().splitlines()) == 3


@pytest.mark.parametrize("line", ["{", "[]", '{"key": {}}', '{"key": {}, "result": 3}'])
def test_a_damaged_line_before_the_last_is_an_error_with_its_place(tmp_path: Path, line: str) -> None:
    file = tmp_path / "cells.jsonl"
    file.write_text(f"{line}\n" + json.dumps({"key": {}, "result": {}}) + "\n")
    with pytest.raises(UsageError, match=r"cells.jsonl:1: damaged"):
        Results(file)


def test_a_result_that_json_lacks_leaves_the_file_alone(tmp_path: Path) -> None:
    results = Results(tmp_path / "cells.jsonl")
    with pytest.raises(TypeError):
        results.put({"a": 1}, {"b": object()})
    assert not results.file.exists()


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    file.write_bytes(b"\xff\xfe\n")
    with pytest.raises(UsageError, match="cannot be read"):
        Results(file)
