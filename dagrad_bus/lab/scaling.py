"""Tables of rules, links and numbers of workers: which scenarios are timed for a question, and what they gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dagrad_bus.lab.parcels import SPARSE, Simulated, parcels_of
from dagrad_bus.lab.profiles import Profile, Wire, costs_of, draw_stragglers
from dagrad_bus.lab.scenario import RULES, Scenario, Timing
from dagrad_bus.lab.timing import simulate
from dagrad_bus.settings import ExchangeSettings, LinkSettings

LEAST_STEPS, MOST_STEPS = 20, 3000
WORKER_STEPS = 200_000
"""Steps of all workers together, about, beyond which a scenario is cut short."""
CYCLES = 3
"""Complete exchanges that rules with large vectors should come to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked."""

    profile: Profile
    wires: dict[str, Wire]
    workers: tuple[int, ...] = (32, 128)
    rules: tuple[Simulated, ...] = RULES
    exchange: ExchangeSettings = field(default_factory=ExchangeSettings)
    degree: int = 4
    stragglers: int = 0
    factor: float = 1.0
    """How many times longer a straggler's step takes."""
    swing: float = 0.0
    churn: float = 0.0
    steps: int = 0
    """Measured of each worker; 0: as many as the rule needs to settle."""
    seed: int = 0

    def scenario(self, rule: Simulated, workers: int, wire: str) -> Scenario:
        """Return one of its scenarios."""
        stragglers = draw_stragglers(self.stragglers, workers)
        costs = costs_of(self.profile, self.wires[wire], stragglers=stragglers, factor=self.factor, swing=self.swing)
        steps = self.steps or self._steps(rule, workers, self.wires[wire])
        return Scenario(
            rule=rule, workers=workers, parameters=self.profile.parameters, costs=costs, exchange=self.exchange,
            degree=self.degree, steps=steps, warmup=max(5, steps // 4), churn=self.churn, seed=self.seed,
        )  # fmt: skip

    def _steps(self, rule: Simulated, workers: int, wire: Wire) -> int:
        """Return how many steps show how a rule settles: some exchanges, where those of large vectors take long."""
        wanted = 2 * LEAST_STEPS
        if rule in {"gossip-dense", "async-ps"}:
            parcels = parcels_of(rule, self.profile.parameters, self.exchange, max_frame=LinkSettings().max_frame)
            served = 2 * (workers - 1) if rule == "async-ps" else 2
            cycle = 3 * parcels.parts + served * parcels.total / wire.bandwidth / self.profile.compute
            wanted = max(wanted, min(MOST_STEPS, round(CYCLES * cycle)))
        room = WORKER_STEPS // workers if rule not in SPARSE else WORKER_STEPS // (2 * workers)
        return max(LEAST_STEPS, min(wanted, room))


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario's numbers."""

    wire: str
    timing: Timing
    samples: float
    """Samples a second of all workers together."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {"link": self.wire, **asdict(self.timing), "samples_per_second": self.samples}


Done = Callable[[Row, int, int], None]
"""Hears of each row: the row, its number, how many there are."""


def answer(question: Question, done: Done = lambda row, number, count: None) -> list[Row]:
    """Time every rule on every link with every number of workers."""
    cells: list[tuple[str, int, Simulated]] = [
        (wire, workers, rule) for wire in question.wires for workers in question.workers for rule in question.rules
    ]
    rows: list[Row] = []
    for number, (wire, workers, rule) in enumerate(cells, 1):
        timing = simulate(question.scenario(rule, workers, wire))
        rows.append(Row(wire, timing, timing.rate * workers * question.profile.batch))
        done(rows[-1], number, len(cells))
    return rows


def find_row(rows: Sequence[Row], wire: str, workers: int, rule: str) -> Row | None:
    """Return the row of a cell, if it was timed."""
    found = (row for row in rows if (row.wire, row.timing.workers, row.timing.rule) == (wire, workers, rule))
    return next(found, None)
