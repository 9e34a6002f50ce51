"""The user's command: what is run, and whether it can be, before anything is started.

===============================  =========  ==========================================================
words                            kind       run as
===============================  =========  ==========================================================
``train.py ARGS``                script     this interpreter, ``-u``
``-m MODULE ARGS``               module     this interpreter, ``-u``
``python [-u] train.py ARGS``    script     likewise; a bare ``python`` means the one that runs dagrad
``python [-u] -m MODULE ARGS``   module     likewise
anything else                    program    executed as it is, found in PATH
===============================  =========  ==========================================================
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Literal

from dagrad_bus.errors import StartError, UsageError

Kind = Literal["module", "script", "program"]


class CommandNotFound(StartError):
    """There is nothing of that name to run."""

    code = 127


class CommandNotExecutable(CommandNotFound):
    """The file is there, but cannot be executed."""

    code = 126


@dataclass(frozen=True, slots=True)
class Command:
    """What every worker runs."""

    kind: Kind
    target: str
    """Module name, path of the script or path of the program."""
    arguments: tuple[str, ...]
    words: tuple[str, ...]
    """The whole command line, first word executable."""

    @property
    def is_python(self) -> bool:
        """Whether a process that is already running Python can become this worker."""
        return self.kind != "program"


def resolve(words: Sequence[str], *, cwd: Path) -> Command:
    """Find out what ``words`` run.

    Raises:
        UsageError: no word at all.
        CommandNotFound: no such module, file or program; ``code`` is the shell's: 127, or 126 if not executable.
    """
    if not words:
        raise UsageError("no command given: dagrad run -n 4 train.py")
    python, rest = _split_interpreter(list(words))
    if python and rest[:1] == ["-m"] and len(rest) > 1:
        _check_module(rest[1], cwd)
        return Command("module", rest[1], tuple(rest[2:]), (sys.executable, "-u", *rest))
    if python and rest and rest[0].endswith(".py"):
        _check_script(rest[0], cwd)
        return Command("script", rest[0], tuple(rest[1:]), (sys.executable, "-u", *rest))
    if python:  # options such as -c or -X: only a real interpreter understands them
        return Command("program", sys.executable, tuple(rest), (sys.executable, "-u", *rest))
    return Command("program", _find_program(words[0], cwd), tuple(words[1:]), tuple(words))


def _split_interpreter(words: list[str]) -> tuple[bool, list[str]]:
    """Return whether this interpreter is meant, and the words after it."""
    if words[0] == "-m" or words[0].endswith(".py"):
        return True, words
    bare = words[0] in {"python", "python3", f"python3.{sys.version_info.minor}"}
    if not bare and not _is_ours(words[0]):
        return False, words
    rest = words[1:]
    while rest[:1] == ["-u"]:
        rest = rest[1:]
    return True, rest


def _is_ours(path: str) -> bool:
    """Whether a path is this interpreter, under any of the names that it has in its folder."""
    own = sys.executable
    same = os.path.realpath(path) == os.path.realpath(own)
    return same and os.path.dirname(os.path.abspath(path)) == os.path.dirname(os.path.abspath(own))


def _check_script(path: str, cwd: Path) -> None:
    if not (cwd / path).is_file():
        raise CommandNotFound(f"{path}: no such file")


def _find_program(word: str, cwd: Path) -> str:
    path = str(cwd / word) if os.sep in word else word
    if (found := shutil.which(path)) is not None:
        return found
    if os.sep in word and Path(path).is_file():
        raise CommandNotExecutable(f"{word}: not executable")
    raise CommandNotFound(f"{word}: command not found")


def _check_module(name: str, cwd: Path) -> None:
    """Look the module up without importing it or its parents: that may take seconds and print."""
    spec: ModuleSpec | None = None
    parents: list[str] | None = None
    for part in _prefixes(name):
        spec = _find_spec(part, parents, cwd)
        if spec is None:
            raise CommandNotFound(f"No module named {part!r}" + (f" (for -m {name})" if part != name else ""))
        parents = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        if parents is None and part != name:
            raise CommandNotFound(f"No module named {name!r}: {part!r} is not a package")
    if parents is not None and _find_spec(f"{name}.__main__", parents, cwd) is None:
        raise CommandNotFound(f"No module named '{name}.__main__': {name!r} is a package without a main program")


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    if not all(parts):
        raise CommandNotFound(f"{name!r} is not the name of a module")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _find_spec(name: str, parents: list[str] | None, cwd: Path) -> ModuleSpec | None:
    if parents is None:
        found = PathFinder.find_spec(name, [str(cwd), *sys.path])
        return found or importlib.util.find_spec(name)
    for finder in sys.meta_path:
        if (found := finder.find_spec(name, parents)) is not None:
            return found
    return None
