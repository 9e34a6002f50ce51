from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from dagrad_bus.lab.rivals.outcome import Outcome


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_this_system_averages_with_few_bytes(run_system: Callable[..., Outcome]) -> None:
    found = run_system("dagrad", python=sys.executable, steps=60, pace=0.03)
    assert found.ending == "done", found.reason
    assert found.bytes_per_step is not None and 2_000 < found.bytes_per_step < 30_000
    assert found.spread is not None and found.spread < 0.2
    assert min(found.accuracies) > 0.8


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_kill_does_not_stop_the_others(run_system: Callable[..., Outcome]) -> None:
    found = run_system("dagrad", python=sys.executable, workers=3, steps=40, pace=0.03, fault="kill")
    assert found.ending == "done", found.reason
    assert found.steps == 40
    assert found.gap_ms is not None and found.gap_ms < 2_000
