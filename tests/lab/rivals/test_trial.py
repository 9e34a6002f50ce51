from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab import interface
from dagrad_bus.lab.rivals.handout import Trial
from dagrad_bus.lab.rivals.outcome import Outcome
from dagrad_bus.lab.rivals.trial import run_trial


def test_without_a_private_network_there_is_no_trial(
    make_trial: Callable[..., Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface, "why_not", lambda: "needs root")
    with pytest.raises(UsageError, match="needs root"):
        run_trial(make_trial(), sys.executable, tmp_path / "trial")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_driver_that_cannot_start_says_why(run_system: Callable[..., Outcome], tmp_path: Path) -> None:
    found = run_system("decent-ring", python=sys.executable)  # not installed there
    assert (found.ending, found.steps) == ("crashed", 0)
    assert "No module named 'decent_dp'" in found.reason
    assert not (tmp_path / "trial" / "problem.npz").exists()
    assert (tmp_path / "trial" / "command.0.log").exists()
