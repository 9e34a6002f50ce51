from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from contextlib import closing
from typing import Any

import pytest

from dagrad_bus.workers.launch import probe
from dagrad_bus.workers.launch.probe import Probe, serve

TOKEN = bytes(range(16)).hex()
LISTEN: dict[str, Any] = {"op": "listen", "first": 20000, "last": 32000, "count": 1, "token": TOKEN}


@pytest.fixture(autouse=True)
def _no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "alarm", list[int]().append)


def _ask(*questions: dict[str, Any]) -> list[dict[str, Any]]:
    answers = io.BytesIO()
    serve(io.BytesIO(b"".join(json.dumps(question).encode() + b"\n" for question in questions)), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_every_question_has_one_answer_of_its_name() -> None:
    questions: list[dict[str, Any]] = [
        {"op": "clock"},
        {"op": "facts", "cwd": ""},
        {"op": "resolve", "names": ["127.0.0.1"]},
        LISTEN,
        {"op": "visit", "targets": [], "timeout": 1},
        {"op": "nosuch"},
    ]
    answers = _ask(*questions)
    assert [answer["op"] for answer in answers] == [question["op"] for question in questions]
    assert abs(answers[0]["received"] - time.time()) < 60 and answers[0]["sent"] >= answers[0]["received"]
    assert answers[1]["cwd"]["exists"] and answers[2]["found"] == {"127.0.0.1": ["127.0.0.1"]}
    assert len(answers[3]["ports"]) == 1 and answers[4]["visits"] == []
    assert answers[5]["error"] == "unknown op 'nosuch'"


def test_one_probe_visits_the_listeners_of_another_only_with_their_token() -> None:
    with closing(Probe()) as listening:
        port = listening.answer(LISTEN, 0.0)["ports"][0]
        target = {"id": 1, "host": "127.0.0.1", "port": port, "token": TOKEN}
        targets = [target, target | {"token": "00" * 16}]
        good, bad = Probe().answer({"op": "visit", "targets": targets, "timeout": 2.0}, 0.0)["visits"]
    assert "error" not in good and bad["error"] == "stranger"


def test_listening_twice_changes_nothing() -> None:
    with closing(Probe()) as one:
        assert one.answer(LISTEN, 0.0) == one.answer(LISTEN, 0.0)


def test_silence_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    armed: list[int] = []
    monkeypatch.setattr(signal, "alarm", armed.append)
    _ask({"op": "clock"}, {"op": "clock"})
    assert armed == [probe.PATIENCE] * 2


@pytest.mark.slow
def test_it_ends_with_its_stdin_and_imports_little() -> None:
    program = (
        "import runpy, sys; runpy.run_module('dagrad_bus.workers.launch.probe', run_name='__main__');"
        "assert not {'torch', 'zmq'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=b'{"op": "clock"}\n', capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["op"] == "clock"
