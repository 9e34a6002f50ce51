from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from dagrad_bus.tools import finish as finish_module
from dagrad_bus.tools.finish import report_end, train_and_report
from dagrad_bus.workers.launch.brief import Launch
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.journal import Record
from dagrad_bus.workers.launch.orders import Start
from dagrad_bus.workers.launch.outcome import Exit, Outcome, Watcher, Worker

Journal = Callable[..., list[dict[str, Any]]]
MakeRun = Callable[..., RunFolder]
OPTIONS = {"as_json": False, "figures": False, "progress": "none"}


def worker(name: str, code: int | None = 0, *, lost: bool = False) -> Worker:
    ended = Exit(name, 1, code, None if code is not None else 9, 5.0, lost=lost)
    return Worker(name, Record(name), pid=1, exit=ended)


def outcome(*workers: Worker, **given: Any) -> Outcome:
    return Outcome(list(workers), **given)


def exits(folder: RunFolder) -> dict[str, str]:
    return {ended["name"]: ended["state"] for ended in folder.read_run()["exits"]}


@pytest.fixture
def folder(make_run: MakeRun, journal: Journal) -> RunFolder:
    return make_run(journal(0), journal(1))


def test_a_good_end_is_written_and_shown(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_end(folder, outcome(worker("local.0"), worker("local.1"), start_seconds=1.5), OPTIONS) == 0
    assert exits(folder) == {"local.0": "done", "local.1": "done"}
    assert folder.read_run()["start_seconds"] == 1.5 and "ended" in folder.read_run() and folder.summary.exists()
    assert "local.1" in capsys.readouterr().out and not folder.figures.exists()


def test_a_failure_comes_last_with_the_end_of_its_log(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.log("local.1").write_text("out of luck\n")
    failed = worker("local.1", 7)
    assert failed.exit is not None
    assert report_end(folder, outcome(worker("local.0"), failed, failures=[failed.exit]), OPTIONS) == 7
    assert capsys.readouterr().err.rstrip().endswith("last lines of local.1:\n  out of luck")


def test_json_is_all_of_stdout(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    report_end(folder, outcome(worker("local.0"), worker("local.1")), OPTIONS | {"as_json": True})
    captured = capsys.readouterr()
    assert json.loads(captured.out)["schema"] == "dagrad.summary/1" and "local.0" in captured.err


def test_a_run_that_did_not_begin_has_nothing_to_show(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    code = report_end(folder, outcome(Worker("local.0", Record("local.0")), unreachable=True, aborted="x"), OPTIONS)
    assert code == 3 and capsys.readouterr().out == "" and not folder.summary.exists()
    assert "ended" in folder.read_run()


def test_what_was_seen_before_is_not_replaced_by_a_loss(folder: RunFolder) -> None:
    report_end(folder, outcome(worker("local.0"), worker("local.1", None, lost=True)), OPTIONS)
    assert exits(folder) == {"local.0": "done", "local.1": "lost"}
    report_end(folder, outcome(worker("local.0", None, lost=True), worker("local.1", 1)), OPTIONS)
    assert exits(folder) == {"local.0": "done", "local.1": "exit 1"}
    report_end(folder, outcome(Worker("local.0", Record("local.0"))), OPTIONS)
    assert exits(folder) == {"local.0": "done", "local.1": "exit 1"}


@pytest.mark.parametrize(("left", "code", "ended"), [(True, 0, False), (False, 143, True)])
def test_a_launch_that_leaves_ends_nothing(
    folder: RunFolder, left: bool, code: int, ended: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def run(launch: Launch, watcher: Watcher) -> Outcome:
        watcher.show_note("running")
        return outcome(worker("local.0"), left=left, stopped_by=None if left else signal.SIGTERM)

    monkeypatch.setattr(finish_module, "run_launch", run)
    launch = Launch(folder=folder, berths=[], start=Start(run="r", host="", command=["x"], cwd="/"))
    assert train_and_report(launch, ["local.0"], OPTIONS) == code
    said = capsys.readouterr().err
    assert said.startswith(f"dagrad: 1 workers, run folder {folder.path}\ndagrad: running\n")
    assert (f"dagrad stop {folder.path}" in said) == left and ("ended" in folder.read_run()) == ended
