"""``dagrad status``: the table, what it comes to, and real workers that live, stop and die."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from dagrad_bus.tools.sightings import Member, Status
from dagrad_bus.tools.status import draw, verdict
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.workers.launch.folder import RunFolder

Dagrad = Callable[..., "subprocess.CompletedProcess[str]"]
LiveRun = Callable[[int], tuple[RunFolder, list["subprocess.Popen[bytes]"]]]
WELL = Member(
    name="local.0", state="alive", step=1200, rate=10.0, behind=-0.2, last_step=0.05, lag_ms=0, health=0, members=2,
    neighbours=("local.1",), spec_version=0, agrees=True, beat_age=0.3, rtt=0.002, loss=0.5, bytes_per_step=2000.0,
    address="127.0.0.1:7",
)  # fmt: skip
DEAD = Member(name="local.1", state="dead")
RUN = Status(run="r", told_by="local.0", spec=TopologySpec(), members=(WELL,), left_out=0, consensus=0.25)


def text_of(found: Status, width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    console = Console(width=width)
    monkeypatch.setattr("dagrad_bus.tools.status.wide_console", lambda: console)
    with console.capture() as captured:
        console.print(draw(found), *verdict(found), sep="\n")
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_more_is_shown_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = (text_of(RUN, width, monkeypatch) for width in (80, 160))
    assert "worker state step steps/s behind loss heard rtt" in narrow
    assert "local.0 alive 1 200 10.0 0 0.5000 300 ms 2 ms" in narrow
    tiny = text_of(RUN, 40, monkeypatch)
    assert "worker state step steps/s" in tiny
    assert any(line.endswith("sent/step lag health knows address") for line in wide)
    assert any(line.endswith("2.00 kB 0 ms 0 2 127.0.0.1:7") for line in wide)
    plain = text_of(replace(RUN, members=(replace(WELL, loss=None, bytes_per_step=None),)), 160, monkeypatch)
    assert not any("loss" in line for line in plain), "without journals there is no such column"


def test_the_last_lines_name_who_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "1 alive; steps 1200 to 1200; hash-rings, degree 4 (version 0); consensus distance 0.250" in text_of(
        RUN, 160, monkeypatch
    )
    other = replace(WELL, name="local.2", agrees=False)
    lines = text_of(replace(RUN, members=(WELL, DEAD, other), left_out=3), 160, monkeypatch)
    assert any(line.startswith("2 alive, 1 dead (local.1);") for line in lines)
    assert "tables or graphs differ: local.2 does not agree with most" in lines
    assert "a sample was heard: 3 members were not listened to" in lines
    assert "all 2 heard agree on members and graph" in text_of(
        replace(RUN, members=(WELL, replace(WELL, name="b"))), 160, monkeypatch
    )


def look(dagrad: Dagrad, *words: str) -> tuple[int, dict[str, Any]]:
    ran = dagrad("status", *words, "--json")
    return ran.returncode, json.loads(ran.stdout) if ran.stdout else {"error": ran.stderr}


def states(told: dict[str, Any]) -> dict[str, str]:
    return {member["name"]: member["state"] for member in told["members"]}


def until_well(dagrad: Dagrad, folder: RunFolder) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for _ in range(8):  # neighbours find each other
        code, told = look(dagrad, str(folder.path))
        if code == 0 and all(member["neighbours"] for member in told["members"]):
            return told
    raise AssertionError(told)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_live_run_by_folder_and_by_seed(live_run: LiveRun, dagrad: Dagrad) -> None:
    folder, _ = live_run(3)
    told = until_well(dagrad, folder)
    assert (told["schema"], told["run"], told["present"]) == ("dagrad.status/1", "ab12", 3)
    assert states(told) == dict.fromkeys(("local.0", "local.1", "local.2"), "alive")
    assert all(member["rate"] == 20.0 and member["rtt"] > 0 for member in told["members"])
    reach = ("--run", "ab12", "--key-file", str(folder.key))
    address = told["members"][2]["address"]
    for seed in (address, f"local.2@{address}"):
        code, seen = look(dagrad, "--seed", seed, *reach)
        assert (code, seen["told_by"], states(seen)) == (0, "local.2", states(told))
    refused = dagrad("status", "--seed", address, "--run", "other", "--key-file", str(folder.key), "--timeout", "1")
    assert refused.returncode == 3 and "a wrong key gets no answer" in refused.stderr
    shown = dagrad("status")
    assert shown.returncode == 0 and "3 alive; steps" in shown.stdout and "run folder runs/live" in shown.stderr


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_workers_that_stop_die_and_leave(live_run: LiveRun, dagrad: Dagrad) -> None:
    folder, workers = live_run(4)
    until_well(dagrad, folder)
    workers[3].kill()
    code, told = look(dagrad, str(folder.path), "--timeout", "3")
    assert code == 1 and states(told)["local.3"] in {"suspect", "silent", "dead"}
    workers[2].send_signal(signal.SIGSTOP)
    code, told = look(dagrad, str(folder.path), "--timeout", "2.5")
    assert code == 1 and states(told)["local.2"] in {"suspect", "silent", "dead"}
    assert "local.2" in told["failed"] and "local.3" in told["failed"]
    assert states(told)["local.0"] == "alive"
    workers[2].kill()
    workers[1].terminate()
    workers[1].wait()
    deadline = time.monotonic() + 30
    while states(told) != {"local.0": "alive", "local.1": "left", "local.2": "dead", "local.3": "dead"}:
        assert time.monotonic() < deadline, states(told)
        code, told = look(dagrad, str(folder.path), "--timeout", "2.5")
    assert code == 1 and told["present"] == 1


@pytest.mark.slow
def test_a_run_that_is_over_points_to_its_report(live_run: LiveRun, dagrad: Dagrad) -> None:
    folder, workers = live_run(1)
    workers[0].terminate()
    workers[0].wait()
    lost = dagrad("status", str(folder.path))
    assert lost.returncode == 3 and "dagrad logs" in lost.stderr
    folder.update_run(ended=time.time() - 240)
    over = dagrad("status", str(folder.path))
    assert over.returncode == 3
    assert over.stderr == "dagrad: the run in runs/live ended 4 min ago: dagrad report runs/live\n"


@pytest.mark.slow
def test_watching_gives_a_line_a_look(live_run: LiveRun, start: Callable[..., subprocess.Popen[str]]) -> None:
    folder, _ = live_run(2)
    process = start("status", str(folder.path), "--watch", "0.2", "--json")
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert {one["schema"] for one in looks} == {"dagrad.status/1"}
    assert looks[2]["members"][0]["step"] > looks[0]["members"][0]["step"]
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0


def test_two_folders_are_too_many(dagrad: Dagrad) -> None:
    assert dagrad("status", "./a", "b").returncode == 2
