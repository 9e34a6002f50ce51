"""What the terminal shows while workers train: their lines, and below them a table or, in a log, short reports."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Literal, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dagrad_bus.tools.spool import Spool
from dagrad_bus.tools.tables import COLOURS, display_name, live_cells, live_table, without_commands
from dagrad_bus.workers.launch.outcome import Watcher, Worker

Progress = Literal["auto", "table", "lines", "none"]
_REFRESH = 0.25
"""Seconds between two drawings of the table."""
_REPORT = 5.0
"""Seconds between two reports where there is no table."""
_REPORT_MANY = 15.0
"""The same from 9 workers on."""


class LinesWatcher:
    """Prints whole lines; every few seconds a line a worker about its progress."""

    def __init__(self, out: TextIO, notes: TextIO, names: Sequence[str], *, reports: bool) -> None:
        """Print workers' lines to ``out`` and the launcher's own to ``notes``, in colour on a terminal."""
        self._out = out
        self._notes = notes
        self._reports = reports
        self._interval = _REPORT if len(names) <= 8 else _REPORT_MANY
        self._due = time.monotonic() + self._interval
        self._prefixes: dict[str, str] = {}
        for name in names:
            self._prefix(name)

    def _prefix(self, name: str) -> str:
        """Return what stands before each line of ``name``; who comes later gets the next colour."""
        if name not in self._prefixes:
            shown = f"{display_name(name)}|"
            if self._out.isatty() and "NO_COLOR" not in os.environ:
                shown = f"\x1b[{31 + (len(self._prefixes) + 1) % 6}m{shown}\x1b[0m"
            self._prefixes[name] = f"{shown} "
        return self._prefixes[name]

    def show_line(self, name: str, text: str) -> None:
        """Print one line of a worker."""
        self._out.write(f"{self._prefix(name)}{without_commands(text)}\n")

    def show_note(self, text: str) -> None:
        """Print one line of the launcher."""
        self._notes.write(f"dagrad: {text}\n")

    def show_workers(self, workers: Sequence[Worker], *, final: bool) -> None:
        """Report when it is time."""
        if not self._reports or final or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._interval
        for worker in workers:
            if worker.record.last and worker.exit is None:
                step, rate, loss, accuracy, size, age, peers = live_cells(worker.record)
                self.show_note(
                    f"{worker.name} step {step}, {rate} steps/s, loss {loss}, accuracy {accuracy}, "
                    f"{size}/step, age {age}, {peers} peers"
                )


class TableWatcher:
    """Prints whole lines above a table that is drawn anew several times a second."""

    def __init__(self, live: Live, names: Sequence[str]) -> None:
        self._live = live
        self._styles = {name: COLOURS[slot % len(COLOURS)] for slot, name in enumerate(names)}
        self._began = time.monotonic()
        self._due = 0.0
        self._pending: list[Text] = []

    def show_line(self, name: str, text: str) -> None:
        """Print one line of a worker above the table."""
        style = self._styles.setdefault(name, COLOURS[len(self._styles) % len(COLOURS)])
        self._pending.append(Text.assemble((f"{display_name(name)}| ", style), Text.from_ansi(without_commands(text))))

    def show_note(self, text: str) -> None:
        """Print one line of the launcher above the table."""
        self._pending.append(Text(f"dagrad: {text}", style="bold"))

    def show_workers(self, workers: Sequence[Worker], *, final: bool) -> None:
        """Print the lines that came since the last call; draw the table if it is time."""
        self.flush()
        now = time.monotonic()
        if final or now >= self._due:
            self._due = now + _REFRESH
            self._live.update(live_table(workers, seconds=now - self._began), refresh=True)

    def flush(self) -> None:
        """Print what waits, all at once: each print draws the table anew."""
        if self._pending:
            self._live.console.print(Text("\n").join(self._pending), soft_wrap=True)
            self._pending.clear()


@contextmanager
def watching(progress: Progress, console: Console, names: Sequence[str]) -> Generator[Watcher]:
    """Give the watcher that fits the terminal. It never waits for one; leaving the block does, for what is left.

    Args:
        progress: ``auto`` takes the table on a terminal and short reports elsewhere.
        console: where workers' lines and the table go.
        names: of the workers.
    """
    with Spool() as spool:
        if progress == "table" or (progress == "auto" and console.is_terminal):
            former, console.file = console.file, spool.stream(console.file)
            try:
                with Live(console=console, auto_refresh=False, transient=True) as live:
                    watcher = TableWatcher(live, names)
                    try:
                        yield watcher
                    finally:
                        watcher.flush()
            finally:
                console.file = former
        else:
            out = spool.stream(sys.stderr if console.stderr else sys.stdout)
            yield LinesWatcher(out, spool.stream(sys.stderr), names, reports=progress != "none")
