"""The run folder: everything one run leaves behind, and the only thing its parts share.

::

    DIR/run.json               what was started, and at the end how each worker ended
    DIR/roster                 names of the workers, one a line
    DIR/key                    the run's secret (0600)
    DIR/peers/NAME.json        a worker's addresses, by the worker
    DIR/logs/NAME.log          its stdout and stderr
    DIR/events.jsonl           starts, exits and restarts, as the launcher saw them
    DIR/workers/NAME.jsonl     its journal, by the worker
    DIR/summary.json, DIR/figures/*.png
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dagrad_bus.errors import UsageError

RUN_SCHEMA = "dagrad.run/1"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths below one run folder."""

    path: Path

    @property
    def run_file(self) -> Path:
        """What was started."""
        return self.path / "run.json"

    @property
    def roster(self) -> Path:
        """Names of the workers."""
        return self.path / "roster"

    @property
    def key(self) -> Path:
        """The run's secret."""
        return self.path / "key"

    @property
    def summary(self) -> Path:
        """The numbers of the run."""
        return self.path / "summary.json"

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.path / "figures"

    def log(self, name: str) -> Path:
        """Return the file that takes the output of worker ``name``."""
        return self.path / "logs" / f"{name}.log"

    def errors(self, name: str) -> Path:
        """Return the file that takes its stderr where that is kept apart."""
        return self.path / "logs" / f"{name}.err"

    def journal(self, name: str) -> Path:
        """Return the file in which worker ``name`` writes its numbers."""
        return self.path / "workers" / f"{name}.jsonl"

    def keep_logs_in(self, directory: Path, names: Sequence[str]) -> None:
        """Show the output of workers as ``directory/NAME/{stdout,stderr}.log`` too: the same files under two names.

        Raises:
            UsageError: the folder cannot be written, or holds such files already.
        """
        try:
            for name in names:
                (directory / name).mkdir(parents=True, exist_ok=True)
                for ours, theirs in ((self.log(name), "stdout.log"), (self.errors(name), "stderr.log")):
                    ours.touch()
                    _link(ours, directory / name / theirs)
        except OSError as error:
            raise UsageError(f"{error.filename2 or directory}: {error.strerror}") from None

    def read_run(self) -> dict[str, Any]:
        """Return ``run.json``.

        Raises:
            UsageError: this is no run folder.
        """
        try:
            run = json.loads(self.run_file.read_text())
        except OSError as error:
            raise UsageError(f"{self.path} is not a run folder: {error.strerror}: run.json") from None
        except ValueError as error:
            raise UsageError(f"{self.run_file} is damaged: {error}") from None
        if not isinstance(run, dict) or run.get("schema") != RUN_SCHEMA:
            raise UsageError(f"{self.run_file} is of another kind: needs schema {RUN_SCHEMA!r}")
        return cast(dict[str, Any], run)

    def update_run(self, **values: object) -> None:
        """Add or replace top-level values of ``run.json``."""
        write_json(self.run_file, self.read_run() | values)


def default_path(run: str, *, now: float) -> Path:
    """Return ``runs/<time>-<start of the id>``; folders sort by the time of their start."""
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{run[:6]}"


def create(path: Path, *, run: str, names: Sequence[str], facts: Mapping[str, object]) -> RunFolder:
    """Make the folder of a new run, with its roster and a fresh key.

    Raises:
        UsageError: the folder holds a run already, or cannot be written.
    """
    folder = RunFolder(path.absolute())
    try:
        for name in ("peers", "logs", "workers"):
            (folder.path / name).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} holds a run already: give another --dir") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    with open(descriptor, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
    folder.roster.write_text("".join(f"{name}\n" for name in names))
    write_json(
        folder.run_file, {"schema": RUN_SCHEMA, "run": run, "workers": list(names), "launched": list(names), **facts}
    )
    return folder


def _link(ours: Path, theirs: Path) -> None:
    try:
        theirs.hardlink_to(ours)
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise
        theirs.symlink_to(ours.absolute())  # another file system, or one without hard links


def mark_process(pid: int) -> str:
    """Return what tells a process from later ones of the same number (Linux); empty if there is none, or it has ended.

    It is the kernel's boot id with the ticks from the boot to the start of the process (proc(5), ``starttime``).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    state, started = fields[0], fields[19]
    return "" if state in {"Z", "X"} else f"{boot}/{started}"


def write_json(path: Path, value: object) -> None:
    """Write ``value`` under a temporary name and rename: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    temporary.replace(path)
