"""Journals of workers: read while they grow, and gathered into one record a worker.

A journal is a file of JSON objects, one a line, that the worker appends to: ``start``, ``progress``, ``log``,
``sample``, ``end``. A line is used once its newline is there; a line that is no JSON object, or holds something else
where numbers stand, is counted and skipped: a worker killed while writing leaves a readable journal, and one from
another host cannot end a launcher.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

_CHUNK = 1 << 20
LONGEST_LINE = 1 << 16
"""Bytes after which a line without an end is cut."""


class Tail:
    """Reads what is appended to a file, line by line."""

    def __init__(self, path: Path, *, longest: int | None = None, skip: bool = False) -> None:
        """Follow ``path``, which need not exist yet.

        Args:
            path: of the file.
            longest: a line over so many bytes comes in pieces.
            skip: begin behind what stands there already.
        """
        self._path = path
        self._longest = longest
        self._offset = path.stat().st_size if skip and path.exists() else 0
        self._rest = b""

    def read_lines(self, *, final: bool = False) -> Iterator[bytes]:
        """Yield the lines completed since the last call, at most 1 MiB of them; with ``final`` all, the last as is."""
        while data := self._read_chunk():
            *lines, self._rest = (self._rest + data).split(b"\n")
            yield from lines
            while self._longest is not None and len(self._rest) > self._longest:
                yield self._rest[: self._longest]
                self._rest = self._rest[self._longest :]
            if not final:
                return
        if final and self._rest:
            yield self._rest
            self._rest = b""

    def _read_chunk(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_CHUNK)
        except FileNotFoundError:
            return b""
        self._offset += len(data)
        return data


@dataclass(slots=True)
class Record:
    """What one worker wrote about itself so far."""

    name: str
    start: dict[str, Any] = field(default_factory=dict[str, Any])
    """The ``start`` line; empty until it has come."""
    first: dict[str, Any] = field(default_factory=dict[str, Any])
    """The first ``progress`` line."""
    last: dict[str, Any] = field(default_factory=dict[str, Any])
    """The latest ``progress`` or ``end`` line: counters, gauges and histograms are totals."""
    ended: bool = False
    """Whether the ``end`` line has come: a clean close."""
    progress: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    logs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    samples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    latest: dict[str, float] = field(default_factory=dict[str, float])
    """Last value of each number the user logged."""
    damaged: int = 0
    """Lines that could not be used."""

    def add(self, line: bytes, *, keep: bool = True) -> None:
        """Take one line; with ``keep`` off only the newest of each kind is held."""
        try:
            entry = json.loads(line)
            event = entry["event"]
        except (ValueError, TypeError, KeyError, RecursionError):
            self.damaged += bool(line.strip())
            return
        if not _is_sound(entry):
            self.damaged += 1
            return
        match event:
            case "start":  # a later one in the same file: the worker is back
                self.start, self.ended = entry, False
            case "progress" | "end":
                self._add_progress(entry, keep)
            case "log":
                self.latest |= numbers_of(entry)
                if keep:
                    self.logs.append(entry)
            case "sample" if keep:
                self.samples.append(entry)
            case _:
                pass  # a newer worker may write more

    def _add_progress(self, entry: dict[str, Any], keep: bool) -> None:
        self.first = self.first or entry
        self.last = {"rate": self.last.get("rate", 0.0)} | entry
        self.ended = self.ended or entry["event"] == "end"
        if keep:
            self.progress.append(entry)

    def counter(self, name: str) -> int:
        """Return the latest total of a counter, 0 if it never rose."""
        return int(self.last.get("counters", {}).get(name, 0))

    def gauge(self, name: str) -> float | None:
        """Return the latest value of a gauge."""
        value = self.last.get("gauges", {}).get(name)
        return None if value is None else float(value)

    def is_back(self, since: float) -> bool:
        """Whether another process of the worker began after ``since``, Unix seconds."""
        return float(self.start.get("time", 0.0)) > since

    @property
    def step(self) -> int:
        """The latest step heard of."""
        return int(self.last.get("step", 0))

    @property
    def ages(self) -> list[int]:
        """Bins of the age histogram, edges ``metrics.AGE_EDGES``; empty until there is one."""
        return list(self.last.get("histograms", {}).get("age_steps", []))


def _is_sound(entry: dict[str, Any]) -> bool:
    """Whether everything that is computed with is a number, or numbers by name."""
    plain = (entry.get(name, 0) for name in ("time", "step", "rate", "parameters", "pid"))
    named = [entry.get(name, {}) for name in ("counters", "gauges", "histograms")]
    if not all(isinstance(values, dict) for values in named):
        return False
    counters, gauges, histograms = named
    bins = [*histograms.values()]
    return (
        all(_is_number(value) and math.isfinite(value) for value in plain)
        and all(_is_number(value) and math.isfinite(value) for value in counters.values())
        and all(map(_is_number, gauges.values()))
        and all(map(_is_counts, bins))
    )


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(count, int) for count in cast(list[object], value))


def _is_number(value: object) -> bool:
    """Whether ``value`` is a number that fits into a float."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= sys.float_info.max)


def numbers_of(entry: dict[str, Any]) -> dict[str, float]:
    """Return the user's numbers in a ``log`` line."""
    return {
        name: float(value)
        for name, value in entry.items()
        if name not in {"event", "time", "step"} and _is_number(value)
    }


def read_record(path: Path, name: str) -> Record:
    """Read a whole journal; a missing one gives an empty record."""
    record = Record(name)
    for line in Tail(path).read_lines(final=True):
        record.add(line)
    return record
