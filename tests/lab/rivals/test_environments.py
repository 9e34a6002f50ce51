from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.rivals import environments
from dagrad_bus.lab.rivals.environments import THIS, Installed, ensure, ensure_own, folder_megabytes, torch_requirement


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record what would be called, and make the folder that venv would make."""
    made: list[list[str]] = []

    def call(command: Sequence[str], trouble: str) -> None:
        made.append(list(command))
        if "venv" in command:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.write_text("")

    monkeypatch.setattr(environments, "_call", call)
    return made


def test_this_python_needs_nothing(tmp_path: Path, calls: list[list[str]]) -> None:
    assert ensure("", [], tmp_path) == THIS == Installed(sys.executable)
    assert not calls


def test_torch_is_the_release_that_runs_here() -> None:
    name, _, release = torch_requirement().partition("==")
    assert name == "torch"
    assert release.count(".") == 2 and "+" not in release


def test_an_environment_is_made_once_and_again_when_something_else_is_wanted(
    tmp_path: Path, calls: list[list[str]]
) -> None:
    first = ensure("peer", ["peer==1"], tmp_path)
    assert [words[2] for words in calls] == ["venv", "pip", "pip"]
    assert calls[2][-2:] == [torch_requirement(), "peer==1"]  # torch again: no other release may replace it
    assert ensure("peer", ["peer==1"], tmp_path) == first
    assert len(calls) == 3
    ensure("peer", ["peer==2"], tmp_path)
    assert len(calls) == 6
    wanted = json.loads((tmp_path / "peer" / "installed.json").read_text())["wanted"]
    assert wanted == {"python": platform.python_version(), "torch": torch_requirement(), "requirements": ["peer==2"]}


def test_an_environment_that_was_left_half_made_is_made_anew(tmp_path: Path, calls: list[list[str]]) -> None:
    (tmp_path / "peer" / "lib").mkdir(parents=True)
    (tmp_path / "peer" / "installed.json").write_text("{")
    ensure("peer", ["peer==1"], tmp_path)
    assert len(calls) == 3
    assert not (tmp_path / "peer" / "lib").exists()


def test_this_package_is_measured_and_run_where_it_is(tmp_path: Path, calls: list[list[str]]) -> None:
    found = ensure_own(tmp_path)
    assert found.python == sys.executable
    assert found.seconds is not None
    assert calls[2][-1].endswith("source")  # a copy: setuptools builds where the sources are


@pytest.mark.slow
def test_a_failure_is_one_line_with_the_last_words() -> None:
    with pytest.raises(UsageError, match=r"^peer will not install: no matching release$"):
        environments._call(["sh", "-c", "echo looking; echo no matching release >&2; exit 1"], "peer will not install")
    with pytest.raises(UsageError, match=r"^peer will not install: exit code 4$"):
        environments._call(["sh", "-c", "exit 4"], "peer will not install")
    with pytest.raises(UsageError, match=r"no environment: .*No such file"):
        environments._call(["no-such-program-here"], "no environment")


@pytest.mark.slow
def test_a_call_that_takes_too_long_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "LIMIT", 0.05)
    with pytest.raises(UsageError, match="still busy"):
        environments._call(["sleep", "5"], "peer will not install")


def test_the_size_of_a_folder_counts_files_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1_000_000)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert 1.0 <= folder_megabytes(tmp_path) < 1.1
