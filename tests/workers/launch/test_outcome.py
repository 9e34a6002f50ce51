from __future__ import annotations

import signal
from typing import Any

import pytest

from dagrad_bus.workers.launch.journal import Record
from dagrad_bus.workers.launch.outcome import Exit, Outcome, Worker

DONE, FAILED, KILLED = (0, None), (3, None), (None, 9)


def worker(name: str, how: tuple[int | None, int | None] | None = DONE, **given: Any) -> Worker:
    ended = None if how is None else Exit(name, 1, how[0], how[1], 10.0)
    return Worker(name, Record(name), exit=ended, **given)


@pytest.mark.parametrize(
    ("ended", "status", "text"),
    [
        (Exit("a", 1, 0, None, 0.0), 0, "exit 0"),
        (Exit("a", 1, 3, None, 0.0), 3, "exit 3"),
        (Exit("a", 1, None, 11, 0.0), 139, "SIGSEGV"),
        (Exit("a", 1, None, 250, 0.0), 378, "signal 250"),
        (Exit("a", 1, None, 9, 0.0, lost=True), 137, "lost"),
    ],
)
def test_an_exit_has_a_status_and_words(ended: Exit, status: int, text: str) -> None:
    assert (ended.status, ended.text) == (status, text)


@pytest.mark.parametrize(
    ("one", "state", "over"),
    [
        (worker("a", None), "waiting", False),
        (worker("a", None, pid=1), "starting", False),
        (Worker("a", Record("a", last={"step": 1}), pid=1), "running", False),
        (worker("a", None, pid=1, cut_off=True), "cut off", False),
        (worker("a", DONE), "done", True),
        (worker("a", FAILED), "exit 3", True),
        (worker("a", FAILED, returns_at=11.0), "restarting", False),
        (worker("a", KILLED, cut_off=True), "SIGKILL", True),
        (worker("a", None, joined=True), "joined", False),
        (Worker("a", Record("a", ended=True), joined=True), "done", False),
    ],
)
def test_a_worker_has_a_state(one: Worker, state: str, over: bool) -> None:
    assert (one.state, one.is_over) == (state, over)


def test_a_worker_that_is_back_is_no_longer_shown_as_dead() -> None:
    one = worker("a", KILLED, pid=1)
    assert one.state == "SIGKILL"
    one.record.add(b'{"event": "start", "time": 11.0}')
    assert one.state == "joined"
    one.record.add(b'{"event": "end", "time": 12.0}')
    assert one.state == "done"


def test_the_first_failure_decides() -> None:
    outcome = Outcome([], failures=[Exit("b", 2, 9, None, 1.0), Exit("a", 1, 3, None, 2.0)])
    assert outcome.exit_code == 9


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, 0),
        ({"stopped_by": signal.SIGINT}, 130),
        ({"stopped_by": signal.SIGTERM}, 143),
        ({"stopped_by": signal.SIGTERM, "left": True}, 0),
        ({"unreachable": True, "aborted": "cannot reach n1"}, 3),
        ({"unreachable": True, "stopped_by": signal.SIGINT}, 130),
        ({"aborted": "1 workers are left, fewer than 2"}, 1),
        ({"min_success": 2}, 0),
        ({"min_success": 3}, 1),
        ({"min_success": 1, "aborted": "1 workers are left, fewer than 2"}, 0),
    ],
)
def test_without_a_failure_the_end_decides(given: dict[str, Any], code: int) -> None:
    workers = [worker("a"), worker("b"), worker("c", None), worker("d", KILLED)]
    assert Outcome(workers, **given).exit_code == code


def test_enough_successes_outweigh_failures() -> None:
    workers = [worker("a"), worker("b"), worker("c", FAILED)]
    failures = [one.exit for one in workers[2:] if one.exit]
    assert Outcome(workers, min_success=2, failures=failures).exit_code == 0
    assert Outcome(workers, min_success=3, failures=failures).exit_code == 3


def test_run_json_tells_stopped_from_failed() -> None:
    workers = [worker("a", KILLED), worker("b"), worker("c", FAILED), worker("d", None)]
    failures = [one.exit for one in workers[2:3] if one.exit]
    described = Outcome(workers, stopped_by=signal.SIGINT, failures=failures).describe_exits()
    assert [(one["name"], one["state"], one["failed"]) for one in described] == [
        ("a", "stopped", False), ("b", "done", False), ("c", "exit 3", True),
    ]  # fmt: skip
    assert described[0] | {"lost": False, "attempt": 0, "signal": 9} == described[0]
    assert Outcome(workers, aborted="too few").describe_exits()[0]["state"] == "stopped"
    assert Outcome(workers).describe_exits()[0]["state"] == "SIGKILL"
