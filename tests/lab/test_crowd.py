"""Cards, links and credit of the made-up cluster."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.crowd import Crowd, Worker, draw_leavers
from dagrad_bus.lab.parcels import Parcels
from dagrad_bus.lab.scenario import Scenario

SIZE = 1000.0


class Once:
    """Worker 1 and above send ``count`` frames to worker 0 at their first boundary; worker 0 notes what it takes."""

    def __init__(self, crowd: Crowd, count: int = 1) -> None:
        self.crowd, self.count = crowd, count
        self.there: list[float] = []

    def boundary(self, worker: Worker) -> float:
        taken = self.crowd.take(worker)
        self.there += [self.crowd.world.now for _ in taken]
        if worker.index and worker.steps == 1:
            for link in worker.outgoing:
                for _ in range(self.count):
                    self.crowd.send(link)
        return 0.0

    def lost(self, worker: Worker, peer: Worker) -> None:
        pass


def make_crowd(count: int, bandwidth: float, parts: int = 1, **costs: float) -> Crowd:
    scenario = Scenario(
        workers=count, steps=40, warmup=0,
        costs=Costs(compute=0.01, spread=0.0, bandwidth=bandwidth, latency=costs.get("latency", 0.0)),
    )  # fmt: skip
    near = [list(range(1, count)), *([[0]] * (count - 1))]
    return Crowd(scenario, near, Parcels(SIZE, parts))


def test_a_receivers_card_takes_one_frame_after_the_other() -> None:
    crowd = make_crowd(6, bandwidth=SIZE / 0.05)  # 0.05 s a frame
    manner = Once(crowd)
    crowd.run(manner)
    assert len(manner.there) == 5
    assert max(manner.there) - min(manner.there) > 3 * 0.05


def test_free_cards_take_no_time() -> None:
    crowd = make_crowd(6, bandwidth=math.inf)
    manner = Once(crowd)
    crowd.run(manner)
    assert max(manner.there) < 0.04


def test_a_link_has_credit_for_a_window_and_gets_it_back() -> None:
    crowd = make_crowd(2, bandwidth=math.inf, latency=0.03)
    link = crowd.workers[1].outgoing[0]
    for _ in range(crowd.scenario.link.window):
        assert crowd.is_ready(link)
        crowd.send(link)
    assert not crowd.is_ready(link)
    crowd.world.run(0.05)
    assert not crowd.is_ready(link)  # there, but its receipts are on their way
    crowd.world.run(0.07)
    assert link.flying == 8
    crowd.take(crowd.workers[0])
    assert crowd.is_ready(link)
    assert link.flying == 0


def test_a_receipt_waits_for_a_frame_to_ride_on_or_for_its_delay() -> None:
    crowd = make_crowd(2, bandwidth=math.inf, latency=0.001)
    link = crowd.workers[1].outgoing[0]
    reverse = crowd.workers[0].outgoing[0]
    assert link.back is reverse
    crowd.send(link)
    crowd.world.run(0.04)
    crowd.is_ready(link)
    assert link.flying == 1
    crowd.world.run(0.06)  # the delay is over
    crowd.is_ready(link)
    assert link.flying == 0
    crowd.send(link)
    crowd.world.run(0.07)
    crowd.send(reverse)
    crowd.world.run(0.075)  # rode along
    crowd.is_ready(link)
    assert link.flying == 0


def test_frames_that_wait_for_a_slow_receiver_stop_the_credit() -> None:
    crowd = make_crowd(2, bandwidth=math.inf)
    link = crowd.workers[1].outgoing[0]
    for round_ in range(crowd.scenario.link.mailbox_frames):
        crowd.send(link)
        crowd.world.run(0.01 * (round_ + 1))
    assert not crowd.is_ready(link)
    assert len(crowd.take(crowd.workers[0])) == 8
    assert crowd.is_ready(link)


def test_what_flies_on_a_link_that_is_cut_is_lost() -> None:
    crowd = make_crowd(2, bandwidth=math.inf, latency=0.03)
    link = crowd.workers[1].outgoing[0]
    crowd.send(link)
    link.cut()
    crowd.world.run(1.0)
    assert not crowd.take(crowd.workers[0])
    assert not crowd.is_ready(link)


def test_the_server_never_leaves() -> None:
    scenario = Scenario(workers=40, churn=0.5)
    leavers = draw_leavers(scenario, np.random.default_rng(0))
    assert len(leavers) == len(set(leavers)) == 20
    assert 0 not in leavers


def test_a_straggler_is_not_waited_for() -> None:
    scenario = Scenario(workers=3, steps=20, warmup=2, costs=Costs(compute=0.01, slowdown={2: 50.0}))
    crowd = Crowd(scenario, [(), (), ()], Parcels(0.0, 0))
    found = crowd.run(Once(crowd, 0))
    assert found.seconds == pytest.approx(0.22, rel=0.3)
    assert found.healthy_efficiency == pytest.approx(1.0)
