"""A run folder that all workers make together: under engines without a launcher of ours the first one there founds it.

Every file is written whole under a temporary name and then linked to its own, which succeeds for exactly one process
however many try, on network file systems too. All others read what that one wrote.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch.folder import RUN_SCHEMA, RunFolder, write_json


def found_run(path: Path, *, run: str, names: Sequence[str], facts: Mapping[str, object], key: str = "") -> RunFolder:
    """Make the folder of a run, or enter the one that another worker of the run has made.

    Args:
        path: seen by all workers of the run.
        run: its id.
        names: of all workers launched.
        facts: more for ``run.json``, which the first worker writes.
        key: the run's secret; empty: the first worker draws one.

    Raises:
        UsageError: the folder holds another run, or cannot be used.
    """
    folder = RunFolder(path.absolute())
    try:
        for name in ("peers", "logs", "workers"):
            (folder.path / name).mkdir(parents=True, exist_ok=True)
        publish_once(folder.key, f"{key or secrets.token_hex(32)}\n", mode=0o600)
        publish_once(folder.roster, "".join(f"{name}\n" for name in names))
        _publish_run(folder, {"schema": RUN_SCHEMA, "run": run, "workers": list(names), **facts})
        held = folder.key.read_text().strip()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}: needs a folder that all workers see and may write") from None
    if not held or (key and held != key):
        raise UsageError(f"{folder.key} is empty, or another key than the one given: give another --dir")
    known = folder.read_run()["run"]
    if known != run:
        raise UsageError(f"{path} holds run {known!r}, and this is {run!r}: another --dir, or --run to go on with it")
    return folder


def _publish_run(folder: RunFolder, run: Mapping[str, object]) -> None:
    if not folder.run_file.exists():
        temporary = _beside(folder.run_file)
        write_json(temporary, run)
        _link(temporary, folder.run_file)


def publish_once(path: Path, text: str, *, mode: int = 0o644) -> bool:
    """Write a file that nobody has written yet, whole; False: it is there already, and stays as it is.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists():
        return False
    temporary = _beside(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return _link(temporary, path)


def _beside(path: Path) -> Path:
    """Return a name that no other process uses, on whatever host."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def _link(temporary: Path, path: Path) -> bool:
    """Give the finished file its name, unless the name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EMLINK}:
            raise
        raise OSError(error.errno, "no hard links here, by which one worker is first", str(path)) from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return True
