"""``dagrad ping``: what is made of round trips."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
from rich.console import Console

from dagrad_bus.tools.ping import Tally, draw, exit_code
from dagrad_bus.workers.launch.folder import RunFolder

Dagrad = Callable[..., "subprocess.CompletedProcess[str]"]
GOOD, LOSSY, MUTE = Tally("a", "h:1", 4, [0.001, 0.004, 0.002]), Tally("b", "h:2", 4, [0.1]), Tally("c", "", 4)


@pytest.mark.parametrize(
    ("tallies", "code"), [([GOOD], 0), ([GOOD, LOSSY], 0), ([GOOD, MUTE], 1), ([MUTE], 3), ([MUTE, MUTE], 3)]
)
def test_the_exit_code_says_who_answered(tallies: list[Tally], code: int) -> None:
    assert exit_code(tallies) == code


def test_numbers_of_one_worker() -> None:
    told = GOOD.to_json()
    assert told["rtt"] == {"min": 0.001, "median": 0.002, "max": 0.004}
    assert (told["sent"], told["received"], told["loss"]) == (4, 3, 0.25)
    assert MUTE.to_json()["rtt"] is None and MUTE.loss == 1.0
    assert Tally("d", "").loss == 1.0


def test_the_table_has_a_line_a_worker() -> None:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(draw([GOOD, MUTE]))
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert "a 4 3 25 % 1 ms 2 ms 4 ms" in lines
    assert "c 4 0 100 % - - -" in lines


@pytest.mark.slow
def test_workers_of_a_live_run_answer(
    live_run: Callable[[int], tuple[RunFolder, list[object]]], dagrad: Dagrad
) -> None:
    folder, _ = live_run(2)
    ran = dagrad("ping", str(folder.path), "local.1", "-c", "3", "-i", "0.05")
    assert ran.returncode == 0, ran.stderr
    assert "local.1 (127.0.0.1:" in ran.stdout and "seq=3 time=" in ran.stdout
    told = json.loads(dagrad("ping", "-c", "1", "--json").stdout)  # the newest run below runs/
    assert [one["name"] for one in told["workers"]] == ["local.0", "local.1"]
    assert all(one["received"] == 1 for one in told["workers"])
    assert dagrad("ping", "nobody").returncode == 2
