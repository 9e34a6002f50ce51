"""Laws of timing without training, for every rule."""

from __future__ import annotations

import math

import pytest

from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.experiment import Experiment, run_experiment
from dagrad_bus.lab.parcels import Simulated
from dagrad_bus.lab.scenario import RULES, Scenario, Timing
from dagrad_bus.lab.timing import simulate
from dagrad_bus.metrics import histogram_median
from dagrad_bus.settings import ExchangeSettings, LinkSettings
from dagrad_bus.workers.launch.forecast import plan_frame, plan_traffic

FREE = Costs(compute=0.1, spread=0.05, bandwidth=math.inf, latency=1e-4)
NEVER_WAIT: tuple[Simulated, ...] = ("state", "gradient", "choco", "gossip-dense", "gossip-qsgd", "async-ps", "local")
MODEL = 1_000_000


def time_rule(rule: Simulated, costs: Costs = FREE, workers: int = 16, **more: object) -> Timing:
    return simulate(Scenario(rule=rule, workers=workers, parameters=MODEL, costs=costs, **more))  # type: ignore[arg-type]  # the tests' own values


@pytest.mark.parametrize("rule", RULES)
def test_equal_scenarios_give_equal_timings(rule: Simulated) -> None:
    costs = Costs(compute=0.1, bandwidth=1e8, tail=0.01, swing=0.3, exchange=0.001)
    first, second = (time_rule(rule, costs, workers=9, steps=15) for _ in range(2))
    assert first == second
    if rule != "local":
        assert first != time_rule(rule, costs, workers=9, steps=15, seed=1)


@pytest.mark.parametrize("rule", NEVER_WAIT)
def test_who_never_waits_and_pays_nothing_keeps_all_busy(rule: Simulated) -> None:
    assert time_rule(rule).efficiency == pytest.approx(1.0)


def test_alone_there_is_nothing_to_exchange() -> None:
    found = time_rule("state", workers=1)
    assert found.efficiency == pytest.approx(1.0)
    assert found.bytes_per_step == 0.0
    assert found.median_age is None


@pytest.mark.parametrize("degree", [2, 4])
def test_bytes_are_those_of_the_plan(degree: int) -> None:
    exchange = ExchangeSettings(density=0.02, interval=2)
    found = time_rule("state", exchange=exchange, degree=degree)
    planned = plan_traffic(MODEL, plan_frame(MODEL, exchange), degree, found.rate, exchange, 1.0)
    assert found.bytes_per_step == pytest.approx(planned.bytes_per_step, rel=1e-3)
    assert found.dense_share == pytest.approx(planned.dense_share, rel=1e-3)
    assert found.skipped == 0.0


def test_a_fanout_cuts_bytes_and_contacts() -> None:
    one = time_rule("state", exchange=ExchangeSettings(fanout=1))
    assert one.contacts == pytest.approx(1.0, rel=0.05)
    assert one.bytes_per_step < 0.4 * time_rule("state").bytes_per_step


@pytest.mark.parametrize("rule", ["state", "gossip-qsgd"])
def test_neighbours_do_not_grow_with_the_cluster(rule: Simulated) -> None:
    costs = Costs(compute=0.1, bandwidth=1.25e8, exchange=0.005)
    small, large = (time_rule(rule, costs, workers=count) for count in (8, 96))
    assert large.efficiency == pytest.approx(small.efficiency, rel=0.01)
    assert large.bytes_per_step == pytest.approx(small.bytes_per_step, rel=0.01)
    assert 0.9 < small.efficiency < 0.96  # the exchange itself


def test_a_frame_waits_half_a_step_on_average_and_its_flight() -> None:
    near = time_rule("state", steps=100)
    far = time_rule("state", Costs(compute=0.1, spread=0.05, bandwidth=math.inf, latency=0.03), steps=100)
    assert near.median_age == pytest.approx(0.5, abs=0.06)
    assert far.median_age == pytest.approx(0.8, abs=0.06)
    assert near.median_age is not None
    assert histogram_median(near.ages) == pytest.approx(near.median_age, abs=0.06)


