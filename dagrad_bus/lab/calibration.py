"""A calibration: the costs fitted to two real runs, the machine they hold for, and how well they foretold other runs.

It is a JSON file. One is shipped with the package; ``dagrad simulate --calibrate`` makes another. Every prediction of the
simulator is shown with the errors of the calibration it rests on: they are those of :attr:`Calibration.checks`, runs that
the fit did not see.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.fitting import Measured, Observed, Setup, errors, fit, fit_bytes, predict, run
from dagrad_bus.lab.profiles import Profile

SCHEMA = "dagrad.calibration/1"
SHIPPED = "calibration.json"
LARGE = "rule=gossip-dense"
"""Setting of the second run that is fitted: its frames hold the whole model, and their ages say how long bytes take."""
AGAINST = ("density=0.04", "rule=sync-ps")
"""Settings of the runs that are foretold, unless others are asked for."""
BATCH = 32
"""Samples of a worker in a step of the digits program."""
TARGET = 0.1
"""Error that a prediction should stay within."""

BUSY = 0.5
"""Load a core before the first run above which somebody else's work is measured too."""

Run = Callable[[Setup, str, Path], Measured]
"""Makes one run."""
Tell = Callable[[str], None]
"""Takes a line that says how far the work is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One run, measured and foretold."""

    setting: str
    """As ``density=0.04``; empty: the defaults."""
    fitted: bool
    """Whether the costs were fitted to this run: its age is no prediction then."""
    measured: Observed
    predicted: Observed

    @property
    def errors(self) -> dict[str, float]:
        """By what share of the measured value ``rate``, ``bytes`` and ``age`` are off."""
        return errors(self.measured, self.predicted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the simulator knows of one machine."""

    machine: str
    made: str
    """UTC day."""
    command: str
    """What makes another one like it."""
    setup: Setup
    parameters: int
    costs: Costs
    checks: tuple[Check, ...]

    @property
    def foretold(self) -> tuple[Check, ...]:
        """Runs that the fit did not see."""
        return tuple(check for check in self.checks if not check.fitted)

    @property
    def worst(self) -> dict[str, float]:
        """The largest error of each quantity over those runs, without its sign."""
        names = ("rate", "bytes", "age")
        found = {name: [abs(c.errors[name]) for c in self.foretold if name in c.errors] for name in names}
        return {name: max(values) for name, values in found.items() if values}

    def describe(self) -> str:
        """Return one line: how far off predictions were, where, and on what."""
        worst = ", ".join(f"{name} {100 * error:.1f} %" for name, error in self.worst.items()) or "never checked"
        names = "; ".join(check.setting for check in self.foretold)
        told = f" ({names}, {self.setup.workers} workers)" if names else ""
        return f"calibration error: {worst}{told}; {self.machine}, {self.made}"

    def profile(self) -> Profile:
        """Return the digits program on that machine, each worker on a core of its own."""
        costs = self.costs
        source = f"fitted to a real run: {self.machine}, {self.made}"
        return Profile(
            name="digits", title="handwritten digits, MLP 64-512-512-10, one core a worker",
            parameters=self.parameters, batch=BATCH, throughput=BATCH / costs.compute, spread=costs.spread,
            exchange=costs.exchange, exchange_byte=costs.exchange_byte,
            sources=dict.fromkeys(("parameters", "batch", "throughput", "spread", "exchange", "exchange_byte"), source),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        costs = asdict(self.costs)
        costs["slowdown"] = {str(worker): factor for worker, factor in self.costs.slowdown.items()}
        costs["bandwidth"] = None if math.isinf(self.costs.bandwidth) else self.costs.bandwidth
        checks = [asdict(check) | {"errors": check.errors} for check in self.checks]
        rest = {name: getattr(self, name) for name in ("machine", "made", "command", "parameters")}
        return {"schema": SCHEMA, **rest, "setup": asdict(self.setup), "costs": costs, "checks": checks}


def from_json(found: Mapping[str, Any]) -> Calibration:
    """Return what :meth:`Calibration.to_json` gave.

    Raises:
        KeyError, TypeError, ValueError: something else.
    """
    if found["schema"] != SCHEMA:
        raise ValueError(f"schema {found['schema']!r}")
    costs = dict(found["costs"])
    costs["slowdown"] = {int(worker): float(factor) for worker, factor in costs["slowdown"].items()}
    costs["bandwidth"] = math.inf if costs["bandwidth"] is None else costs["bandwidth"]
    checks = tuple(
        Check(
            setting=check["setting"], fitted=check["fitted"],
            measured=Observed(**check["measured"]), predicted=Observed(**check["predicted"]),
        )
        for check in found["checks"]
    )  # fmt: skip
    rest = {name: found[name] for name in ("machine", "made", "command", "parameters")}
    return Calibration(**rest, setup=Setup(**found["setup"]), costs=Costs(**costs), checks=checks)


def load_calibration(file: Path | None = None) -> Calibration:
    """Read a calibration.

    Args:
        file: None for the one that is shipped.

    Raises:
        UsageError: it cannot be read, or is something else.
    """
    where = file or resources.files("dagrad_bus.lab") / SHIPPED
    try:
        return from_json(json.loads(where.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(
            f"{where}: {error.strerror or error}: dagrad simulate --calibrate makes a calibration"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{where} is no calibration: {error!r}") from None


def save_calibration(calibration: Calibration, file: Path) -> None:
    """Write a calibration, for ``--calibration``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(calibration.to_json(), indent=1) + "\n", encoding="utf-8")


def calibrate(
    setup: Setup, against: Sequence[str], folder: Path, tell: Tell = lambda line: None, make: Run = run
) -> Calibration:
    """Fit two runs, one with the default settings and one with large frames, and foretell others.

    Args:
        setup: what all runs have in common.
        against: settings of the runs to foretell.
        folder: the runs go there, numbered.
        tell: hears how far it is.
        make: makes a run.

    Raises:
        UsageError: a setting that does not exist, or a run that failed.
    """
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    if load > BUSY and make is run:
        tell(f"this machine is busy (load {load:.1f} a core): the numbers will be those of a busy machine")
    count = 2 + len(against)
    tell(f"1 of {count}: the default settings, to be fitted")
    first = make(setup, "", folder / "0")
    tell(f"2 of {count}: {LARGE}, to be fitted")
    large = make(setup, LARGE, folder / "1")
    costs = fit_bytes(setup, LARGE, fit(setup, "", first), large)
    checks = [
        Check(setting=setting, fitted=True, measured=one.seen, predicted=predict(setup, setting, costs, one.parameters))
        for setting, one in (("", first), (LARGE, large))
    ]
    for number, setting in enumerate(against, 2):
        foretold = predict(setup, setting, costs, first.parameters)  # before the run
        tell(f"{number + 1} of {count}: {setting}")
        checks.append(
            Check(
                setting=setting, fitted=False, measured=make(setup, setting, folder / str(number)).seen,
                predicted=foretold,
            )
        )  # fmt: skip
    words = "".join(f" --against {setting.replace(',', '+')}" for setting in against)
    return Calibration(
        machine=describe_machine(), made=time.strftime("%Y-%m-%d", time.gmtime()),
        command=f"dagrad simulate --calibrate{words}", setup=setup, parameters=first.parameters, costs=costs,
        checks=tuple(checks),
    )  # fmt: skip


def describe_machine() -> str:
    """Return processor, cores and versions, and nothing that names this host."""
    names = [name for name in _cpuinfo() if name] or [platform.machine()]
    return f"{names[0]}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {metadata.version('torch')}"


def _cpuinfo() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
