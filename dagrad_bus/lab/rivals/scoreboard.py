"""All trials of a comparison: rates first, on the validation part, then the rows, on the test part; then faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Protocol

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.rates import best_rates, beyond
from dagrad_bus.lab.results import Results
from dagrad_bus.lab.rivals.environments import Installed
from dagrad_bus.lab.rivals.handout import Fault, Trial
from dagrad_bus.lab.rivals.outcome import Outcome
from dagrad_bus.lab.rivals.systems import EXTENSIONS, REFERENCE, System
from dagrad_bus.workers.shards import Kind

SHARDS: tuple[Kind, ...] = ("iid", "sorted")
STRAGGLER_STEPS, KILL_STEPS = 60, 100
"""Steps of the trials with a fault, at most."""

RunTrial = Callable[[Trial, str, Path], Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for."""

    systems: tuple[System, ...]
    workers: int
    steps: int
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    pace: float

    def trial(self, system: System, shards: Kind, lr: float, seed: int, fault: Fault = "none") -> Trial:
        """Return a run on the test part."""
        most = {"none": self.steps, "straggler": STRAGGLER_STEPS, "kill": KILL_STEPS}[fault]
        return Trial(
            system=system.name, shards=shards, seed=seed, lr=lr, steps=min(self.steps, most), workers=self.workers,
            pace=self.pace, report="test", fault=fault,
        )  # fmt: skip

    def tuning(self, system: System, shards: Kind, lr: float) -> Trial:
        """Return a run on the validation part, with the first seed."""
        return Trial(
            system=system.name, shards=shards, seed=self.seeds[0], lr=lr, steps=self.steps, workers=self.workers,
            pace=self.pace, report="val",
        )  # fmt: skip


@dataclass(slots=True)
class Findings:
    """What was found out about one system."""

    system: System
    installed: Installed | None = None
    why: str = ""
    """Why it could not be installed, or what is to be said about it."""
    rates: dict[Kind, float] = field(default_factory=dict[Kind, float])
    tried: dict[Kind, dict[float, float | None]] = field(default_factory=dict[Kind, "dict[float, float | None]"])
    """Accuracy on the validation part by rate; None: the run failed. Empty if there was one rate only."""
    finals: dict[Kind, list[Outcome]] = field(default_factory=dict[Kind, list[Outcome]])
    """One a seed, in the order of the seeds."""
    straggler: Outcome | None = None
    kill: Outcome | None = None


class Reporter(Protocol):
    """Is told how it goes."""

    def plan(self, seconds: float) -> None:
        """Take about how many seconds all trials that are still to be run will take."""

    def done(self, trial: Trial, outcome: Outcome, *, fresh: bool) -> None:
        """Take a finished trial; not ``fresh``: it was at hand."""

    def say(self, text: str) -> None:
        """Take a remark."""


