"""A run over the hosts of a test: started on the head, watched through its folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagrad_bus.faults.host import scratch
from dagrad_bus.faults.sshhosts import HEAD, SshHosts

PYTHON = sys.executable
DAGRAD = str(Path(PYTHON).with_name("dagrad"))
DIGITS = (PYTHON, "-m", "dagrad_bus.workers.digits")
AGENT, NURSERY = "launch.agent", "nursery.py"


class Run:
    """One ``dagrad run`` on the head of ``cluster``, in a folder that hosts do not share with it."""

    def __init__(self, cluster: SshHosts, base: Path) -> None:
        self.cluster = cluster
        self.base = base
        self.folder = base / "run"
        self.hostfile = base / "hosts"
        self.launcher: subprocess.Popen[bytes] | None = None

    def write_hosts(self, text: str) -> None:
        """Write the host file."""
        self.hostfile.write_text(text)

    def words(self, *options: str, command: tuple[str, ...]) -> list[str]:
        """Return the command line of the launcher."""
        where = ("--hostfile", str(self.hostfile), "--ssh-config", str(self.cluster.ssh_config), "--cwd", "/tmp")
        shown = ("--dir", str(self.folder), "--no-figures", "--progress", "none")
        return [DAGRAD, "run", *where, *shown, *options, "--", *command]

    def start(self, *options: str, command: tuple[str, ...], env: dict[str, str] | None = None) -> None:
        """Start it; output goes to files."""
        with (self.base / "out").open("wb") as out, (self.base / "err").open("wb") as err:
            self.launcher = self.cluster.run(
                *self.words(*options, command=command),
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=self.base, env={**os.environ, **(env or {})},
            )  # fmt: skip

    def wait(self, seconds: float = 90.0) -> int:
        """Wait until the launcher ends, and return its exit code."""
        assert self.launcher is not None
        return self.launcher.wait(seconds)

    @property
    def out(self) -> str:
        """What it printed so far."""
        return (self.base / "out").read_text()

    @property
    def err(self) -> str:
        """Likewise, on stderr."""
        return (self.base / "err").read_text()

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """Return what the launcher saw happen so far."""
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for line in lines if (event := json.loads(line))["event"] == (kind or event["event"])]

    def journal(self, name: str) -> list[dict[str, Any]]:
        """Return a worker's journal so far, as the launcher has it."""
        path = self.folder / "workers" / f"{name}.jsonl"
        whole = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
        return [json.loads(line) for line in whole]

    def step(self, name: str) -> int:
        """Return the last step heard of."""
        return max((int(line.get("step", 0)) for line in self.journal(name)), default=0)

    def workers(self, host: str) -> dict[str, int]:
        """Return the processes of the workers on a host, by name: their ``comm`` is set to it."""
        found: dict[str, int] = {}
        for process in self.cluster[host].processes():
            name = _comm(process.pid)
            if name.startswith(f"{host}."):
                found[name] = process.pid
        return found

    def left(self) -> dict[str, list[str]]:
        """Return what runs on the hosts beside their own sshd, by host; the head included."""
        found: dict[str, list[str]] = {}
        for host in (HEAD, *self.cluster.names):
            ours = [" ".join(one.command) for one in self.cluster[host].processes() if "sshd" not in one.command[0]]
            if ours:
                found[host] = ours
        return found

    def assert_nothing_left(self, seconds: float = 5.0) -> None:
        """Fail if something of the run still runs on any host after ``seconds``."""
        assert wait_until(lambda: not self.left(), seconds), self.left()

    def kill(self, host: str, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal one process."""
        self.cluster[host].kill(pid, number)


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # it has just ended
        return ""


@contextmanager
def make_run(cluster: SshHosts) -> Generator[Run]:
    """Give a run whose files are removed afterwards; what was printed is shown if the test fails."""
    base = scratch("dagrad-run-")
    run = Run(cluster, base)
    try:
        yield run
    except BaseException as error:
        for path in (base / "out", base / "err", run.folder / "events.jsonl"):
            error.add_note(f"--- {path.name}\n{path.read_text()[-3000:] if path.exists() else '(nothing)'}")
        raise
    finally:
        if run.launcher is not None and run.launcher.poll() is None:
            run.launcher.kill()
            run.launcher.wait()
        shutil.rmtree(base, ignore_errors=True)


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait until something holds; False: it did not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
