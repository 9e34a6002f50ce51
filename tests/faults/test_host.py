"""A host keeps to itself, and all that runs in it is found and ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.faults.host import NAMES, Process, VirtualHost, scratch
from dagrad_bus.faults.namespaces import Hosts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
def host(hosts: Callable[[int], Hosts]) -> Generator[VirtualHost]:
    net, folder = hosts(1), scratch("dagrad-test-")
    with VirtualHost(net.name(0), "alpha", folder / "host", {"alpha": net.address(0), "beta": "10.0.0.9"}) as made:
        yield made
    shutil.rmtree(folder)
    assert not (NAMES / made.namespace).exists()


def await_command(host: VirtualHost, *words: str) -> Process:
    deadline = time.monotonic() + 10
    while True:
        for process in host.processes():
            if process.command == words:
                return process
        assert time.monotonic() < deadline, host.processes()
        time.sleep(0.01)


def test_it_has_its_own_name_hosts_and_private_folders(host: VirtualHost) -> None:
    done = host.call(
        "sh", "-c", "hostname; cat /etc/hosts; touch /tmp/mine /dev/shm/mine; ls /tmp /dev/shm", seconds=10
    )
    assert done.code == 0 and done.out.startswith("alpha\n127.0.0.1 localhost\n"), done.text
    assert "10.0.0.9 beta\n" in done.out and done.out.count("mine\n") == 2
    assert [path.name for path in host.tmp.iterdir() if path.is_file()] == ["mine"] and os.uname().nodename != "alpha"


def test_the_code_and_the_environment_are_there(host: VirtualHost) -> None:
    done = host.call(sys.executable, "-c", "import dagrad_bus; print(dagrad_bus.__file__)", seconds=20)
    assert done.code == 0 and Path(done.out.strip()).is_file(), done.text


def test_a_call_returns_code_output_and_errors(host: VirtualHost) -> None:
    done = host.call("sh", "-c", "echo out; echo err >&2; kill -9 $$", seconds=10)
    assert (done.code, done.out, done.err) == (-signal.SIGKILL, "out\n", "err\n")


def test_a_call_that_takes_too_long_is_ended_with_all_its_children_only(host: VirtualHost) -> None:
    before = host.start("sleep", "71")
    await_command(host, "sleep", "71")
    done = host.call("sh", "-c", "setsid sleep 72 & echo said; sleep 73", seconds=0.5)
    assert done.code is None and done.out == "said\n" and done.seconds < 10
    assert [process.pid for process in host.processes()] == [before.pid]


def test_a_process_is_killed_by_id_if_it_is_here(host: VirtualHost) -> None:
    child = host.start("sleep", "74")
    assert await_command(host, "sleep", "74").pid == child.pid
    assert host.find("sleep", "74") and not host.find("sleep", "75")
    host.kill(child.pid, signal.SIGTERM)
    assert child.wait(5) == -signal.SIGTERM
    with pytest.raises(UsageError, match=f"no process {os.getpid()} in alpha"):
        host.kill(os.getpid(), signal.SIGTERM)


def test_what_ignores_signals_and_left_its_session_is_ended(host: VirtualHost) -> None:
    host.start(
        "sh", "-c", "trap '' TERM HUP INT; setsid sh -c 'sleep 76; sleep 76' & sleep 76", stdin=subprocess.DEVNULL
    )
    await_command(host, "sleep", "76")
    host.end()
    assert not host.processes()
