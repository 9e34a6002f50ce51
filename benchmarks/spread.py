"""Figures with their spread, and how every benchmark prints them.

One figure of a noisy machine says little, a ratio of two that alternated in one run says more: so each row is the
median of several repetitions with the least and the greatest, and a row that is compared names what with.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import cpu_count, getloadavg
from statistics import median
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spread:
    """Least, median and greatest of some repetitions."""

    low: float
    mid: float
    high: float
    count: int

    @classmethod
    def over(cls, values: Sequence[float]) -> Spread:
        """Return the spread of ``values``, one at least."""
        return cls(min(values), median(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{_short(self.mid):>8} ({_short(self.low)} .. {_short(self.high)})"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a report."""

    name: str
    spread: Spread
    unit: str = ""
    at_most: float | None = None
    """The target, where less is better."""
    at_least: float | None = None
    """The target, where more is better."""
    against: str = ""
    """The limit it is compared with."""

    @property
    def target(self) -> str:
        """The target in words; empty where there is none."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return f">= {self.at_least:g}" if self.at_least is not None else ""

    @property
    def is_met(self) -> bool | None:
        """Whether the median meets the target; None where there is none."""
        if self.at_most is not None:
            return self.spread.mid <= self.at_most
        return self.spread.mid >= self.at_least if self.at_least is not None else None

    def to_json(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "min": self.spread.low,
            "median": self.spread.mid,
            "max": self.spread.high,
            "repetitions": self.spread.count,
            "target": self.target,
            "met": self.is_met,
            "against": self.against,
        }


def spread_of_ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Return the spread of the ratios of measurements that alternated: the i-th of one by the i-th of the other."""
    return Spread.over([a / b for a, b in zip(above, below, strict=True)])


def interleave(sides: Mapping[str, Callable[[], T]], repetitions: int) -> dict[str, list[T]]:
    """Run the sides in turn, A B A B, and return each one's results in order."""
    results: dict[str, list[T]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, measure in sides.items():
            results[name].append(measure())
    return results


def report(title: str, rows: Sequence[Row], *, as_json: bool, notes: Sequence[str] = (), **facts: object) -> None:
    """Print the rows, as a table or as one JSON object with ``facts`` about the run."""
    if as_json:
        machine = {"cpus": cpu_count(), "load": getloadavg()[0], "python": platform.python_version()}
        print(json.dumps({"benchmark": title, **machine, **facts, "rows": [row.to_json() for row in rows]}))
        return
    print(f"{title}: {', '.join(f'{name} {fact}' for name, fact in facts.items())}; load {getloadavg()[0]:.1f}")
    width = max(len(row.name) for row in rows)
    for row in rows:
        verdict = {None: "", True: "  met", False: "  MISSED"}[row.is_met]
        goal = f"  target {row.target}{verdict}" if row.target else ""
        against = f"  [{row.against}]" if row.against else ""
        print(f"  {row.name:{width}}  {row.spread!s} {row.unit}{goal}{against}".rstrip())
    for note in notes:
        print(f"  {note}")


def _short(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"
