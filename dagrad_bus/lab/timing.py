"""Steps a second, bytes and ages of a cluster that does not exist: every rule, any number of workers, no training.

:func:`simulate` plays one :class:`~dagrad_bus.lab.scenario.Scenario`. Rules that never wait are played event by event
(:mod:`dagrad_bus.lab.crowd`), those that meet at a barrier round by round (:mod:`dagrad_bus.lab.barrier`). What is learned
meanwhile is the affair of :mod:`dagrad_bus.lab.experiment`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from dagrad_bus.ids import derive_node_id
from dagrad_bus.lab.barrier import Barrier
from dagrad_bus.lab.crowd import Crowd
from dagrad_bus.lab.manners import manner_of
from dagrad_bus.lab.parcels import WAITING, parcels_of
from dagrad_bus.lab.scenario import Scenario, Timing
from dagrad_bus.topology.live import TopologySpec, adjacency

RUN = "simulate"


def simulate(scenario: Scenario) -> Timing:
    """Return what a scenario gives; equal scenarios give equal timings, on every machine.

    Raises:
        UsageError: a degree that is no even number from 2.
    """
    rule = scenario.rule
    parcels = parcels_of(rule, scenario.parameters, scenario.exchange, scenario.codec, scenario.link.max_frame)
    if rule in WAITING:
        return Barrier(scenario, parcels).run()
    crowd = Crowd(scenario, _near(scenario), parcels)
    return crowd.run(manner_of(crowd))


def _near(scenario: Scenario) -> Sequence[Sequence[int]]:
    """Return whom each worker exchanges with."""
    count = scenario.workers
    if scenario.rule == "local":
        return [()] * count
    if scenario.rule == "async-ps":
        return [range(1, count), *([(0,)] * (count - 1))]
    return _graph(count, scenario.degree)


@lru_cache(maxsize=8)
def _graph(count: int, degree: int) -> Sequence[Sequence[int]]:
    """Return hash-rings over ``count`` workers."""
    numbers = {derive_node_id(RUN, f"local.{index}"): index for index in range(count)}
    near = adjacency(list(numbers), TopologySpec(degree=degree))
    return [tuple(numbers[peer] for peer in near[node]) for node in numbers]
