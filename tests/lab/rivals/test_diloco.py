from __future__ import annotations

from collections.abc import Callable

import pytest

from dagrad_bus.lab.rivals.outcome import Outcome


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_replicas_are_equal_after_an_outer_step(run_system: Callable[..., Outcome]) -> None:
    found = run_system("diloco")
    assert found.ending == "done", found.reason
    assert found.spread is not None and found.spread < 1e-5
    assert max(found.drift) > 0.01  # and apart between two of them
    assert found.bytes_per_step is not None and 1.0e5 < found.bytes_per_step < 2.5e5
