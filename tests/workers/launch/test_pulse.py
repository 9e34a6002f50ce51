from __future__ import annotations

import json
from pathlib import Path

import pytest

from dagrad_bus.workers.launch.pulse import Pulse


def write(path: Path, *entries: object) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def test_only_another_step_is_life(tmp_path: Path) -> None:
    journal = tmp_path / "a.jsonl"
    pulse = Pulse(journal)
    assert pulse.silence(100) == 0  # it has not even attached
    write(journal, {"event": "start"})
    assert [pulse.silence(101), pulse.silence(104)] == [0, 3]
    write(journal, {"event": "progress", "step": 0})
    assert pulse.silence(105) == 0
    write(journal, {"event": "progress", "step": 0}, {"event": "log", "loss": 1})
    assert pulse.silence(107) == 2
    write(journal, {"event": "progress", "step": 1})
    assert pulse.silence(108) == 0


def test_after_the_end_nothing_is_expected(tmp_path: Path) -> None:
    journal = tmp_path / "a.jsonl"
    pulse = Pulse(journal)
    write(journal, {"event": "start"}, {"event": "progress", "step": 5})
    assert [pulse.silence(1), pulse.silence(5)] == [0, 4]
    write(journal, {"event": "end", "step": 5})
    assert pulse.silence(50) == 0


def test_earlier_processes_and_damaged_lines_do_not_count(tmp_path: Path) -> None:
    journal = tmp_path / "a.jsonl"
    write(journal, {"event": "start"}, {"event": "progress", "step": 5})
    pulse = Pulse(journal)
    write(journal, 7, {"event": "log"}, ["event"], {"step": 3})
    with journal.open("a") as file:
        file.write("[" * 100_000 + "\n")
    assert pulse.silence(9) == 0
    write(journal, {"event": "progress", "step": 5})
    assert [pulse.silence(10), pulse.silence(12)] == [0, 2]


@pytest.mark.parametrize(
    ("lines", "stepped"),
    [
        ([], True),  # no journal: a program on the bare bus
        ([{"event": "start"}], False),
        ([{"event": "start"}, {"event": "progress", "step": 0}], False),
        ([{"event": "start"}, {"event": "progress", "step": 3}], True),
        ([{"event": "start"}, {"event": "log", "step": 1, "loss": 0.5}], True),
    ],
)
def test_whether_a_step_was_made(lines: list[dict[str, object]], stepped: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"event": "progress", "step": 900}) + "\n")  # of an earlier life
    pulse = Pulse(path)
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    assert pulse.has_stepped(1.0) is stepped
