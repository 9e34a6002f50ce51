"""The package is whole under its long names, and cheap to import."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PROJECT["tool"]["setuptools"]["packages"]
FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]


def _packages_on_disk() -> set[str]:
    """Return the long name of every folder that holds an ``__init__.py``."""
    found: set[str] = set()
    for name, folder in FOLDERS.items():
        base = ROOT / folder
        for init in base.rglob("__init__.py"):
            if not any(parent.is_symlink() for parent in init.parents):
                found.add(".".join([name, *init.parent.relative_to(base).parts]))
    return found


def _loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a new interpreter has loaded after ``code``."""
    script = f"import sys\n{code}\nprint('MODULES', *{{name.split('.')[0] for name in sys.modules}})"
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(answer.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize("name", PACKAGES)
def test_every_package_is_imported_by_its_long_name(name: str) -> None:
    assert importlib.import_module(name).__name__ == name


def test_the_list_of_packages_is_complete() -> None:
    assert _packages_on_disk() == set(PACKAGES)


@pytest.mark.parametrize("part", ["topology", "workers", "tools"])
def test_a_part_is_the_same_module_by_link_and_by_mapping(part: str) -> None:
    module = importlib.import_module(f"dagrad_bus.{part}")
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == ROOT / part / "__init__.py"


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "dagrad_bus" / "py.typed").exists()


def test_importing_the_package_loads_neither_torch_nor_zmq() -> None:
    assert not _loaded_by("import dagrad_bus") & {"torch", "zmq"}


def test_the_command_line_shows_its_help_without_torch_and_zmq() -> None:
    call = "from dagrad_bus.tools.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code"
    assert not _loaded_by(call) & {"torch", "zmq"}


def test_every_dependency_is_pinned_for_development() -> None:
    lines = (ROOT / "constraints.txt").read_text().lower().splitlines()
    pinned = {line.partition("==")[0].replace("_", "-") for line in lines if "==" in line}
    project = PROJECT["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(text for extra in extras.values() for text in extra)]
    names = {text.lower().split(">=")[0].split("[")[0] for text in wanted} - {"dagrad-bus"}
    assert names <= pinned, f"not in constraints.txt: {names - pinned}"
