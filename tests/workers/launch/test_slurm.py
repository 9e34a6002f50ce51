"""The call of srun, and what it says of its tasks: lines recorded from Slurm 22.05."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch.slurm import (
    SURVIVING,
    SrunExits,
    TaskEnd,
    find_step,
    parse_srun,
    signal_command,
    srun_command,
    worker_name,
)

RECORDED = [
    ("srun: error: n1: task 1: Exited with exit code 7", [TaskEnd(1, code=7)]),
    ("srun: error: n0: tasks 1-2: Exited with exit code 3", [TaskEnd(1, code=3), TaskEnd(2, code=3)]),
    ("srun: error: n[0-1]: tasks 0-1,3: Exited with exit code 2", [TaskEnd(n, code=2) for n in (0, 1, 3)]),
    ("srun: error: n0: task 3: Killed", [TaskEnd(3, signal=9)]),
    ("srun: error: n1: task 6: Terminated", [TaskEnd(6, signal=15)]),
    ("srun: error: n1: task 7: Aborted (core dumped)", [TaskEnd(7, signal=6)]),
    ("srun: error: n1: task 2: Segmentation fault", [TaskEnd(2, signal=11)]),
    (
        "srun: error: task 2 launch failed: Slurmd could not connect IO",
        [TaskEnd(2, code=126, why="not launched: Slurmd could not connect IO")],
    ),
]
SILENT = [
    "srun: error: Node failure on n1",
    "srun: job 7 queued and waiting for resources",
    "srun: Force Terminated StepId=3.0",
    "slurmstepd-n0: error: execve(): /nonexistent: No such file or directory",
    "srun: error: Timed out waiting for job step to complete",
    "hello: task 3: Killed",
    "srun: error: n1: task 3-: Killed",
    "",
]


@pytest.mark.parametrize(("line", "ends"), RECORDED)
def test_a_recorded_line_is_read(line: str, ends: list[TaskEnd]) -> None:
    assert parse_srun(line + "\n") == ends


@pytest.mark.parametrize("line", SILENT)
def test_other_lines_say_nothing_of_a_task(line: str) -> None:
    assert parse_srun(line) == []


@settings(max_examples=50)
@given(st.text())
def test_no_line_is_too_much(line: str) -> None:
    assert isinstance(SrunExits().take(line), list)


def test_the_first_word_on_a_task_holds() -> None:
    exits = SrunExits()
    assert exits.take("srun: error: n1: task 1: Killed") == [TaskEnd(1, signal=9)]
    assert exits.take("srun: error: n1: task 1: Exited with exit code 7") == []
    assert exits.judge(2, 137, ()) == [TaskEnd(0, code=0), TaskEnd(1, signal=9)]
    assert [end.status for end in exits.judge(2, 137, ())] == [0, 137]


def test_a_lost_node_takes_those_along_whose_journal_has_no_end() -> None:
    exits = SrunExits()
    for line in ("srun: error: n2: task 2: Exited with exit code 4", *["srun: error: Node failure on n1"] * 2):
        exits.take(line)
    zero, one, two = exits.judge(3, 0, finished={0})  # srun itself ended with 0
    assert (zero.status, one.status, two.status) == (0, 128 + signal.SIGKILL, 4)
    assert one.why == "lost; Slurm says: node failure on n1"


def test_a_step_that_was_cancelled_lost_its_tasks() -> None:
    for line in (
        "srun: Job step aborted: Waiting up to 7 seconds for job step to finish.",
        "slurmstepd-n2: error: *** STEP 11.0 ON n2 CANCELLED AT 2026-11-22T23:16:21 ***",
        "srun: forcing job termination",
    ):
        exits = SrunExits()
        exits.take(line)
        assert exits.judge(2, 0, finished={1}) == [TaskEnd(0, why="lost: Slurm ended the step"), TaskEnd(1, code=0)]
    assert SrunExits().judge(1, -9, ())[0].status == 137
    exits = SrunExits()
    exits.take("srun: Force Terminated StepId=3.0")  # at the end, after a task was killed; the others had ended well
    assert exits.judge(1, 137, ()) != [] and not exits.cancelled


def test_srun_that_fails_by_itself_fails_all() -> None:
    assert SrunExits().judge(2, 1, ()) == [TaskEnd(n, code=1, why="srun failed") for n in (0, 1)]
    assert SrunExits().judge(2, 0, ()) == [TaskEnd(0, code=0), TaskEnd(1, code=0)]


def test_the_call_has_what_outlives_a_death_and_the_users_options_last(tmp_path: Path) -> None:
    folder = tmp_path / "100% run"
    words = srun_command(
        4,
        ["train.py", "--lr", "1"],
        folder=folder,
        run="ab",
        arguments=["--wait=5", "-N2"],
        options=["--rule", "local"],
    )
    assert words[0] == "srun"
    assert set(SURVIVING) < set(words)
    assert f"--output={tmp_path}/100%% run/logs/slurm.%t.log" in words
    assert words.index("--wait=5") > words.index("--wait=0")
    at = words.index("worker")
    assert words[at:] == ["worker", "--dir", str(folder), "--rule", "local", "--", "train.py", "--lr", "1"]
    assert worker_name(3) == "slurm.3"


@pytest.mark.parametrize("argument", ["-n4", "--ntasks=4", "--output=x", "-l", "--job-name=x", "mem", "--", ""])
def test_what_dagrad_decides_itself_is_refused(argument: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--srun-arg"):
        srun_command(2, ["true"], folder=tmp_path, run="ab", arguments=[argument])


def test_a_step_is_found_by_its_name() -> None:
    listing = "11.0 bash\n 12.0 dagrad-ab\n12.1 dagrad-abc\n"
    assert find_step(listing, "ab") == "12.0"
    assert find_step(listing, "b") is None
    assert signal_command("12.0", signal.SIGTERM) == ["scancel", "--signal=TERM", "12.0"]
