from __future__ import annotations

import numpy as np
import pytest

from dagrad_bus.sim.cluster import Cluster
from dagrad_bus.sim.invariants import Checker
from dagrad_bus.sim.network import Network
from dagrad_bus.sim.options import Options
from dagrad_bus.sim.trainer import BLOCKS, BUDGET, JOBS_A_LIFE, PERIOD, STRIPE, Trainer
from dagrad_bus.sim.world import World


def trained(seconds: float, **options: int) -> list[Trainer]:
    world = World(2)
    made = Cluster(world, Network(world), Options(2, 4, step=0.2, **options), Checker())  # type: ignore[arg-type]  # plain numbers
    made.start_all(0.1)
    world.run(seconds)
    return [worker.trainer for worker in made.workers if worker.trainer is not None]


def test_the_numbers_are_those_of_the_protocol() -> None:
    assert (BUDGET, STRIPE, PERIOD * STRIPE) == (BLOCKS // 4, BLOCKS // 16, BLOCKS)
    assert 256 * JOBS_A_LIFE < 1 << 24


@pytest.mark.parametrize("fanout", [0, 1])
def test_replicas_come_together_without_local_updates(fanout: int) -> None:
    trainers = trained(3.0, fanout=fanout)
    for trainer in trainers:
        trainer.frozen = True
    before = np.stack([trainer.x for trainer in trainers]).std(axis=0).mean()
    trainers[0].world.run(60.0)
    after = np.stack([trainer.x for trainer in trainers]).std(axis=0).mean()
    assert after < 1e-3 * before


def test_frames_have_the_size_of_the_budget_and_jobs_rise() -> None:
    for trainer in trained(8.0):
        assert trainer.exchanges > 20
        assert list(trainer.plans) == sorted(trainer.plans)
        assert all(0 < len(blocks) <= BUDGET for blocks in trainer.plans.values())
        assert all(job // JOBS_A_LIFE == trainer.process.life for job in trainer.plans)


def test_a_stalled_thread_takes_no_step() -> None:
    trainer = trained(3.0)[0]
    trainer.stalled_until = 8.0
    steps = trainer.steps
    trainer.world.run(7.9)
    assert trainer.steps == steps
    trainer.world.run(9.0)
    assert trainer.steps > steps
