"""The pytest plug-in behind the fault matrix: a marker, a fixture and a file.

Any test says which row it proves, and in which layer::

    @pytest.mark.row(7, layer="L3")
    def test_a_short_pause_kills_nobody(row: RowReport, herd: Herd) -> None:
        row.felt("suspicions", suspicions)
        row.at_most("DEAD", dead, 0)

A figure out of bounds is kept, and fails the test at its end, so the others are kept as well. Tests without the fixture
prove their rows by passing; what they ``record_property`` counts as figures. ``pytest --rows FILE`` writes it all down.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from dagrad_bus.faults.matrix import Found

_FOUND = pytest.StashKey[dict[tuple[str, int, str], Found]]()


@dataclass(slots=True)
class RowReport:
    """What one test has to say of its row.

    Args:
        seed: of all chance in the test.
    """

    seed: int
    figures: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    schedule: list[str] = field(default_factory=list[str])
    _wrong: list[str] = field(default_factory=list[str])
    _begun: float = field(default_factory=time.monotonic)

    def at_most(self, name: str, value: float, limit: float, unit: str = "") -> None:
        """Keep a figure that must not exceed ``limit``."""
        self._keep(name, value, "<=", limit, unit, ok=value <= limit)

    def at_least(self, name: str, value: float, limit: float, unit: str = "") -> None:
        """Keep a figure that must reach ``limit``."""
        self._keep(name, value, ">=", limit, unit, ok=value >= limit)

    def exactly(self, name: str, value: object, wanted: object) -> None:
        """Keep a figure that must be ``wanted``."""
        self._keep(name, value, "==", wanted, "", ok=value == wanted)

    def felt(self, name: str, count: float) -> None:
        """Keep how often the fault was felt; a fault that was not proves nothing."""
        self._keep(name, count, ">", 0, "", ok=count > 0)

    def note(self, name: str, value: object, unit: str = "") -> None:
        """Keep a figure without a bound."""
        self.figures.append({"name": name, "value": value, "unit": unit})

    def inject(self, what: str) -> None:
        """Write down a fault and when it was injected."""
        self.schedule.append(f"{time.monotonic() - self._begun:.2f} s: {what}")

    def _keep(self, name: str, value: object, relation: str, limit: object, unit: str, *, ok: bool) -> None:
        self.figures.append({"name": name, "value": value, "relation": relation, "limit": limit, "unit": unit})
        if not ok:
            self._wrong.append(f"{name} is {value}, not {relation} {limit} {unit}".rstrip())

    def conclude(self) -> None:
        """Fail if a figure was out of bounds.

        Raises:
            AssertionError: naming each of them, with seed and schedule.
        """
        if self._wrong:
            raise AssertionError("; ".join([*self._wrong, f"seed {self.seed}", *self.schedule]))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plug-in's options."""
    group = parser.getgroup("faults")
    group.addoption("--rows", metavar="FILE", default=None, help="write what the tests say of the fault matrix")
    group.addoption("--fault-seed", type=int, default=1, help="seed of all chance in the fault tests")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker."""
    config.addinivalue_line("markers", "row(number, layer): the row of the fault matrix that the test proves")
    config.stash[_FOUND] = {}


def pytest_report_header(config: pytest.Config) -> str:
    """Print the seed."""
    return f"fault seed: {config.getoption('fault_seed')}"


@pytest.fixture
def row(request: pytest.FixtureRequest) -> RowReport:
    """Return where the test writes its figures."""
    return RowReport(request.config.option.fault_seed)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail a test at its end if a figure was out of bounds."""
    result = yield
    report = pyfuncitem.funcargs.get("row")
    if isinstance(report, RowReport):
        report.conclude()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what became of each marked test."""
    report = yield
    if report.when == "call" or report.outcome != "passed":
        for mark in item.iter_markers("row"):
            for number in mark.args:
                layer = str(mark.kwargs["layer"])
                known = item.config.stash[_FOUND].get((item.nodeid, number, layer))
                if known is None or known["verdict"] != "failed":
                    entry = _entry(item, report, int(number), layer)
                    item.config.stash[_FOUND][item.nodeid, number, layer] = entry
    return report


def _entry(item: pytest.Item, report: pytest.TestReport, number: int, layer: str) -> Found:
    funcargs: dict[str, object] = getattr(item, "funcargs", {})
    kept = funcargs.get("row")
    figures = list(kept.figures) if isinstance(kept, RowReport) else []
    figures += [{"name": name, "value": value} for name, value in report.user_properties]
    return {
        "row": number,
        "layer": layer,
        "test": item.nodeid,
        "verdict": report.outcome,
        "reason": _reason(report),
        "figures": figures,
        "seed": item.config.getoption("fault_seed"),
        "schedule": kept.schedule if isinstance(kept, RowReport) else [],
        "seconds": round(report.duration, 2),
    }


def _reason(report: pytest.TestReport) -> str:
    """Return in one line why a test was skipped or failed."""
    if report.outcome == "passed":
        return ""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(getattr(crash, "message", report.longrepr))
    where = "" if report.when == "call" else f"{report.when}: "
    return where + (text.splitlines() or ["failed"])[0]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the file."""
    target = session.config.getoption("rows")
    if target:
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = list(session.config.stash[_FOUND].values())
        found = {"schema": "dagrad.faults/1", "time": time.time(), "rows": rows}
        path.write_text(json.dumps(found, indent=1, default=_plain))


def _plain(value: object) -> object:
    """Return a figure that JSON has no word for as one that it has."""
    return sorted(map(str, cast(Iterable[object], value))) if isinstance(value, set | frozenset) else str(value)
