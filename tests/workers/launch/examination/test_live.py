from __future__ import annotations

from typing import Any

import pytest

from dagrad_bus.workers.launch.examination.live import RunFacts, WorkerFacts, check_run


def _worker(name: str = "a.0", **values: Any) -> WorkerFacts:
    standard: dict[str, Any] = {"state": "alive", "inbox": "tcp://10.0.0.1:20001", "heard": True, "quiet": 0.5}
    return WorkerFacts(name=name, **(standard | values))


def _run(*workers: WorkerFacts, **values: Any) -> RunFacts:
    standard: dict[str, Any] = {"path": "runs/a", "run": "1", "told_by": "a.0", "workers": workers, "waited": 7.0}
    return RunFacts(**(standard | values))


def test_a_good_run_has_nothing() -> None:
    ended = _worker("a.1", state="ended", heard=None, quiet=None)
    assert check_run(_run(_worker(), ended, _worker("a.2", state="left", quiet=90.0))) == []


@pytest.mark.parametrize(
    ("values", "check", "level", "said", "repair"),
    [
        ({"inbox": ""}, "address", "fault", "not published", "attach"),
        ({"error": "Connection refused"}, "port", "fault", "cannot be reached from here", "dagrad doctor --hostfile"),
        ({"heard": False}, "silent", "fault", "within 7 s", "logs/a.9.log"),
        ({"state": "dead", "heard": None, "quiet": 60.0}, "dead", "fault", "dead", "dagrad join --name a.9 runs/a"),
        ({"state": "unknown", "heard": None}, "absent", "fault", "never heard of it", "address"),
        ({"state": "suspect"}, "suspect", "warning", "suspect", "10 s"),
        ({"wedged": True}, "wedged", "fault", "no step", "--restart-wedged"),
        ({"lag_ms": 2000}, "lag", "warning", "2000 ms", "fewer workers"),
        ({"quiet": 30.0}, "silent", "warning", "30 s", "disk"),
        ({"clock_ahead": 3.2}, "clock", "fault", "3.2 s ahead", "makestep"),
        ({"failure": "exit 7", "state": "dead", "inbox": ""}, "ended", "fault", "exit 7", "a.9.log"),
    ],
)  # fmt: skip
def test_each_fault_of_a_worker_is_found(
    values: dict[str, Any], check: str, level: str, said: str, repair: str
) -> None:
    (fault,) = check_run(_run(_worker(), _worker("a.9", **values)))
    assert (fault.where, fault.check, fault.level) == ("a.9", check, level)
    assert said in fault.what and repair in fault.repair


def test_a_guest_that_is_unknown_is_no_fault() -> None:
    assert check_run(_run(_worker("x.0", state="unknown", launched=False, heard=None))) == []


def test_a_pair_without_a_link_is_told_once() -> None:
    pair = (_worker("a.0", missing=["a.1", "a.2"]), _worker("a.1", missing=["a.0"]))
    gone = _worker("a.2", state="dead", heard=None)
    found = [fault for fault in check_run(_run(*pair, gone)) if fault.check == "link"]
    assert [(fault.where, fault.level) for fault in found] == [("a.0 -> a.1", "fault")]


def test_what_concerns_the_whole_run() -> None:
    found = check_run(_run(_worker(version="1"), _worker("b", version="2"), tables=2, graphs=2, key_mode=0o644))
    assert [(fault.check, fault.level) for fault in found] == [
        ("key", "fault"), ("graph", "warning"), ("members", "warning"), ("version", "warning")
    ]  # fmt: skip
    assert found[0].repair == "chmod 600 runs/a/key"


def test_a_run_that_is_over_or_silent() -> None:
    over = _run(_worker(quiet=1000.0), over=True, told_by="")
    assert [fault.check for fault in check_run(over)] == ["run"] and not over.is_reached
    silent = check_run(_run(_worker(state="unknown", heard=None, quiet=50.0), told_by=""))
    assert [fault.check for fault in silent] == ["run", "silent"]
