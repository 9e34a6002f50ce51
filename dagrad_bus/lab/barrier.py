"""Rules that wait for everybody at every step, timed round by round: ``sync-ps``, and a ring all-reduce beside it.

``sync-ps``: the server is worker 0 and trains too. Its card takes the pushes of all others one after the other, as they
arrive, and then sends as many answers, frame by frame in turns, as :class:`dagrad_bus.attach.dense.DensePost` does. So
with cards that are slow against computing a round of a model of k frames takes between 2 (N - 1) S / b (many frames: all
workers end with the last ones) and (N - 1) S / b more than one transfer (one frame: who was answered first computes and
pushes while others are being answered), with S the bytes of the model and b those that the card moves in a second.

``all-reduce`` is no rule of this project: reduce-scatter and all-gather round a ring, 2 (N - 1) / N * S bytes over each
card, as other systems train synchronously. It stands here as what a barrier without a server costs; nothing but the
ring is charged, and nothing of it hides behind the backward pass.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.lab.crowd import draw_leavers
from dagrad_bus.lab.parcels import Parcels
from dagrad_bus.lab.scenario import Scenario, Timing, mean_of
from dagrad_bus.metrics import AGE_EDGES
from dagrad_bus.workers.launch.forecast import ack_size, heartbeat_size

Seconds = NDArray[np.float64]


class Barrier:
    """Rounds.

    Args:
        scenario: what is timed.
        parcels: what a vector weighs; not looked at for ``all-reduce``.
    """

    def __init__(self, scenario: Scenario, parcels: Parcels) -> None:
        self._scenario, self._costs, self._parcels = scenario, scenario.costs, parcels
        self._rng = np.random.default_rng([scenario.seed, 13])
        count = scenario.workers
        self._slow = np.array([self._costs.slowdown.get(index, 1.0) for index in range(count)])
        self._free = np.zeros(count)
        """When each worker begins its next step."""
        self._in = np.ones(count, np.bool_)
        """Who takes part: under ``sync-ps`` nobody comes back."""
        self._alone = np.zeros(count)
        self._sent = 0.0
        typical = max(self._costs.compute, scenario.pace)
        self._leaves = np.full(count, np.inf)
        for index in draw_leavers(scenario, self._rng):
            self._leaves[index] = typical * (scenario.warmup + scenario.steps) * float(self._rng.random())

    def run(self) -> Timing:
        """Do all rounds."""
        scenario = self._scenario
        for _ in range(scenario.warmup):
            self._round()
        began, counted = self._free.copy(), self._in.copy()
        self._alone[:], self._sent, done = 0.0, 0.0, np.zeros(scenario.workers)
        for _ in range(scenario.steps):
            self._round()
            done += self._in
        return self._account(began, counted, done)

    def _round(self) -> None:
        """Let everybody compute, meet, and begin anew."""
        scenario, costs = self._scenario, self._costs
        self._in &= self._leaves > self._free
        members = np.flatnonzero(self._in)
        drawn = np.exp(costs.spread * self._rng.standard_normal(len(self._free))) if costs.spread else 1.0
        seconds = costs.compute * self._slow * drawn
        ready = (self._free + seconds)[members]
        if len(members) == 1:
            after = ready
        elif scenario.rule == "all-reduce":
            after = self._around(ready)
        else:
            after = self._served(members, ready)
        after = np.maximum(after, (self._free + scenario.pace * self._slow)[members])
        self._free[:] = after.max()  # who has left looks on
        self._free[members] = after
        self._alone[members] += np.maximum(seconds, scenario.pace * self._slow)[members]

    def _around(self, ready: Seconds) -> Seconds:
        count, size = len(ready), 4.0 * self._scenario.parameters
        now = float(ready.max())
        chunk = size / count
        slowest = max(self._costs.transfer_time(round(chunk), index, now) for index in range(min(count, 64)))
        took = 2 * (count - 1) * (slowest + self._flights(1)[0])
        self._sent += 2 * size * (count - 1)
        return np.full(count, now + took)

    def _served(self, members: NDArray[np.int64], ready: Seconds) -> Seconds:
        """Let the server gather, and answer; return when each worker begins its next step."""
        parcels, costs, others = self._parcels, self._costs, len(members) - 1
        parts, size = parcels.parts, round(parcels.size)
        here = self._gathered(ready[1:])
        now = max(float(ready[0]), here)
        free = handed = now
        ends: Seconds = np.empty(others)
        for part in range(parts):
            own = costs.transfer_time(size, 0, free)
            ends = free + own * np.arange(1, others + 1, dtype=np.float64)
            free = float(ends[-1])
            if part == max(0, parts - 1 - self._window):
                handed = free if parts > self._window else now
        load = 2 * parcels.total
        after = np.empty(others + 1)
        after[1:] = ends + self._flights(others) + costs.boundary_time(round(load))
        after[0] = handed + costs.boundary_time(round(parcels.total * (others + 1)))
        self._sent += 2 * others * parts * (parcels.size + ack_size())
        return after

    @property
    def _window(self) -> int:
        limits = self._scenario.link
        return min(limits.window, max(2, int(limits.window_bytes / max(1.0, self._parcels.size))))

    def _gathered(self, ready: Seconds) -> float:
        """Return when the server's card has taken everything, first come, first served."""
        parcels, costs = self._parcels, self._costs
        size, now = round(parcels.size), float(np.median(ready))
        own = costs.transfer_time(size, 1, now)
        heads = (ready[:, None] + own * np.arange(parcels.parts)).ravel()
        heads = np.sort(heads + self._flights(len(heads)))
        each = max(costs.transfer_time(size, 0, now), own if len(ready) == 1 else 0.0)
        return float((heads + each * np.arange(len(heads), 0, -1)).max())

    def _flights(self, count: int) -> Seconds:
        costs = self._costs
        return costs.latency + (
            costs.tail * self._rng.pareto(costs.tail_index, count) if costs.tail else np.zeros(count)
        )

    def _account(self, began: Seconds, counted: NDArray[np.bool_], done: Seconds) -> Timing:
        scenario = self._scenario
        elapsed = float(self._free.max()) - began
        told = np.flatnonzero(counted)
        spans = np.where(self._in, self._free - began, elapsed)[told]
        steps = float(done[told].sum())
        efficiencies = self._alone[told] / spans
        healthy = efficiencies[self._slow[told] <= 1]
        beats = scenario.links * heartbeat_size(scenario.links) / scenario.beat if scenario.links else 0.0
        sent = self._sent / steps + beats * float(spans.sum()) / steps
        mixes = scenario.workers > 1
        return Timing(
            rule=scenario.rule, workers=scenario.workers, rate=mean_of(list(done[told] / spans)),
            efficiency=mean_of(list(efficiencies)), healthy_efficiency=mean_of(list(healthy)),
            bytes_per_step=sent, dense_share=sent / (8 * scenario.parameters),
            median_age=0.0 if mixes else None, p99_age=0.0 if mixes else None,
            ages=(int(steps) if mixes else 0, *([0] * len(AGE_EDGES))),
            contacts=float(scenario.workers - 1), skipped=0.0, seconds=float(self._free.max()),
            steps=scenario.steps,
        )  # fmt: skip


def expected_efficiency(costs_spread: float, workers: int, draws: int = 20_000, seed: int = 0) -> float:
    """Return E[compute] / E[max of N computes], what a barrier leaves where bytes and flights cost nothing."""
    rng = np.random.default_rng(seed)
    largest = np.exp(costs_spread * rng.standard_normal((max(1, draws // workers), workers))).max(axis=1)
    return math.exp(costs_spread**2 / 2) / float(largest.mean())
