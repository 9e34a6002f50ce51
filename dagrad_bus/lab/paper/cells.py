"""What is asked for, and the runs that answer it: each cell is one ``dagrad run``, or one program that runs alone."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.paper.workloads import Workload, find_workload
from dagrad_bus.lab.parcels import usual_codec
from dagrad_bus.settings import SERVED, ExchangeSettings, RuleName

Purpose = Literal["tune", "measure", "pair", "straggler", "alone"]

RULES = ("sync-ps", "async-ps", "gossip-dense", "gossip-qsgd", "choco", "gradient", "state", "local")
"""All rules, in the order of the tables."""
PAIR = ("sync-ps", "state")
"""The rules whose accuracies are judged against each other, by more seeds than the tables need."""
SLEEP = 0.2
"""Seconds that the straggler sleeps each step."""
EVALUATIONS = 5
"""Evaluations of a run, at least; a speed is taken between the first and the last of them."""
STRAGGLER_STEPS = 20
"""Steps of a run with a straggler, at most."""
ALONE_STEPS = 60
"""Steps of the run of one worker alone, at most: only its speed is looked at."""
SETTLE_FACTOR = 4
"""Times its density that a frame holds, under every rule that has one, in the steps of rate 0 at the end of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run."""

    purpose: Purpose
    workload: str
    model: str
    workers: int
    rule: str
    lr: float
    seed: int
    steps: int
    pace: float
    density: float
    shards: str
    schedule: str = ""
    """Of the rate, where the program has a choice."""
    data_dir: str = ""
    """Folder of the data, where the workload needs one."""
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further settings: name without ``DAGRAD_`` to value."""

    @property
    def key(self) -> dict[str, Any]:
        """Return what the store of results knows it by."""
        return asdict(self)

    @property
    def name(self) -> str:
        """Return a name for its folder; cells of one bench differ in it."""
        return f"{self.purpose}-{self.workload}-{self.rule}-lr{self.lr:g}-seed{self.seed}"

    @property
    def straggler(self) -> str | None:
        """Return the worker that sleeps: the last, as the first may be a server."""
        return f"local.{self.workers - 1}" if self.purpose == "straggler" else None

    @property
    def graph(self) -> str | None:
        """Return the graph that the rule needs; None: that of the settings."""
        return "complete" if self.rule in SERVED else None

    def environment(self) -> dict[str, str]:
        """Return the further settings as variables."""
        settings = {"codec": usual_codec(self.rule), **self.extra}
        return {f"DAGRAD_{name.upper().replace('-', '_')}": value for name, value in settings.items()}

    def program(self) -> list[str]:
        """Return the program without a launcher: one worker, alone."""
        workload = find_workload(self.workload)
        return [sys.executable, "-m", workload.module, *self._flags(workload)]

    def command(self, folder: Path) -> list[str]:
        """Return ``dagrad run`` with the program, its results in ``folder``."""
        workload = find_workload(self.workload)
        options: dict[str, object] = {
            "-n": self.workers, "--dir": folder, "--rule": self.rule, "--density": self.density, "--seed": self.seed,
            "--progress": "none", "--on-failure": "abort",
        }  # fmt: skip
        if self.graph is not None:
            options["--topology"] = self.graph
        launcher = [sys.executable, "-m", "dagrad_bus.tools.cli", "run", "--no-figures"]
        given = [str(word) for pair in options.items() for word in pair]
        return [*launcher, *given, "-m", workload.module, *self._flags(workload)]

    def _flags(self, workload: Workload) -> list[str]:
        values: dict[str, object] = {
            "lr": self.lr, "seed": self.seed, "steps": self.steps, "batch": workload.batch, "shards": self.shards,
            "pace": self.pace, "settle": SETTLE_FACTOR, "model": self.model, "eval_every": max(1, self.steps // EVALUATIONS),
        }  # fmt: skip
        if self.schedule:
            values["schedule"] = self.schedule
        if self.data_dir:
            values["data_dir"] = self.data_dir
        if self.purpose == "tune":
            values["report"] = "val"
        if self.straggler is not None:
            values["sleep"] = f"{self.straggler}:{SLEEP}"
        return workload.words(values)

    @property
    def guess(self) -> float:
        """Return about how many seconds it takes, from what such runs have taken."""
        step = max(self.pace, 0.02) + (SLEEP if self.purpose == "straggler" else 0.0)
        return 4.0 + 0.4 * self.workers + self.steps * step


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the tables shall show; see ``dagrad bench paper --help``."""

    workload: str = "digits"
    model: str = ""
    """Empty: the workload's first."""
    workers: int = 8
    rules: tuple[str, ...] = RULES
    rates: tuple[float, ...] = ()
    """Empty: the workload's grid. One rate: nothing is tuned."""
    seeds: tuple[int, ...] = (0, 1, 2)
    pair_seeds: tuple[int, ...] = ()
    """Further seeds for the two rules of :data:`PAIR`, if both are asked for."""
    tune_seeds: tuple[int, ...] = ()
    """Seeds that the rate is chosen over; empty: those of the measurement."""
    steps: int = 0
    """Of each worker; 0: the workload's."""
    pace: float = -1.0
    """Seconds a step takes at least; below 0: the workload's."""
    density: float = ExchangeSettings().density
    shards: str = "iid"
    data_dir: str = ""
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    judged: bool = True
    """Whether the targets apply; not to a quick look."""

    def __post_init__(self) -> None:
        """Check every bound."""
        workload = find_workload(self.workload)
        unknown = sorted(set(self.rules) - set(get_args(RuleName)))
        if unknown or not self.rules:
            raise UsageError(f"rules: no {', '.join(unknown) or 'rule given'}: choose from {', '.join(RULES)}")
        seeds = (*self.seeds, *self.pair_seeds)
        if len(set(self.rules)) < len(self.rules) or len(set(seeds)) < len(seeds):
            raise UsageError("rules, seeds, pair-seeds: one is given twice")
        if self.model not in {"", *workload.models}:
            raise UsageError(f"{self.workload} has no model {self.model!r}: choose from {', '.join(workload.models)}")
        if self.workers < 2:
            raise UsageError(f"workers is {self.workers}: needs at least 2")
        if not self.seeds or min(*seeds, *self.tune_seeds, 0) < 0:
            raise UsageError("seeds: needs at least one, from 0")
        if any(not 0 < rate < math.inf for rate in self.rates) or list(self.rates) != sorted(set(self.rates)):
            raise UsageError("rates: needs rising learning rates over 0")
        self._check_data(workload)
        if not 0 < self.density <= 1:
            raise UsageError(f"density is {self.density}: needs a share in (0, 1]")

    def _check_data(self, workload: Workload) -> None:
        if self.shards not in workload.shards:
            raise UsageError(f"{self.workload} has no shards {self.shards!r}: choose from {', '.join(workload.shards)}")
        if workload.data and not self.data_dir:
            raise UsageError(f"{self.workload} needs --data-dir; {workload.data} makes one")
        if self.data_dir and not workload.data:
            raise UsageError(f"{self.workload} needs no --data-dir")

    def filled(self) -> Request:
        """Return the same with the workload's own values where none are given."""
        workload = find_workload(self.workload)
        return replace(
            self,
            model=self.model or workload.models[0],
            rates=self.rates or workload.rates,
            tune_seeds=self.tune_seeds or self.seeds,
            steps=self.steps or workload.steps,
            pace=self.pace if self.pace >= 0 else workload.pace,
        )

    def cell(self, purpose: Purpose, rule: str, lr: float, seed: int) -> Cell:
        """Return one run of a filled request."""
        return Cell(
            purpose=purpose,
            workload=self.workload,
            model=self.model,
            workers=1 if purpose == "alone" else self.workers,
            rule=rule,
            lr=lr,
            seed=seed,
            steps=min(self.steps, {"straggler": STRAGGLER_STEPS, "alone": ALONE_STEPS}.get(purpose, self.steps)),
            pace=self.pace,
            density=self.density,
            shards=self.shards,
            schedule=find_workload(self.workload).schedule,
            data_dir=self.data_dir,
            extra=self.extra,
        )

    def measured_cells(self, rates: Mapping[str, float]) -> Sequence[Cell]:
        """Return all runs but those of tuning, in the order in which they are made.

        The rules take turns within a seed, so that a machine that slows down slows all of them; the first seeds come
        first, so that a bench stopped half way has whole rows. Seeds of the judged pair come last.
        """
        runs = [self.cell("measure", rule, rates[rule], seed) for seed in self.seeds for rule in self.rules]
        runs += [self.cell("straggler", rule, rates[rule], self.seeds[0]) for rule in self.rules]
        runs += [self.cell("pair", rule, rates[rule], seed) for seed in self.pair_seeds for rule in self.pair]
        return [self.cell("alone", "local", rates.get("local", next(iter(rates.values()))), self.seeds[0]), *runs]

    @property
    def pair(self) -> tuple[str, ...]:
        """Return the rules that are judged against each other; none if one of them was not asked for."""
        return PAIR if set(PAIR) <= set(self.rules) else ()