@dataclass(slots=True)
class Scoreboard:
    """Runs what is missing.

    Args:
        request: what.
        results: what is at hand, and where new results go.
        folder: where trials leave their files.
        install: makes a system's environment, or raises UsageError.
        run: runs one trial.
        reporter: is told of all of it.
    """

    request: Request
    results: Results
    folder: Path
    install: Callable[[System], Installed]
    run: RunTrial
    reporter: Reporter

    def make(self) -> list[Findings]:
        """Return the findings, one a system, in the order of the request."""
        found = [self._installed(system) for system in self.request.systems]
        able = [one for one in found if one.installed is not None]
        self.reporter.plan(sum(trial.guess for trial in self._all(able) if self._at_hand(trial) is None))
        for one in able:
            for shards in SHARDS:
                one.rates[shards] = self._tune(one, shards)
        for seed in self.request.seeds:  # side by side in time: step times are compared within a seed
            for shards in SHARDS:
                for one in able:
                    trial = self.request.trial(one.system, shards, one.rates[shards], seed)
                    one.finals.setdefault(shards, []).append(self._outcome(one, trial))
        for one in able:
            self._faults(one)
        return found

    def _installed(self, system: System) -> Findings:
        try:
            return Findings(system, self.install(system))
        except UsageError as error:
            self.reporter.say(f"{system.title}: left out: {error}")
            return Findings(system, why=str(error))

    def _faults(self, one: Findings) -> None:
        seed, rate = self.request.seeds[0], one.rates["iid"]
        one.straggler = self._outcome(one, self.request.trial(one.system, "iid", rate, seed, "straggler"))
        if one.system.name != REFERENCE:
            one.kill = self._outcome(one, self.request.trial(one.system, "iid", rate, seed, "kill"))

    def _all(self, able: Sequence[Findings]) -> Iterator[Trial]:
        """Yield all trials, with a guess at the rate where it is not known yet."""
        request = self.request
        for one in able:
            for shards in SHARDS:
                if len(request.rates) > 1:
                    yield from (request.tuning(one.system, shards, rate) for rate in request.rates)
                rate = self._foreseen(one, shards)
                yield from (request.trial(one.system, shards, rate, seed) for seed in request.seeds)
            faults: tuple[Fault, ...] = ("straggler",) if one.system.name == REFERENCE else ("straggler", "kill")
            rate = self._foreseen(one, "iid")
            yield from (request.trial(one.system, "iid", rate, request.seeds[0], fault) for fault in faults)

    def _foreseen(self, one: Findings, shards: Kind) -> float:
        """Return the rate that results at hand choose; the middle one while some are missing."""
        rates = self.request.rates

        def seen(rate: float) -> float | None:
            kept = self._at_hand(self.request.tuning(one.system, shards, rate))
            return fmean(kept.accuracies) if kept is not None and kept.accuracies else None

        if len(rates) == 1 or None in map(seen, rates):
            return rates[len(rates) // 2]
        return best_rates(search(rates, seen))[0]

    def _key(self, trial: Trial) -> Mapping[str, object]:
        system = next(one for one in self.request.systems if one.name == trial.system)
        return trial.key | {"options": dict(system.options), "requirements": list(system.requirements)}

    def _at_hand(self, trial: Trial) -> Outcome | None:
        kept = self.results.get(self._key(trial))
        return None if kept is None else Outcome.from_json(kept)

    def _outcome(self, one: Findings, trial: Trial) -> Outcome:
        """Return a trial's outcome, run if it is not at hand. One that failed is not kept: a later call tries again."""
        kept = self._at_hand(trial)
        if kept is not None:
            self.reporter.done(trial, kept, fresh=False)
            return kept
        assert one.installed is not None
        found = self.run(trial, one.installed.python, self.folder / folder_name(trial))
        if found.ending == "done" or trial.fault == "kill":
            self.results.put(self._key(trial), found.to_json())
        self.reporter.done(trial, found, fresh=True)
        return found

    def _tune(self, one: Findings, shards: Kind) -> float:
        """Return the rate of best accuracy; while none is better than an edge, a few more beyond it are tried."""
        rates = self.request.rates
        if len(rates) == 1:
            return rates[0]
        tried = one.tried[shards] = search(rates, lambda rate: self._validate(one, shards, rate))
        return best_rates(tried)[0]

    def _validate(self, one: Findings, shards: Kind, rate: float) -> float | None:
        found = self._outcome(one, self.request.tuning(one.system, shards, rate))
        return fmean(found.accuracies) if found.accuracies else None


def folder_name(trial: Trial) -> str:
    """Return the name of a trial's folder."""
    return f"{trial.system}-{trial.shards}-{trial.report}-{trial.fault}-lr{trial.lr:g}-seed{trial.seed}"


def search(rates: Sequence[float], ask: Callable[[float], float | None]) -> dict[float, float | None]:
    """Return the accuracy of each rate, and of those beyond an edge that no rate beats, ``EXTENSIONS`` times at most."""
    tried = {rate: ask(rate) for rate in rates}
    for _ in range(EXTENSIONS):
        tried |= {rate: ask(rate) for rate in beyond(tried)}
    return tried
