"""Accelerate, transformers and Lightning under each engine: they see a single-process job, train, and exchange."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.faults.engines import Engine, why_no_frameworks
from dagrad_bus.faults.host import Done

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(_why := why_no_frameworks("accelerate", "transformers", "lightning")), reason=_why),
]
FRAMEWORKS = ("accelerate", "transformers", "lightning")
PROGRAM = str(Path(__file__).with_name("frameworks.py"))
COUNT = 2


def reports(done: Done) -> list[dict[str, Any]]:
    """Return what the workers printed, in the order of worker and framework."""
    found = [json.loads(line) for line in done.out.splitlines() if line.startswith('{"')]
    return sorted(found, key=lambda report: (report["worker"], FRAMEWORKS.index(report["framework"])))


@pytest.mark.parametrize("engine", ["srun", "mpirun", "torchrun"], indirect=True)
def test_each_sees_a_world_of_one(engine: Engine, worker: tuple[str, ...], shared: Path) -> None:
    done = engine.call(COUNT, *worker, "--", PROGRAM, *FRAMEWORKS, cwd=shared, seconds=3 * 60)
    assert done.code == 0, done.text
    found = reports(done)
    expected = [(f"{engine.name}.{rank}", name) for rank in range(COUNT) for name in FRAMEWORKS]
    assert [(report["worker"], report["framework"]) for report in found] == expected, done.text
    assert all(report["world"] == 1 for report in found), done.text


@pytest.mark.parametrize(
    ("engine", "framework"),
    [("srun", "lightning"), ("mpirun", "transformers"), ("torchrun", "accelerate")],
    indirect=["engine"],
)
def test_without_the_shim_it_fails_or_takes_the_workers_for_one_job(
    engine: Engine, framework: str, shared: Path
) -> None:
    """So the test above would notice."""
    done = engine.call(COUNT, sys.executable, PROGRAM, framework, cwd=shared, seconds=30)
    assert done.code != 0 or [report["world"] for report in reports(done)] == [COUNT] * COUNT, done.text


@pytest.mark.parametrize("engine", ["torchrun"], indirect=True)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_pair_exchanges_inside_it(engine: Engine, framework: str, worker: tuple[str, ...], shared: Path) -> None:
    """By the store of torchrun's agent alone, no folder."""
    done = engine.call(COUNT, *worker, "--", PROGRAM, framework, "--attach", cwd=shared)
    assert done.code == 0, done.text
    found = reports(done)
    assert len(found) == COUNT and all(report["mixed"] > 0 and report["sent"] > 0 for report in found), done.text
    assert not list(shared.iterdir())
