"""How a run is named on a command line, and what is said of one that is over."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from dagrad_bus.errors import NobodyAnswers, UsageError
from dagrad_bus.tools.visiting import (
    RUNS,
    Shown,
    Target,
    explain_end,
    find_folder,
    find_target,
    format_span,
    newest_run,
    show,
    split_words,
    visit,
)
from dagrad_bus.workers.launch.folder import RunFolder, create


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGRAD_RUN_DIR", raising=False)
    return tmp_path


def make(name: str, *, age: float) -> RunFolder:
    folder = create(RUNS / name, run=f"id-{name}", names=["local.0"], facts={"settings": {}})
    when = 1_800_000_000 - age
    os.utime(folder.key, (when, when))
    return folder


def test_the_newest_run_is_meant_where_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert newest_run(RUNS) is None
    with pytest.raises(UsageError, match="which run"):
        find_folder(None)
    make("a", age=5)
    make("b", age=50)
    (RUNS / "junk").mkdir()
    found = find_target([], (), None, None)
    assert found.approach is not None and found.approach.run == "id-a"
    assert capsys.readouterr().err == "dagrad: run folder runs/a\n"


def test_a_worker_means_its_own_run(monkeypatch: pytest.MonkeyPatch) -> None:
    make("a", age=5)
    monkeypatch.setenv("DAGRAD_RUN_DIR", str(make("b", age=50).path))
    assert find_folder(None).path.name == "b"


def test_the_first_word_is_a_folder_or_a_name() -> None:
    make("a", age=5)
    assert split_words(["runs/a", "local.0"]) == (Path("runs/a"), ("local.0",))
    assert split_words(["local.0", "local.1"]) == (None, ("local.0", "local.1"))
    assert split_words(["."]) == (Path(), ())
    assert split_words([]) == (None, ())
    assert split_words(["runs"])[0] == Path("runs"), "a folder that is there is one"
    with pytest.raises(UsageError, match="runs is not a run folder"):
        find_target(["runs"], (), None, None)


def test_seeds_need_run_and_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"secret\n")
    found = find_target(["local.0"], ["node1:7"], "r", Path("key"))
    assert found.folder is None and found.approach is not None and found.names == ("local.0",)
    assert (found.approach.run, found.approach.key) == ("r", b"secret")
    with pytest.raises(UsageError, match="--run ID and --key-file"):
        find_target([], ["node1:7"], "r", None)
    with pytest.raises(UsageError, match="none: No such file"):
        find_target([], ["node1:7"], "r", Path("none"))


def test_seeds_may_add_to_a_folder() -> None:
    make("a", age=5)
    found = find_target(["runs/a"], ["node1:7"], None, None)
    assert found.approach is not None and found.approach.run == "id-a"
    assert [door.inbox for door in found.approach.doors()] == ["tcp://node1:7"]


def test_of_a_run_that_is_over_it_is_said_when_it_ended() -> None:
    folder = make("a", age=5)
    error = NobodyAnswers("x: nobody")
    assert str(explain_end(folder, error, 0.0)) == "x: nobody; dagrad report runs/a"
    (folder.path / "logs").mkdir(exist_ok=True)
    (folder.path / "logs" / "local.0.log").touch()
    assert str(explain_end(folder, error, 0.0)) == "x: nobody; its output: dagrad logs runs/a"
    folder.update_run(ended=1000.0)
    said = explain_end(folder, error, 1240.0)
    assert str(said) == "the run in runs/a ended 4 min ago: dagrad report runs/a"
    assert said.code == 3
    assert explain_end(None, error, 0.0) is error


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0 ms"), (0.00031, "0.31 ms"), (0.0042, "4.2 ms"), (0.24, "240 ms"), (3.14, "3.1 s"),
     (240.0, "4 min"), (9000.0, "2.5 h")],
)  # fmt: skip
def test_a_span_has_its_own_unit(seconds: float | None, text: str) -> None:
    assert format_span(seconds) == text


def test_one_look_is_one_object_and_many_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    folder = make("a", age=5)
    target = Target(folder, None)
    looks: list[int] = []

    async def look() -> Shown:
        looks.append(len(looks))
        if len(looks) == 3:
            folder.update_run(ended=1.0)
        return Shown(
            {"look": looks[-1]}, lambda: Table(f"look {looks[-1]}", box=None), lambda: [Text("one"), Text("two")], 1
        )

    def shown(every: float | None, as_json: bool) -> Awaitable[int]:
        return show(target, look, every=every, as_json=as_json)

    assert visit(target, lambda: shown(None, True)) == 1
    assert json.loads(capsys.readouterr().out) == {"look": 0}
    assert visit(target, lambda: shown(0.01, True)) == 1, "the run's end ends it"
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"look": 1}, {"look": 2}]
    assert visit(target, lambda: shown(None, False)) == 1
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == ["look 3", "one", "two"]


def test_an_interrupted_visit_is_no_failure() -> None:
    async def stop() -> int:
        raise KeyboardInterrupt

    assert visit(Target(None, None), stop) == 0
