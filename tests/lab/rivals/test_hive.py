from __future__ import annotations

from collections.abc import Callable

import pytest

from dagrad_bus.lab.rivals.outcome import Outcome


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_peers_find_each_other_and_train(run_system: Callable[..., Outcome]) -> None:
    found = run_system("hivemind", steps=60, pace=0.05)
    assert found.ending == "done", found.reason
    assert min(found.accuracies) > 0.6
    assert found.bytes_per_step is not None and found.bytes_per_step > 5_000
    assert found.spread is not None  # whether they averaged depends on their matchmaking: the scoreboard says
