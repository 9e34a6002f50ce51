from __future__ import annotations

from collections.abc import Callable

import pytest

from dagrad_bus.lab.rivals.outcome import Outcome


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("system", ["decent-ring", "decent-exp"])
def test_neighbours_average_whole_models(run_system: Callable[..., Outcome], system: str) -> None:
    found = run_system(system)
    assert found.ending == "done", found.reason
    assert found.spread is not None and found.spread < 0.05
    assert found.bytes_per_step is not None and 1.0e6 < found.bytes_per_step < 1.5e6
