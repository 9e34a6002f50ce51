from __future__ import annotations

import io
import os
import sys
import threading

import pytest
from rich.console import Console
from rich.live import Live

from dagrad_bus.tools import live as live_module
from dagrad_bus.tools.live import LinesWatcher, TableWatcher, watching
from dagrad_bus.workers.launch.journal import Record
from dagrad_bus.workers.launch.outcome import Worker

WORKER = Worker("local.0", Record("local.0", last={"step": 7, "rate": 2.0}), pid=1)


def test_lines_carry_their_worker_and_no_colour_in_a_file() -> None:
    out, notes = io.StringIO(), io.StringIO()
    watcher = LinesWatcher(out, notes, ["local.0"], reports=True)
    watcher.show_line("local.0", "[text]")
    watcher.show_note("note")
    assert (out.getvalue(), notes.getvalue()) == ("local:0| [text]\n", "dagrad: note\n")


def test_who_comes_later_has_a_name_of_the_same_form() -> None:
    out = io.StringIO()
    watcher = LinesWatcher(out, io.StringIO(), ["n1.0"], reports=False)
    for name in ("n1.0", "node2.11", "n1", "late", "a.b.3"):
        watcher.show_line(name, "x")
    assert [line.split("|")[0].rstrip() for line in out.getvalue().splitlines()] == [
        "n1:0", "node2:11", "n1", "late", "a.b:3",
    ]  # fmt: skip


def test_reports_come_when_due_and_not_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_REPORT", 0.0)
    notes = io.StringIO()
    watcher = LinesWatcher(io.StringIO(), notes, ["local.0"], reports=True)
    watcher.show_workers([WORKER], final=False)
    watcher.show_workers([WORKER], final=True)
    assert notes.getvalue().count("local.0 step 7, 2.0 steps/s, loss -") == 1
    quiet = LinesWatcher(io.StringIO(), notes, ["local.0"], reports=False)
    quiet.show_workers([WORKER], final=False)
    assert notes.getvalue().count("\n") == 1


def test_the_table_stays_below_the_lines() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Live(console=console, auto_refresh=False) as live:
        watcher = TableWatcher(live, ["local.0"])
        watcher.show_line("local.0", "\x1b[31mred\x1b[0m [text]")
        watcher.show_workers([WORKER], final=True)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.index("[text]") < text.rindex("running")


@pytest.mark.parametrize(("progress", "terminal", "table"), [
    ("auto", True, True), ("auto", False, False), ("lines", True, False), ("none", True, False), ("table", False, True),
])  # fmt: skip
def test_the_table_needs_a_terminal_or_the_word(progress: live_module.Progress, terminal: bool, table: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    file = console.file
    with watching(progress, console, ["local.0"]) as watcher:
        assert isinstance(watcher, TableWatcher) == table
    assert console.file is file


@pytest.mark.parametrize("progress", ["lines", "table"])
def test_a_reader_that_does_not_read_holds_nothing_up(
    progress: live_module.Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as slow, open(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        console = Console(file=out, force_terminal=True, width=100)
        heard: list[bytes] = []
        later = threading.Thread(target=lambda: heard.append(slow.read()))
        with watching(progress, console, ["local.0"]) as watcher:
            for number in range(300):  # several times what a pipe holds
                watcher.show_line("local.0", f"{number} {'x' * 1000}")
                watcher.show_workers([WORKER], final=False)
            later.start()
        out.close()
        later.join(10)
    assert heard
    assert heard[0].count(b"x" * 90) >= 300
    assert b"299 xxx" in heard[0]
