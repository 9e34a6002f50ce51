from __future__ import annotations

import json
import signal
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.workers.launch.brief import Launch
from dagrad_bus.workers.launch.census import Census
from dagrad_bus.workers.launch.chronicle import Chronicle
from dagrad_bus.workers.launch.folder import create
from dagrad_bus.workers.launch.orders import CalledOff, Exited, Start, Started
from dagrad_bus.workers.launch.outcome import Worker
from dagrad_bus.workers.launch.screen import Screen

Events = Callable[[], list[str]]


class Notes:
    """A watcher that keeps notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def show_line(self, name: str, text: str) -> None:
        raise AssertionError("nobody prints")

    def show_note(self, text: str) -> None:
        self.texts.append(text)

    def show_workers(self, workers: Sequence[Worker], *, final: bool) -> None:
        raise AssertionError("nobody looks")


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def census(tmp_path: Path, notes: Notes) -> Generator[Census]:
    folder = create(tmp_path / "run", run="r", names=["a.0", "a.1"], facts={})
    launch = Launch(folder=folder, berths=[], start=Start(run="r", host="", command=["x"], cwd="/", lease=60.0))
    chronicle = Chronicle(folder)
    census = Census(launch, Screen(folder, notes, split=False), chronicle)
    for name in ("a.0", "a.1"):
        census.expect(name)
    yield census
    chronicle.close()


@pytest.fixture
def events(tmp_path: Path) -> Events:
    path = tmp_path / "run" / "events.jsonl"
    return lambda: [json.loads(line)["event"] for line in path.read_text().splitlines()]


def started(name: str = "a.0", attempt: int = 0, pid: int = 5) -> Started:
    return Started(n=1, name=name, pid=pid, attempt=attempt, time=1.0)


def exited(name: str = "a.0", **how: Any) -> Exited:
    return replace(Exited(n=2, name=name, pid=5, attempt=0, time=2.0), **how)


def called_off(name: str = "a.0") -> CalledOff:
    return CalledOff(n=3, name=name, attempt=0)


def test_a_life_from_start_to_success(census: Census, events: Events) -> None:
    assert (census.hopeful, census.succeeded, census.outcome.start_seconds) == (2, 0, None)
    census.started(started())
    worker = census.workers["a.0"]
    assert (worker.pid, worker.started_at, worker.state, worker.is_over) == (5, 1.0, "starting", False)
    assert census.outcome.start_seconds is not None
    census.exited(exited(code=0))
    assert (worker.state, worker.is_over, census.hopeful, census.succeeded) == ("done", True, 1, 1)
    assert census.outcome.failures == [] and events() == ["started", "exited"]


def test_a_failure_says_how_many_go_on_and_why_it_is_the_last(census: Census, notes: Notes) -> None:
    census.exited(exited(code=2, why="exit code 2: a wrong option"))
    census.exited(exited("a.1", signal=11))
    assert [ended.text for ended in census.outcome.failures] == ["exit 2", "SIGSEGV"]
    assert notes.texts == [
        "a.0 failed: exit 2 (exit code 2: a wrong option); 1 still running", "a.1 failed: SIGSEGV; 0 still running",
    ]  # fmt: skip
    assert census.outcome.exit_code == 2


def test_one_that_starts_again_has_not_failed_for_good(census: Census, notes: Notes) -> None:
    census.started(started())
    began = census.outcome.start_seconds
    census.exited(exited(code=1, wait=1.0))
    worker = census.workers["a.0"]
    assert (worker.state, worker.returns_at, worker.is_over) == ("restarting", 3.0, False)
    assert notes.texts == ["a.0 failed: exit 1; starts again in 1.0 s"] and census.outcome.failures == []
    census.started(started(attempt=1))
    assert (worker.attempt, worker.state, worker.returns_at) == (1, "starting", None)
    assert census.outcome.start_seconds == began


def test_a_restart_that_is_called_off_was_a_failure(census: Census) -> None:
    census.exited(exited(code=1, wait=1.0))
    census.called_off(called_off())
    assert census.workers["a.0"].is_over and [ended.code for ended in census.outcome.failures] == [1]


def test_one_that_never_ran_has_not_failed(census: Census) -> None:
    census.called_off(called_off())
    worker = census.workers["a.0"]
    assert worker.is_over and worker.exit is not None and (worker.exit.pid, worker.exit.text) == (0, "SIGTERM")
    assert census.outcome.failures == []


@pytest.mark.parametrize(("by", "fails"), [("itself", True), ("wedged", True), ("lease", True), ("launcher", False)])
def test_only_what_we_wanted_is_no_failure(census: Census, notes: Notes, by: str, fails: bool) -> None:
    census.exited(exited(signal=15, by=by))
    assert bool(census.outcome.failures) == fails
    assert any("heard nothing of us for 60 s" in text for text in notes.texts) == (by == "lease")


@pytest.mark.parametrize("end", ["stopped", "aborted"])
def test_after_the_end_was_ordered_nothing_is_a_failure(census: Census, notes: Notes, end: str) -> None:
    census.outcome.stopped_by = signal.SIGINT if end == "stopped" else None
    census.outcome.aborted = "too few" if end == "aborted" else ""
    census.exited(exited(code=1))
    census.lost("a.1", None)
    assert census.outcome.failures == [] and notes.texts == [] and census.hopeful == 0


def test_one_that_is_lost_counts_as_killed_until_it_is_back(census: Census, notes: Notes, events: Events) -> None:
    census.started(started())
    census.lost("a.0", None)
    worker = census.workers["a.0"]
    assert (worker.state, worker.is_over, census.outcome.exit_code) == ("lost", True, 137)
    census.lost("a.0", 2.0)  # written off, and then its host was there again
    assert (worker.state, worker.is_over, worker.returns_at is not None) == ("restarting", False, True)
    census.started(started(attempt=1))
    assert (worker.state, census.outcome.failures) == ("starting", [])
    assert events() == ["started", "lost", "started"] and len(notes.texts) == 1


def test_what_was_seen_to_end_is_not_lost(census: Census) -> None:
    census.exited(exited(code=0))
    census.lost("a.0", 2.0)
    census.lost("a.0", None)
    assert census.workers["a.0"].state == "done"


def test_lost_with_a_restart_to_come_is_no_failure(census: Census) -> None:
    census.lost("a.0", 1.0)
    assert census.outcome.failures == [] and census.workers["a.0"].state == "restarting"


def test_a_worker_of_an_earlier_launcher_is_followed_too(census: Census) -> None:
    census.started(started("a.7", attempt=1))
    assert [worker.name for worker in census.outcome.workers] == ["a.0", "a.1", "a.7"]


def test_one_that_is_expected_anew_waits(census: Census) -> None:
    census.started(started())
    census.exited(exited(signal=15, by="launcher"))
    census.expect("a.0")
    assert census.workers["a.0"].state == "waiting"
    assert [worker.name for worker in census.outcome.workers] == ["a.0", "a.1"]
