from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dagrad_bus.workers.launch.folder import RunFolder, create
from dagrad_bus.workers.launch.outcome import Worker
from dagrad_bus.workers.launch.screen import Screen

Make = Callable[..., Screen]


class Notebook:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self.workers: dict[str, tuple[int, bool, str]] = {}
        self.final = False

    def show_line(self, name: str, text: str) -> None:
        self.lines.append((name, text))

    def show_note(self, text: str) -> None:
        self.notes.append(text)

    def show_workers(self, workers: Sequence[Worker], *, final: bool) -> None:
        self.workers = {one.name: (one.record.step, one.joined, one.state) for one in workers}
        self.final = final


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create(tmp_path / "run", run="r", names=["a.0", "a.1"], facts={})


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def make(folder: RunFolder, notebook: Notebook) -> Make:
    def make(*, split: bool = False, returning: bool = False) -> Screen:
        screen = Screen(folder, notebook, split=split, returning=returning)
        for name in ("a.0", "a.1"):
            screen.add(name)
        return screen

    return make


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def entry(**values: object) -> bytes:
    return json.dumps(values).encode() + b"\n"


def test_whole_lines_are_shown_and_at_the_end_the_rest(make: Make, folder: RunFolder, notebook: Notebook) -> None:
    screen = make()
    append(folder.log("a.1"), b"one\r\ntwo\n10 %\r50 %\r100 %\nta")
    screen.look(final=False)
    assert notebook.lines == [("a.1", "one"), ("a.1", "two"), ("a.1", "100 %")] and not notebook.final
    append(folder.log("a.1"), b"il \xff")
    screen.look(final=True)
    assert notebook.lines[3:] == [("a.1", "tail \ufffd")] and notebook.final


@pytest.mark.parametrize("split", [False, True])
def test_stderr_has_a_file_of_its_own_where_asked_for(
    make: Make, folder: RunFolder, notebook: Notebook, split: bool
) -> None:
    screen = make(split=split)
    append(folder.log("a.0"), b"out\n")
    append(folder.errors("a.0"), b"err\n")
    screen.look(final=False)
    assert notebook.lines == [("a.0", "out"), ("a.0", "err")][: 1 + split]


def test_journals_are_followed(make: Make, folder: RunFolder, notebook: Notebook) -> None:
    screen = make()
    append(folder.journal("a.0"), entry(event="progress", time=1.0, step=41) + b'{"event": "pro')
    screen.look(final=False)
    assert notebook.workers == {"a.0": (41, False, "waiting"), "a.1": (0, False, "waiting")}
    assert screen.workers["a.0"].record.progress == []  # only the newest is held


def test_workers_that_join_by_themselves_are_shown(make: Make, folder: RunFolder, notebook: Notebook) -> None:
    screen = make()
    append(folder.journal("late"), entry(event="start", time=1.0) + entry(event="progress", time=2.0, step=5))
    screen.look(final=False)
    screen.look(final=False)
    assert notebook.workers["late"] == (5, True, "joined")
    assert notebook.notes == ["late joined the run"] and "late" not in screen.workers


def test_a_guest_that_turns_out_to_be_launched_is_one_of_us(make: Make, folder: RunFolder, notebook: Notebook) -> None:
    screen = make()
    append(folder.journal("b.0"), entry(event="progress", time=2.0, step=5))
    screen.look(final=False)
    screen.add("b.0")
    screen.look(final=False)
    assert notebook.workers["b.0"] == (5, False, "waiting")


def test_a_launcher_that_returns_shows_what_is_new(make: Make, folder: RunFolder, notebook: Notebook) -> None:
    append(folder.log("a.0"), b"old\n")
    append(folder.journal("a.0"), entry(event="progress", time=2.0, step=5))
    screen = make(returning=True)
    append(folder.log("a.0"), b"new\n")
    screen.look(final=True)
    assert notebook.lines == [("a.0", "new")] and notebook.workers["a.0"][0] == 5
