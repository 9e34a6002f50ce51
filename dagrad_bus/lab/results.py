"""Finished cells of an experiment in a file, so that one that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagrad_bus.errors import UsageError


class Results:
    """Finished cells of an experiment, one JSON object a line: an experiment that was stopped goes on where it was.

    Args:
        file: is made, with its folder, by the first :meth:`put`. Lines are appended. A last line that a stopped
            process left unfinished is ignored, and gives way to the next one. One process writes at a time.

    Raises:
        UsageError: a damaged line before the last, or a file that cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._found: dict[str, dict[str, Any]] = {}
        self._torn = 0
        """Bytes of an unfinished last line."""
        if file.exists():
            self._load()

    def __len__(self) -> int:
        """Return how many cells are known."""
        return len(self._found)

    def _load(self) -> None:
        try:
            text = self.file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.file}: cannot be read: {error}") from error
        *lines, last = text.split("\n")
        self._torn = len(last.encode())
        for number, line in enumerate(lines, 1):
            try:
                cell = json.loads(line)
                self._found[_name(cell["key"])] = dict(cell["result"])
            except (ValueError, TypeError, KeyError):
                raise UsageError(f"{self.file}:{number}: damaged: remove the line, or the file") from None

    def get(self, key: Mapping[str, object]) -> dict[str, Any] | None:
        """Return the result of a cell, the latest if there are several; None if it is still to be done.

        Args:
            key: what tells the cell from all others, in values that JSON has; the order of its names is of no weight.
        """
        return self._found.get(_name(key))

    def put(self, key: Mapping[str, object], result: Mapping[str, object]) -> None:
        """Add a finished cell: appended, and on its way to the disk when this returns."""
        line = json.dumps({"key": key, "result": result})  # raises before anything is written
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as file:
            if self._torn:
                file.truncate(file.tell() - self._torn)
            file.write(line.encode() + b"\n")
        self._torn = 0
        self._found[_name(key)] = dict(json.loads(line)["result"])


def _name(key: Mapping[str, object]) -> str:
    return json.dumps(key, sort_keys=True)
