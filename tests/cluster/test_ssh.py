"""The hosts of the ssh tests are hosts: apart from one another, reachable by name, and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dagrad_bus.faults.host import NAMES
from dagrad_bus.faults.sshhosts import HEAD, SshHosts

pytestmark = pytest.mark.cluster


def test_a_host_is_reached_by_name_from_head_and_from_hosts(ssh_cluster: SshHosts) -> None:
    assert ssh_cluster.ssh("node2", "hostname").out == "node2\n"
    inner = f"ssh -F {ssh_cluster.ssh_config} node3 hostname"
    assert ssh_cluster.ssh("node1", inner).out == "node3\n"
    assert ssh_cluster.ssh("node2", "exit 7").code == 7
    assert ssh_cluster[HEAD].call("hostname", seconds=5).out == "head\n"
    source = ssh_cluster.ssh("node1", f"{sys.executable} -c 'import dagrad_bus; print(dagrad_bus.__file__)'")
    assert source.out.strip() and Path(source.out.strip()).exists(), source.text


def test_hosts_share_neither_tmp_nor_shared_memory(ssh_cluster: SshHosts) -> None:
    for folder in ("/tmp", "/dev/shm"):
        ssh_cluster.ssh("node1", f"touch {folder}/mine")
        assert "mine\n" in ssh_cluster.ssh("node1", f"ls {folder}").out
        assert "mine" not in ssh_cluster.ssh("node2", f"ls {folder}").out
    assert "mine" in os.listdir(ssh_cluster["node1"].tmp) and not Path("/tmp/mine").exists()


def test_a_cut_host_is_silent_until_the_cable_is_back(ssh_cluster: SshHosts) -> None:
    ssh_cluster.cut("node3")
    words = ("ssh", "-F", str(ssh_cluster.ssh_config), "-o", "ConnectTimeout=1", "node3", "hostname")
    done = ssh_cluster[HEAD].call(*words, seconds=10)
    assert done.code == 255 and "timed out" in done.err, done.text
    ssh_cluster.restore("node3")
    assert ssh_cluster.ssh("node3", "hostname").out == "node3\n"


def test_a_login_that_talks_does_so_before_the_command(ssh_cluster: SshHosts) -> None:
    ssh_cluster.greet("node2", "Welcome!\n")
    done = ssh_cluster.ssh("node2", "echo said; exit 3")
    assert (done.out, done.code) == ("Welcome!\nsaid\n", 3)
    ssh_cluster.greet("node2", "")
    assert ssh_cluster.ssh("node2", "echo said").out == "said\n"


def test_processes_are_found_by_host_and_killed_by_id(ssh_cluster: SshHosts) -> None:
    client = ssh_cluster.run("ssh", "-F", str(ssh_cluster.ssh_config), "node1", "sleep 987", stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 5
    while not (found := [one for one in ssh_cluster.processes("node1") if one.command == ("sleep", "987")]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not ssh_cluster["node2"].find("sleep 987")
    ssh_cluster["node1"].kill(found[0].pid)
    assert client.wait(5) == 255 and not ssh_cluster["node1"].find("sleep 987")


def test_the_far_command_outlives_its_client(ssh_cluster: SshHosts) -> None:
    client = ssh_cluster.run("ssh", "-F", str(ssh_cluster.ssh_config), "node1", "sleep 986", stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 5
    while not ssh_cluster["node1"].find("sleep", "986"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.send_signal(signal.SIGKILL)
    client.wait(5)
    time.sleep(0.5)  # nothing would tell that it is not being ended
    assert ssh_cluster["node1"].find("sleep", "986")


def test_nothing_is_left_of_hosts_even_after_an_error() -> None:
    stubborn = "trap '' TERM HUP; setsid sleep 985 & setsid sleep 985"
    cluster = SshHosts(1)
    with pytest.raises(ZeroDivisionError), cluster:
        cluster.run("sh", "-c", stubborn)
        cluster.ssh("node1", f"({stubborn}) >/dev/null 2>&1 &")
        raise ZeroDivisionError
    assert not cluster.folder.exists() and not (NAMES / cluster["node1"].namespace).exists()
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert cluster["node1"].namespace not in left.split()
    commands: set[bytes] = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ends while we look
            commands.add(path.read_bytes())
    assert b"sleep\x00985\x00" not in commands
