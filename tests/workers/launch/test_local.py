from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dagrad_bus.workers.launch.command import resolve
from dagrad_bus.workers.launch.folder import create
from dagrad_bus.workers.launch.journal import Record
from dagrad_bus.workers.launch.local import Exit, Launch, Outcome, Worker, run_local


@dataclass
class Notebook:
    """A watcher that keeps what it is told."""

    lines: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    notes: list[str] = field(default_factory=list[str])
    steps: dict[str, int] = field(default_factory=dict[str, int])
    on_line: Callable[[], None] = lambda: None

    def show_line(self, name: str, text: str) -> None:
        self.lines.append((name, text))
        self.on_line()

    def show_note(self, text: str) -> None:
        self.notes.append(text)

    def show_workers(self, workers: Sequence[Worker], *, final: bool) -> None:
        self.steps = {worker.name: worker.record.step for worker in workers}


Start = Callable[..., tuple[Outcome, Notebook]]


@pytest.fixture(params=["fork", "spawn"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """Run a script with some workers, forked or each an interpreter of its own."""

    def run(text: str, *, workers: int = 3, notebook: Notebook | None = None) -> tuple[Outcome, Notebook]:
        (tmp_path / "train.py").write_text(text)
        names = [f"local.{slot}" for slot in range(workers)]
        folder = create(tmp_path / "run", run="r", names=names, facts={})
        notebook = notebook or Notebook()
        launch = Launch(
            folder=folder,
            names=names,
            command=resolve(["train.py"], cwd=tmp_path),
            cwd=tmp_path,
            env={**os.environ, "DAGRAD_RUN_DIR": str(folder.path)},
            fork=request.param == "fork",
            grace=5,
        )
        return run_local(launch, notebook), notebook

    return run


def test_every_worker_knows_its_name_and_runs_in_its_own_session(start: Start) -> None:
    outcome, notebook = start("import os; print(os.environ['DAGRAD_NAME'], os.getsid(0) == os.getpid())")
    assert outcome.exit_code == 0
    assert sorted(notebook.lines) == [(f"local.{n}", f"local.{n} True") for n in range(3)]


def test_a_crash_leaves_the_others_running_and_gives_the_code(start: Start, tmp_path: Path) -> None:
    text = """
import os, pathlib, sys, time
crashed = pathlib.Path("crashed")
if os.environ["DAGRAD_SLOT"] == "1":
    crashed.touch()
    sys.exit(7)
while not crashed.exists():
    time.sleep(0.01)
print("went on")
"""
    outcome, notebook = start(text)
    assert outcome.exit_code == 7
    assert [(ended.name, ended.text) for ended in outcome.failures] == [("local.1", "exit 7")]
    assert [text for _, text in notebook.lines] == ["went on"] * 2
    assert notebook.notes[-1].startswith("local.1 failed: exit 7; ")


def test_a_worker_killed_by_a_signal_gives_128_and_its_number(start: Start) -> None:
    outcome, _ = start("import os; os.kill(os.getpid(), 9)", workers=1)
    assert outcome.exit_code == 137
    assert outcome.describe_exits()[0]["state"] == "SIGKILL"


def test_output_comes_in_whole_lines_and_complete(start: Start) -> None:
    text = "import sys\nfor n in range(3000): sys.stdout.write(f'{n} '); sys.stdout.write('x' * 20 + chr(10))\nprint(end='tail')"
    _, notebook = start(text, workers=2)
    for name in ("local.0", "local.1"):
        seen = [line for worker, line in notebook.lines if worker == name]
        assert seen == [f"{n} {'x' * 20}" for n in range(3000)] + ["tail"]


def test_of_a_progress_bar_the_last_state_is_shown(start: Start) -> None:
    _, notebook = start(r"print('10 %\r50 %\r100 %')", workers=1)
    assert notebook.lines == [("local.0", "100 %")]


def test_journals_are_followed(start: Start) -> None:
    entry = json.dumps({"event": "progress", "time": 1.0, "step": 41, "counters": {}})
    text = f"""
import os, pathlib
pathlib.Path(os.environ["DAGRAD_RUN_DIR"], "workers", os.environ["DAGRAD_NAME"] + ".jsonl").write_text('{entry}\\n')
"""
    _, notebook = start(text, workers=2)
    assert notebook.steps == {"local.0": 41, "local.1": 41}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_stops_all_workers(start: Start, number: signal.Signals, code: int) -> None:
    notebook = Notebook()
    notebook.on_line = lambda: os.kill(os.getpid(), number) if len(notebook.lines) == 3 else None
    outcome, _ = start("import time; print('up'); time.sleep(60)", notebook=notebook)
    assert (outcome.exit_code, outcome.stopped_by, outcome.failures) == (code, number, [])
    assert {ended["state"] for ended in outcome.describe_exits()} == {"stopped"}


def test_the_second_signal_kills(start: Start) -> None:
    notebook = Notebook()

    def interrupt() -> None:
        if len(notebook.lines) in {2, 4}:
            os.kill(os.getpid(), signal.SIGINT)

    notebook.on_line = interrupt
    text = "import signal, time\nsignal.signal(15, lambda *_: print('no'))\nprint('up')\nwhile True: time.sleep(9)"
    outcome, _ = start(text, workers=2, notebook=notebook)
    assert outcome.exit_code == 130
    assert outcome.killed
    assert {worker.exit.signal for worker in outcome.workers if worker.exit} == {9}


def test_handlers_of_the_caller_are_back_afterwards(start: Start) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    start("")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(
    ("ended", "status", "text"),
    [
        (Exit("a", 1, 0, None, 0.0), 0, "exit 0"),
        (Exit("a", 1, 3, None, 0.0), 3, "exit 3"),
        (Exit("a", 1, None, 11, 0.0), 139, "SIGSEGV"),
        (Exit("a", 1, None, 250, 0.0), 378, "signal 250"),
    ],
)
def test_an_exit_has_a_status_and_words(ended: Exit, status: int, text: str) -> None:
    assert (ended.status, ended.text) == (status, text)


def test_the_first_failure_decides() -> None:
    outcome = Outcome([], failures=[Exit("b", 2, 9, None, 1.0), Exit("a", 1, 3, None, 2.0)])
    assert outcome.exit_code == 9


def test_a_worker_that_joined_by_itself_is_shown_and_holds_nobody(start: Start) -> None:
    lines = [{"event": "start", "time": 1.0}, {"event": "progress", "time": 2.0, "step": 5}]
    text = f"""
import json, os, pathlib, time
if os.environ["DAGRAD_NAME"] == "local.0":
    path = pathlib.Path(os.environ["DAGRAD_RUN_DIR"], "workers", "late.jsonl")
    path.write_text("".join(json.dumps(line) + "\\n" for line in {lines!r}))
"""
    outcome, notebook = start(text, workers=2)
    assert outcome.exit_code == 0
    assert notebook.steps["late"] == 5
    assert notebook.notes == ["late joined the run"]
    assert [worker.name for worker in outcome.workers] == ["local.0", "local.1"]


def test_a_worker_that_is_back_is_no_longer_shown_as_dead() -> None:
    worker = Worker("a", Record("a"), pid=1, exit=Exit("a", 1, None, 9, 10.0))
    assert worker.state == "SIGKILL"
    worker.record.add(b'{"event": "start", "time": 11.0}')
    assert worker.state == "joined"
    worker.record.add(b'{"event": "end", "time": 12.0}')
    assert worker.state == "done"
