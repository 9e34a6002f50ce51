from __future__ import annotations

from collections.abc import Callable

import pytest

from dagrad_bus.lab.rivals.outcome import Outcome


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_workers_alone_send_nothing_and_drift_apart(run_system: Callable[..., Outcome]) -> None:
    found = run_system("local")
    assert found.ending == "done", found.reason
    assert (found.bytes_per_step, found.startup_bytes) == (0, 0)
    assert found.spread is not None and found.spread > 0.05
    assert found.accuracies[0] != found.accuracies[1] or found.accuracies[0] > 0.5
