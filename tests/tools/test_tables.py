from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from dagrad_bus.tools.summary import read_records, summarize
from dagrad_bus.tools.tables import (
    display_name,
    format_loss,
    format_number,
    format_share,
    format_size,
    live_table,
    print_failures,
    print_summary,
    without_commands,
)
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.journal import Record
from dagrad_bus.workers.launch.outcome import Exit, Worker

Journal = Callable[..., list[dict[str, Any]]]
MakeRun = Callable[..., RunFolder]


@pytest.fixture
def console() -> Console:
    """A console that writes to memory."""
    return Console(file=io.StringIO(), width=120)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_summary_shows_each_worker_and_the_run(console: Console, make_run: MakeRun, journal: Journal) -> None:
    folder = make_run(journal(0), journal(1), states=("done", "done"))
    print_summary(console, summarize(folder.read_run(), read_records(folder)))
    text = text_of(console)
    for part in (
        "local.1",
        "0.9100",
        "40 B per worker and step = 0.5 % of synchronous dense",
        "crc 4",
        "mixed",
        "20.0",
    ):
        assert part in text


def test_a_run_that_did_not_mix_is_loud(console: Console, make_run: MakeRun, journal: Journal) -> None:
    folder = make_run(journal(0, mixed=0), journal(1, mixed=0), states=("done", "done"))
    print_summary(console, summarize(folder.read_run(), read_records(folder)))
    assert "THESE WORKERS DID NOT TRAIN TOGETHER" in text_of(console)


def test_failures_show_when_and_the_last_lines(console: Console) -> None:
    failures = [Exit("local.3", 9, None, 11, 12.5), Exit("local.1", 8, 7, None, 14.0)]
    print_failures(console, failures, began=10.0, name="local.3", tail=["[red]not markup", "last"])
    text = text_of(console)
    assert text.index("local.3") < text.index("local.1")
    for part in ("139", "SIGSEGV", "2.5 s", "exit 7", "[red]not markup", "last"):
        assert part in text


def test_the_live_table_takes_workers_that_said_nothing_yet(console: Console) -> None:
    cut = Worker("n1.0", Record("n1.0"), pid=3, cut_off=True)
    again = Worker("n1.1", Record("n1.1"), pid=3, exit=Exit("n1.1", 3, 1, None, 0.0), returns_at=1.0)
    running = Worker("local.1", Record("local.1", last={"step": 1234, "rate": 5.0}), pid=1)
    ended = Worker("local.2", Record("local.2"), pid=2, exit=Exit("local.2", 2, 7, None, 0.0))
    console.print(live_table([Worker("local.0", Record("local.0")), running, ended, cut, again], seconds=3))
    text = text_of(console)
    for part in ("waiting", "1 234", "running", "exit 7", "cut off", "restarting"):
        assert part in text


@pytest.mark.parametrize(
    ("name", "shown"), [("local.0", "local:0"), ("a.b.12", "a.b:12"), ("late", "late"), (".3", ".3"), ("a.b", "a.b")]
)
def test_workers_are_shown_as_host_and_slot(name: str, shown: str) -> None:
    assert display_name(name) == shown


@pytest.mark.parametrize(
    ("size", "text"), [(None, "-"), (0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (4.5e7, "45.0 MB")]
)
def test_sizes_have_units(size: float | None, text: str) -> None:
    assert format_size(size) == text


def test_numbers_and_shares_are_short() -> None:
    assert (format_number(None), format_number(12345.67), format_share(0.00123)) == ("-", "12 345.7", "0.123 %")


def test_logged_numbers_stay_readable_whatever_they_are() -> None:
    shown = [format_loss(value) for value in (None, 0.0, 0.00071, 1.5, 2e-7, 2.8894421e30, float("inf"), float("nan"))]
    assert shown == ["-", "0.0000", "0.0007", "1.5000", "2e-07", "2.89e+30", "inf", "nan"]


def test_names_of_workers_are_whole_on_a_narrow_terminal(make_run: MakeRun, journal: Journal) -> None:
    narrow = Console(file=io.StringIO(), width=100)
    folder = make_run(journal(0), journal(1), states=("done", "stopped"))
    print_summary(narrow, summarize(folder.read_run(), read_records(folder)))
    assert "local.0" in text_of(narrow) and "stopped" in text_of(narrow) and "…" not in text_of(narrow)


def test_training_that_diverged_is_named(console: Console, make_run: MakeRun, journal: Journal) -> None:
    folder = make_run(journal(0, mixed=0), journal(1, mixed=0), states=("done", "done"))
    summary = summarize(folder.read_run(), read_records(folder))
    print_summary(console, replace(summary, dropped={"poisoned": 3, "link_closed": 4}))
    assert "did the training diverge?" in text_of(console)
    assert "poisoned 3" in text_of(console) and "link_closed" not in text_of(console)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \t text é", "plain \t text é"),
        ("\x1b[31mred\x1b[0m \x1b[1;38;5;9mbold\x1b[m", "\x1b[31mred\x1b[0m \x1b[1;38;5;9mbold\x1b[m"),
        ("\x1b]0;title\x07a\x1b]52;c;eA==\x1b\\b", "ab"),
        ("\x1b[2Ja\x1b[?25lb\x1b[1;1Hc\x1b[6n\x1bcd", "abcd"),
        ("a\x07\x08\x9b2Jb\x00", "a2Jb"),
    ],
)
def test_output_of_others_cannot_steer_the_terminal(text: str, shown: str) -> None:
    assert without_commands(text) == shown
