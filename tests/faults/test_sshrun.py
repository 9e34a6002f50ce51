"""What tests read of a run over hosts: whole lines only, and nothing of what is not there yet."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import pytest

from dagrad_bus.faults.sshhosts import SshHosts
from dagrad_bus.faults.sshrun import Run, wait_until


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has not begun; what reads files needs no hosts."""
    return Run(cast(SshHosts, None), tmp_path)


def test_a_run_that_has_not_begun_has_nothing_to_read(run: Run) -> None:
    assert (run.events(), run.journal("node1.0"), run.step("node1.0")) == ([], [], 0)


def test_a_journal_is_read_while_it_grows(run: Run) -> None:
    path = run.folder / "workers" / "node1.0.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"event":"start"}\n{"event":"progress","step":7}\n{"event":"progress","st')
    assert [line["event"] for line in run.journal("node1.0")] == ["start", "progress"]
    assert run.step("node1.0") == 7


def test_events_are_chosen_by_kind(run: Run) -> None:
    run.folder.mkdir()
    (run.folder / "events.jsonl").write_text('{"event":"started","name":"a"}\n{"event":"exited","name":"a"}\n')
    assert [event["event"] for event in run.events()] == ["started", "exited"]
    assert [event["name"] for event in run.events("exited")] == ["a"]


def test_waiting_ends_with_the_condition_or_the_time() -> None:
    began = time.monotonic()
    assert wait_until(lambda: time.monotonic() - began > 0.1, 5)
    assert not wait_until(lambda: False, 0.1)