@pytest.mark.parametrize("rule", ["state", "gossip-dense", "gossip-qsgd"])
def test_a_straggler_slows_nobody_who_gossips(rule: Simulated) -> None:
    costs = Costs(compute=0.1, bandwidth=1e9, slowdown={3: 10.0}, exchange=0.001)
    calm = time_rule(rule, Costs(compute=0.1, bandwidth=1e9, exchange=0.001))
    found = time_rule(rule, costs)
    assert found.healthy_efficiency == pytest.approx(calm.healthy_efficiency, rel=0.02)


def test_a_straggler_slows_all_who_meet_at_a_barrier() -> None:
    costs = Costs(compute=0.1, spread=0.0, bandwidth=math.inf, slowdown={3: 10.0})
    assert time_rule("sync-ps", costs).healthy_efficiency < 0.11


def test_a_link_without_credit_is_skipped_and_its_card_is_never_overdrawn() -> None:
    costs = Costs(compute=0.1, bandwidth=2e5)
    found = time_rule("state", costs, exchange=ExchangeSettings(density=0.1), steps=100, warmup=50)
    assert found.skipped > 0.5
    assert found.bytes_per_step * found.rate <= 1.05 * costs.bandwidth
    assert found.efficiency == pytest.approx(1.0)
    assert found.median_age is not None
    assert found.median_age > 3


def test_a_server_answers_a_small_model_within_a_few_steps() -> None:
    found = time_rule("async-ps", workers=4, steps=200)
    assert 0.6 < found.contacts < 1.5  # three of four push and pull: a step to the server's boundary, one to the own
    assert found.median_age == pytest.approx(0.5, abs=0.2)


def test_a_servers_card_makes_what_is_pulled_old() -> None:
    slow = Costs(compute=0.1, bandwidth=2e7)
    few, many = (time_rule("async-ps", slow, workers=count, steps=400, warmup=100) for count in (4, 32))
    assert few.p99_age is not None
    assert many.p99_age is not None
    assert many.p99_age > 5 * few.p99_age  # of the pushes that wait for the card
    assert many.contacts < few.contacts / 5
    assert many.efficiency == pytest.approx(1.0)


def test_a_model_of_many_frames_crosses_in_as_many_steps() -> None:
    link = LinkSettings(max_frame=1 << 18)
    found = time_rule("gossip-dense", link=link, steps=200)
    parts = 4 * MODEL / (1 << 18)
    assert found.median_age == pytest.approx(parts, rel=0.1)
    assert time_rule("gossip-dense").median_age == pytest.approx(0.5, abs=0.3)


def test_who_leaves_and_comes_back_disturbs_nobody_much() -> None:
    found = time_rule("state", Costs(compute=0.1, bandwidth=1e9), churn=0.3, steps=60)
    calm = time_rule("state", Costs(compute=0.1, bandwidth=1e9), steps=60)
    assert 0.95 < found.efficiency <= 1.0
    assert found.contacts < calm.contacts
    others: tuple[Simulated, ...] = ("async-ps", "gossip-dense")
    for rule in others:
        assert time_rule(rule, Costs(compute=0.1, bandwidth=1e9), churn=0.3, steps=60).contacts > 0


@pytest.mark.slow
def test_training_in_virtual_time_is_timed_alike() -> None:
    """The same cluster with real models and the production rule: rate, bytes and ages agree."""
    costs = Costs(compute=0.1, spread=0.1, exchange=0.01, bandwidth=1e8, latency=0.01)
    exchange = ExchangeSettings(block=1)
    trained = run_experiment(Experiment(task="digits-small", workers=8, steps=60, costs=costs, exchange=exchange))
    timed = simulate(
        Scenario(workers=8, parameters=trained.parameters, costs=costs, exchange=exchange, steps=60, warmup=5)
    )
    assert timed.rate == pytest.approx(trained.rate, rel=0.02)
    assert timed.efficiency == pytest.approx(trained.efficiency, rel=0.02)
    assert timed.bytes_per_step == pytest.approx(trained.bytes_per_step, rel=0.1)
    assert histogram_median(timed.ages) == pytest.approx(trained.median_age, rel=0.1)


@pytest.mark.slow
def test_a_thousand_workers_take_seconds() -> None:
    found = simulate(Scenario(workers=1000, costs=FREE, steps=10, warmup=2))
    assert found.contacts == pytest.approx(4.0, rel=0.02)
