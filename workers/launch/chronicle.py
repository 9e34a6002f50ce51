"""``events.jsonl`` of a run folder: what the launcher saw happen to workers and hosts, one JSON object a line."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.outcome import Exit

_TAIL = 64 << 10
"""Bytes of a log in which the last traceback is looked for."""
_MARK = b"Traceback (most recent call last):"


class Chronicle:
    """Appends events; a full disk costs the record, not the run."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._awaited: dict[str, int] = {}
        """Attempts that failed and whose traceback has not come."""
        self._begins: dict[Path, int] = {}
        """Size of a worker's files when a traceback was last looked for."""
        self._file = (folder.path / "events.jsonl").open("a", encoding="utf-8")

    def add(self, event: str, **facts: object) -> None:
        """Write one event with the time, Unix seconds."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **facts}, separators=(",", ":"))
        with suppress(OSError):
            self._file.write(line + "\n")
            self._file.flush()

    def ended(self, exit_: Exit, *, by: str, wait: float | None) -> None:
        """Write how a worker's process ended; of one that failed also its last traceback.

        That of another host may still be on its way: then it follows as an event of its own, ``traceback``.
        """
        name = exit_.name
        facts: dict[str, object] = {"name": name, "pid": exit_.pid, "attempt": exit_.attempt, "how": exit_.text}
        facts |= {"status": exit_.status, "by": by, "restart_in": wait}
        if exit_.status and by == "itself":
            if traceback := self._take_traceback(name):
                facts["traceback"] = traceback
            else:
                self._awaited[name] = exit_.attempt
        self.add("exited", **facts)

    def began(self, name: str, pid: int, attempt: int) -> None:
        """Write that a worker's process runs."""
        self._settle(name)
        self.add("started", name=name, pid=pid, attempt=attempt)

    def _settle(self, name: str) -> None:
        """Write the traceback for which there was no waiting; by now all that the process has printed is here."""
        attempt = self._awaited.pop(name, None)
        if attempt is not None and (traceback := self._take_traceback(name)):
            self.add("traceback", name=name, attempt=attempt, traceback=traceback)

    def _take_traceback(self, name: str) -> str:
        """Return the last traceback that a worker has printed since the last call."""
        found = ""
        for path in (self._folder.log(name), self._folder.errors(name)):
            with suppress(OSError), path.open("rb") as file:
                size = path.stat().st_size
                file.seek(max(self._begins.get(path, 0), size - _TAIL))
                tail = file.read()
                self._begins[path] = size
                if (at := tail.rfind(_MARK)) >= 0:
                    found = tail[at:].decode(errors="replace").rstrip()
        return found

    def close(self) -> None:
        """Write what has come in the meantime, and close the file."""
        for name in list(self._awaited):
            self._settle(name)
        with suppress(OSError):
            self._file.close()
