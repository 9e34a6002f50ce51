from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from dagrad_bus.workers import digits, loop


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_alone_it_is_a_plain_training_loop_that_learns(one_thread: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert digits.main(["--steps", "60", "--eval-every", "30"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines] == [["step", "30"], ["step", "60"]]
    assert float(lines[-1].split()[-1]) > 0.9


def test_a_wrong_number_is_one_line(one_thread: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert digits.main(["--momentum", "2"]) == 2
    assert capsys.readouterr().err == "error: momentum is 2.0: needs a share in [0, 1)\n"


@pytest.mark.slow
def test_a_crash_ends_the_process_at_its_step() -> None:
    command = [sys.executable, "-m", "dagrad_bus.workers.digits", "--steps", "9", "--eval-every", "1"]
    ended = subprocess.run([*command, "--fail", "local.0:3"], capture_output=True, text=True, check=False)
    assert ended.returncode == loop.CRASH
    assert "crashes at step 3" in ended.stdout and "step 4" not in ended.stdout
