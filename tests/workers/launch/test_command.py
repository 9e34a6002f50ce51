from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch.command import CommandNotFound, resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a script, a module and two packages, one of them without a main program."""
    (tmp_path / "train.py").write_text("raise AssertionError('imported')")
    for package in ("whole", "parts"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "whole" / "__main__.py").write_text("")
    (tmp_path / "parts" / "one.py").write_text("")
    (tmp_path / "tool.sh").write_text("#!/bin/sh\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "kind", "target", "arguments"),
    [
        ("train.py --lr 0.1 -n 3", "script", "train.py", ("--lr", "0.1", "-n", "3")),
        ("python train.py x", "script", "train.py", ("x",)),
        ("python -u train.py -u", "script", "train.py", ("-u",)),
        ("-m parts.one -m x", "module", "parts.one", ("-m", "x")),
        ("python3 -u -m whole", "module", "whole", ()),
        (f"{sys.executable} -m whole", "module", "whole", ()),
        ("python -c pass", "program", sys.executable, ("-c", "pass")),
        ("sh -c true", "program", "/bin/sh", ("-c", "true")),
    ],
)
def test_a_command_is_what_its_words_say(
    words: str, kind: str, target: str, arguments: tuple[str, ...], folder: Path
) -> None:
    command = resolve(words.split(), cwd=folder)
    assert (command.kind, command.arguments) == (kind, arguments)
    assert command.target == target or command.target.endswith(target)
    assert command.words[0] == (sys.executable if kind != "program" or "python" in words else "sh")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("missing.py", 127, "missing.py: no such file"),
        ("-m nosuchmodule", 127, "No module named 'nosuchmodule'"),
        ("-m whole.missing", 127, "No module named 'whole.missing'"),
        ("-m parts", 127, "without a main program"),
        ("-m parts.one.more", 127, "is not a package"),
        ("-m a..b", 127, "not the name of a module"),
        ("no-such-program-anywhere", 127, "command not found"),
        ("./tool.sh", 126, "not executable"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(words: str, code: int, says: str, folder: Path) -> None:
    with pytest.raises(CommandNotFound, match=says) as caught:
        resolve(words.split(), cwd=folder)
    assert caught.value.code == code


def test_looking_a_module_up_does_not_import_its_package(folder: Path) -> None:
    resolve(["-m", "parts.one"], cwd=folder)  # parts/__init__ would raise
    assert "parts" not in sys.modules


def test_an_installed_module_is_found_from_any_folder(tmp_path: Path) -> None:
    assert resolve(["-m", "http.server"], cwd=tmp_path).target == "http.server"


def test_no_word_at_all_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no command given"):
        resolve((), cwd=tmp_path)
