from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from dagrad_bus.sim.nemesis import Nemesis, both_ways, weather_of
from dagrad_bus.sim.options import FAULTS, Options
from dagrad_bus.sim.run import Run

LOUD = Options(
    5,
    6,
    30.0,
    faults=FAULTS,
    latency=0.05,
    reset=0.1,
    hang=0.05,
    partition=0.1,
    crash=0.03,
    pause=0.05,
    step=1.0,
    drop=0.2,
)


def test_without_faults_nothing_is_broken() -> None:
    run = Run(Options(0, 4, 10.0))
    run.cluster.start_all(0.5)
    run.world.run(10.0)
    assert not run.nemesis.felt
    assert (run.network.counts.broken, run.network.counts.damaged) == (0, 0)


def test_every_fault_is_felt() -> None:
    felt: Counter[str] = Counter()
    for seed in range(3):
        run = Run(replace(LOUD, seed=seed))
        run.cluster.start_all(0.5)
        run.world.run(25.0)
        felt += run.nemesis.felt
        counts = run.network.counts
        felt += Counter(broken=counts.broken, damaged=counts.damaged, full=counts.full, lost=counts.lost)
    wanted = {"reset", "hang", "partition", "pause", "crash", "restart", "hostile", "stall", "slowreader", "nocredit"}
    assert wanted | {"broken", "damaged", "full", "lost"} <= set(felt)


@pytest.mark.parametrize("shape", ["halves", "single", "ring", "bridge"])
def test_partitions_have_the_shape_of_their_name(shape: str) -> None:
    nemesis: Nemesis = Run(Options(0, 8)).nemesis
    pairs = set(getattr(nemesis, shape)())
    assert all((b, a) in pairs and a != b for a, b in pairs)
    reach = Counter(a for a, _ in pairs)
    match shape:
        case "single":
            assert sorted(reach.values()) == [1] * 7 + [7]
        case "ring":
            assert set(reach.values()) == {3}
        case "bridge":
            assert len(reach) == 7
        case _:
            assert len(reach) == 8


def test_a_closed_path_is_opened_again() -> None:
    nemesis = Run(Options(0, 4)).nemesis
    pairs = nemesis.close(both_ways([0], [1, 2, 3]))
    assert not nemesis.network.is_open(0, 3)
    nemesis.heal(pairs)
    assert nemesis.network.is_open(0, 3)
    assert not nemesis.closed


def test_the_weather_is_that_of_the_options() -> None:
    assert weather_of(Options(0)).drop == 0
    weather = weather_of(LOUD)
    assert (weather.drop, weather.latency[1], weather.snap) == (0.2, 0.05, 0.05)
