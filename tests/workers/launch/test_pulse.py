from __future__ import annotations

import json
from pathlib import Path

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
