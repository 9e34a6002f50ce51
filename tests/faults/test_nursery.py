"""The nursery forks what it is told, reports who ended, and takes all of it along when its socket closes."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.faults.nursery import PACKET

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


def report(orders: socket.socket) -> dict[str, Any]:
    assert select.select([orders], [], [], 20)[0]
    found: dict[str, Any] = json.loads(orders.recv(PACKET))
    return found


def launch(orders: socket.socket, log: Path, **config: object) -> tuple[int, socket.socket]:
    line, end = socket.socketpair()
    with end:
        order = {"log": str(log), **config}
        socket.send_fds(orders, [json.dumps(order).encode()], [end.fileno()])
    return int(report(orders)["started"]), line


def test_who_ends_is_reported_and_nobody_is_left(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = [sys.executable, "-m", "dagrad_bus.faults.nursery", str(theirs.fileno())]
    with ours, theirs, subprocess.Popen(words, pass_fds=[theirs.fileno()]) as process:
        theirs.close()

        pid, line = launch(ours, tmp_path / "bad.log")  # there is nothing in its order to be
        with line:
            assert report(ours) == {"exited": pid, "code": 1, "signal": 0}
        assert "settings" in (tmp_path / "bad.log").read_text()
        transport: dict[str, object] = {
            "transport": dict[str, int](),
            "run": "r",
            "name": "a",
            "members": ["a", "b"],
            "directory": str(tmp_path),
        }
        good: dict[str, object] = {"settings": transport, "roster": ["a", "b"], "seed": 1, "pace": 0.05, "cores": [0]}
        pid, line = launch(ours, tmp_path / "good.log", **good)
        other, second = launch(ours, tmp_path / "other.log", **good)
        with line, second:
            assert line.recv(1) == b"{"
            assert os.sched_getaffinity(pid) == {0}
            os.kill(pid, signal.SIGKILL)
            assert report(ours) == {"exited": pid, "code": 0, "signal": 9}
            ours.close()
            assert process.wait(10) == 0
    deadline = time.monotonic() + 5
    while Path(f"/proc/{other}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
