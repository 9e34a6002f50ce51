from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.experiment import Experiment, Result, distance, run_experiment
from dagrad_bus.lab.network import BEAT_RATE
from dagrad_bus.lab.task import Task, load_task
from dagrad_bus.settings import ExchangeSettings, RuleName
from dagrad_bus.workers.launch.forecast import ack_size, plan_frame

Run = Callable[..., Result]
COMPUTE = 0.05
WORKERS = 4
FREE = Costs(compute=COMPUTE, bandwidth=math.inf, latency=0.0)


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("digits-small", 0, "val")


@pytest.fixture(scope="module")
def run(task: Task) -> Run:
    """Run an experiment: four workers, each linked to the others, free links, unless changed."""

    def make(rule: RuleName = "state", steps: int = 10, **changes: object) -> Result:
        usual = Experiment(
            workers=WORKERS, steps=steps, linger=0.0, compress=False, exchange=ExchangeSettings(rule=rule), costs=FREE
        )
        return run_experiment(replace(usual, **changes), task)  # type: ignore[arg-type]  # fields of Experiment

    return make


@pytest.mark.parametrize("rule", ["state", "sync-ps", "async-ps"])
def test_equal_experiments_give_equal_results_bit_for_bit(run: Run, rule: RuleName) -> None:
    costs = Costs(tail=0.01, swing=0.5)
    assert run(rule, costs=costs, probes=5) == run(rule, costs=costs, probes=5)


def test_the_caller_s_threads_change_no_result_and_are_put_back(run: Run) -> None:
    before = torch.get_num_threads()
    found: list[Result] = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(run("state"))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_another_seed_gives_another_result(run: Run) -> None:
    assert run(seed=1).consensus != run(seed=2).consensus


def test_local_sends_heartbeats_and_nothing_else(run: Run) -> None:
    found = run("local", costs=replace(FREE, spread=0.0))
    assert found.bytes_per_step == pytest.approx(BEAT_RATE * COMPUTE)
    assert found.median_age is None
    assert found.efficiency == pytest.approx(1.0)
    assert found.rate == pytest.approx(1 / COMPUTE)


def test_a_worker_alone_sends_nothing_at_all(run: Run) -> None:
    assert run("local", workers=1).bytes_per_step == 0.0


def test_state_sends_the_bytes_that_a_plan_says(run: Run) -> None:
    found = run(steps=20, compress=True)
    frame = plan_frame(found.parameters, ExchangeSettings())
    expected = (WORKERS - 1) * (frame.size + ack_size()) + BEAT_RATE * COMPUTE
    assert found.bytes_per_step == pytest.approx(expected, rel=0.05)
    assert found.dense_share == pytest.approx(found.bytes_per_step / (8 * found.parameters))


@pytest.mark.parametrize(("rule", "steps"), [("sync-ps", 6), ("gossip-dense", 60)])  # in pairs only once it is settled
def test_frames_of_dense_rules_go_raw_as_in_a_run(run: Run, rule: RuleName, steps: int) -> None:
    raw = run(rule, steps=steps)
    assert raw.bytes_per_step > raw.parameters  # a quarter of the model
    assert run(rule, steps=steps, compress=True).bytes_per_step == raw.bytes_per_step


def test_an_exchange_in_two_sends_half_as_many_frames(run: Run) -> None:
    beats = BEAT_RATE * COMPUTE
    every = run(steps=20).bytes_per_step - beats
    second = run(steps=20, exchange=ExchangeSettings(interval=2)).bytes_per_step - beats
    assert second == pytest.approx(every / 2, rel=0.03)


def test_a_frame_that_flies_no_time_is_half_a_step_old(run: Run) -> None:
    found = run(steps=30, costs=replace(FREE, spread=0.3))
    assert found.median_age == pytest.approx(0.5, abs=0.12)


def test_ages_grow_by_the_flight(run: Run) -> None:
    flights = [2 * COMPUTE, 4 * COMPUTE]
    near, far = (run(steps=20, costs=replace(FREE, latency=flight, spread=0.3)).median_age or 0.0 for flight in flights)
    assert near == pytest.approx(2.5, rel=0.2)
    assert far - near == pytest.approx(2.0, rel=0.25)


def test_a_straggler_slows_nobody_else_under_state(run: Run) -> None:
    slow = replace(FREE, slowdown={3: 4.0})
    found = run(costs=slow)
    assert found.healthy_efficiency == pytest.approx(1.0)
    assert found.rate == pytest.approx((WORKERS - 1 + 1 / 4) / WORKERS / COMPUTE, rel=0.05)


def test_a_straggler_slows_everybody_under_a_barrier(run: Run) -> None:
    slow = replace(FREE, spread=0.0, slowdown={3: 4.0})
    found = run("sync-ps", costs=slow)
    assert found.rate == pytest.approx(1 / (4 * COMPUTE), rel=0.05)
    assert found.healthy_efficiency == pytest.approx(1 / 4, rel=0.05)


def test_a_barrier_keeps_all_replicas_equal(run: Run) -> None:
    assert run("sync-ps").consensus < 1e-6 < run("state").consensus < run("local").consensus


def test_a_boundary_costs_the_rate_what_it_takes(run: Run) -> None:
    found = run(costs=replace(FREE, spread=0.0, exchange=COMPUTE))
    assert found.rate == pytest.approx(1 / (2 * COMPUTE), rel=0.01)
    assert found.efficiency == pytest.approx(0.5, rel=0.01)


def test_slow_links_skip_exchanges_and_no_worker_waits(run: Run) -> None:
    found = run(steps=20, costs=Costs(compute=COMPUTE, bandwidth=2000.0))
    assert found.skipped > 0.2
    assert found.efficiency == pytest.approx(1.0)


def test_replicas_are_looked_at_where_that_is_asked_for(run: Run) -> None:
    found = run(probes=4)
    assert [step for step, _ in found.curve] == [4, 8]
    assert all(0 < value < 1 for _, value in found.curve)


def test_training_learns(run: Run) -> None:
    assert run(steps=40).accuracy > 0.4


def test_the_distance_is_that_to_the_mean() -> None:
    assert distance(np.array([[1.0, 0.0], [3.0, 0.0]])) == pytest.approx(0.5)
    assert distance(np.zeros((3, 4))) == 0.0


def test_a_key_is_what_json_takes_and_tells_experiments_apart() -> None:
    first, second = (Experiment(costs=Costs(slowdown={1: factor})).key for factor in (2.0, 3.0))
    assert first["costs"]["slowdown"] == {"1": 2.0}
    assert first != second


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"steps": 0}])
def test_an_experiment_without_workers_or_steps_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="needs at least 1 of each"):
        Experiment(**wrong)  # type: ignore[arg-type]  # numbers only


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UsageError, match="no task 'mnist'"):
        run_experiment(Experiment(task="mnist"))
