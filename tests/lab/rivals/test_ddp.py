from __future__ import annotations

from collections.abc import Callable

import pytest

from dagrad_bus.lab.rivals.outcome import Outcome

DENSE = 4 * 301_066
"""Bytes that one of two workers sends in each step: the half of its gradients that is summed elsewhere, and back."""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_replicas_stay_equal_at_the_price_of_the_whole_model_a_step(run_system: Callable[..., Outcome]) -> None:
    found = run_system("ddp")
    assert found.ending == "done", found.reason
    assert found.spread is not None and found.spread < 1e-5
    assert len(set(found.accuracies)) == 1
    assert found.bytes_per_step is not None and DENSE < found.bytes_per_step < 1.1 * DENSE
    assert found.startup_bytes is not None and found.startup_bytes > DENSE / 2  # the first model travels apart


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_kill_ends_the_others_and_is_told(run_system: Callable[..., Outcome]) -> None:
    found = run_system("ddp", workers=3, fault="kill")
    assert found.ending in {"crashed", "froze"}
    assert found.steps in {10, 11}
