"""An environment of its own for each system: this Python, this torch, and the system's pinned release.

Made once; a stamp file says what is in it and what that took. What pip is told by its own configuration and environment
variables holds here too, so an index of CPU builds of torch is best named there.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from dagrad_bus.errors import UsageError

DEFAULT_FOLDER = Path("~/.cache/dagrad-bus/peers")
STAMP = "installed.json"
LIMIT = 900.0
"""Seconds for one call of pip."""


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment, ready."""

    python: str
    """Path of its interpreter."""
    seconds: float | None = None
    """What pip took for the system beside torch; None for this Python."""
    megabytes: float | None = None
    """What that added on the disk."""


THIS = Installed(sys.executable)


def torch_requirement() -> str:
    """Return the requirement for the release of torch that this Python has."""
    return f"torch=={version('torch').partition('+')[0]}"


def ensure(name: str, requirements: Sequence[str], folder: Path, words: Sequence[str] = ()) -> Installed:
    """Return the environment ``name`` below ``folder``; make it if it is not there, or holds something else.

    Args:
        name: of its folder; empty: this Python.
        requirements: what is installed beside torch, in words for pip; an environment that has it is kept.
        folder: where environments are kept.
        words: what pip is told instead of ``requirements``.

    Raises:
        UsageError: pip is missing or failed; says the last thing that it said.
    """
    if not name:
        return THIS
    home = folder.expanduser() / name
    wanted = {"python": platform.python_version(), "torch": torch_requirement(), "requirements": list(requirements)}
    if (kept := _read_stamp(home, wanted)) is not None:
        return kept
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    _call([sys.executable, "-m", "venv", str(home)], f"{name}: no environment")
    python = str(home / "bin" / "python")
    _pip(python, [torch_requirement(), "numpy"], name)
    before, began = folder_megabytes(home), time.monotonic()
    _pip(python, [torch_requirement(), *(words or requirements)], name)
    found = Installed(python, time.monotonic() - began, folder_megabytes(home) - before)
    (home / STAMP).write_text(json.dumps({"wanted": wanted, "found": asdict(found)}))
    return found


def ensure_own(folder: Path) -> Installed:
    """Return this Python with what installing this package beside torch took; None there where it has no checkout.

    Raises:
        UsageError: as :func:`ensure`.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / "pyproject.toml").exists():
        return THIS
    with tempfile.TemporaryDirectory() as scratch:  # setuptools builds where the sources are: not in the checkout
        source = Path(scratch) / "source"
        hidden = shutil.ignore_patterns(".*", "runs", "tests", "*.egg-info", "build", "__pycache__")
        shutil.copytree(root, source, symlinks=True, ignore=hidden)
        found = ensure("dagrad-bus", [version("dagrad-bus")], folder, [str(source)])
    return replace(found, python=sys.executable)


def _read_stamp(home: Path, wanted: object) -> Installed | None:
    try:
        stamp = json.loads((home / STAMP).read_text())
        found = Installed(**stamp["found"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if stamp.get("wanted") == wanted and Path(found.python).exists() else None


def _pip(python: str, words: Sequence[str], name: str) -> None:
    quiet = ["--disable-pip-version-check", "--no-input", "--quiet"]
    _call([python, "-m", "pip", "install", *quiet, *words], f"{name} will not install")


def _call(command: Sequence[str], trouble: str) -> None:
    """Run a command.

    Raises:
        UsageError: it failed, or took too long: ``trouble`` and its last words.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise UsageError(f"{trouble}: still busy after {LIMIT:g} s") from None
    except OSError as error:
        raise UsageError(f"{trouble}: {error}") from error
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise UsageError(f"{trouble}: {said[-1].strip() if said else f'exit code {done.returncode}'}")


def folder_megabytes(folder: Path) -> float:
    """Return what the files below a folder occupy, in MB."""
    return sum(file.lstat().st_blocks for file in folder.rglob("*") if not file.is_symlink()) * 512 / 1e6
