"""``dagrad doctor`` over three real hosts: a good cluster has no fault, each planted one is named with its repair."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.faults.host import Done
from dagrad_bus.faults.sshhosts import HEAD, SshHosts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]
THREE = "node1 slots=1\nnode2 slots=1\nnode3 slots=1\n"


def _examine(cluster: SshHosts, lines: str, *options: str) -> Done:
    hostfile = cluster.folder / "hosts"
    hostfile.write_text(lines)
    words = (sys.executable, "-m", "dagrad_bus.tools.cli", "doctor", "--hostfile", str(hostfile))
    return cluster[HEAD].call(*words, "--ssh-config", str(cluster.ssh_config), *options, seconds=90)


def _faults(done: Done, code: int) -> list[dict[str, Any]]:
    assert done.code == code, done.text
    report = json.loads(done.out)
    assert report["schema"] == "dagrad.doctor/1" and report["exit"] == code
    return [fault for fault in report["faults"] if fault["level"] == "fault"]


def _only(faults: list[dict[str, Any]], where: str, check: str) -> dict[str, Any]:
    """Return the one fault there is, which must be this one."""
    assert [(fault["where"], fault["check"]) for fault in faults] == [(where, check)], faults
    return faults[0]


def _wrapper(cluster: SshHosts, name: str, *lines: str) -> Path:
    """Write an interpreter that does ``lines`` first."""
    path = cluster.folder / f"python-{name}"
    path.write_text("\n".join(["#!/bin/sh", *lines, f'exec {sys.executable} "$@"', ""]))
    path.chmod(0o755)
    return path


def test_a_good_cluster_has_no_fault(ssh_cluster: SshHosts) -> None:
    done = _examine(ssh_cluster, THREE, "--json", "--throughput")
    assert _faults(done, 0) == []
    facts = json.loads(done.out)["facts"]
    addresses = {host["label"]: host["address"] for host in facts["hosts"]}
    assert addresses == {name: ssh_cluster.address(name) for name in ssh_cluster.names}
    paths = {(path["source"], path["target"]): path for path in facts["paths"]}
    assert len(paths) == 6
    assert all(not path["error"] and path["rtt"] < 0.5 and path["rate"] > 1e6 for path in facts["paths"])
    assert all(path["source_address"] == ssh_cluster.address(path["source"]) for path in facts["paths"])
    assert not any(ssh_cluster[name].find("launch.probe") for name in ssh_cluster.names)
    table = _examine(ssh_cluster, THREE)
    assert table.code == 0 and "node3" in table.out and "good" in table.out, table.text


def test_a_closed_port_is_named_with_its_pair(ssh_cluster: SshHosts) -> None:
    blackhole = ("ip", "route", "add", "blackhole", ssh_cluster.address("node3"))
    assert ssh_cluster["node1"].call(*blackhole).code == 0
    closed = _examine(ssh_cluster, THREE, "--json", "--timeout", "1")
    found = _faults(closed, 1)  # node3 can send nothing back to node1 either: its packets are not answered
    assert {fault["where"] for fault in found} == {"node1 -> node3", "node3 -> node1"}
    assert all(fault["check"] == "port" for fault in found)
    assert ssh_cluster.address("node3") in found[0]["what"] + found[1]["what"]
    text = _examine(ssh_cluster, THREE, "--timeout", "1")
    assert text.code == 1 and "node1 -> node3" in text.out and "2 faults" in text.out


def test_a_filter_on_ports_is_named_with_the_range(ssh_cluster: SshHosts) -> None:
    # What node2 answers from these ports gets nowhere: to the others they are as good as filtered.
    rule = ("ip", "rule", "add", "pref", "10", "ipproto", "tcp", "sport", "20000-32000", "blackhole")
    done = ssh_cluster["node2"].call(*rule)
    assert done.code == 0, done.text
    found = _faults(_examine(ssh_cluster, THREE, "--json", "--timeout", "1"), 1)
    fault = _only(found, "node1, node3 -> node2", "port")
    assert "no answer" in fault["what"] and "open TCP 20000-32000" in fault["repair"]
    assert not _faults(_examine(ssh_cluster, THREE, "--json", "--port-range", "40000-40100"), 0)


def test_a_name_that_does_not_resolve_is_named_with_its_host(ssh_cluster: SshHosts) -> None:
    lines = "node1\nnode2\nnode3 addr=storage3\n"
    for name in ("node1", "node3"):
        done = ssh_cluster.ssh(name, f"echo {ssh_cluster.address('node3')} storage3 >>/etc/hosts")
        assert done.code == 0, done.text
    fault = _only(_faults(_examine(ssh_cluster, lines, "--json"), 1), "node2", "name")
    assert "storage3 does not resolve" in fault["what"]
    assert "/etc/hosts" in fault["repair"] and "addr=" in fault["repair"]
    wrong = _only(_faults(_examine(ssh_cluster, "node1\nnode9\n", "--json"), 1), "node9", "reach")
    assert "does not resolve" in wrong["what"]
    assert _examine(ssh_cluster, "node9\n").code == 3


def test_another_version_is_named_with_the_installation(ssh_cluster: SshHosts) -> None:
    shadow = ssh_cluster.folder / "shadow" / "dagrad_bus-0.0.9.dist-info"
    shadow.mkdir(parents=True)
    (shadow / "METADATA").write_text("Metadata-Version: 2.1\nName: dagrad-bus\nVersion: 0.0.9\n")
    python = _wrapper(ssh_cluster, "old", f"export PYTHONPATH={shadow.parent}")
    lines = THREE.replace("node2 slots=1", f"node2 python={python}")
    fault = _only(_faults(_examine(ssh_cluster, lines, "--json"), 1), "node2", "version")
    assert "0.0.9" in fault["what"] and "pip install dagrad-bus==" in fault["repair"]


def test_a_wrong_clock_is_named_with_its_offset(ssh_cluster: SshHosts) -> None:
    shadow = ssh_cluster.folder / "clock"
    shadow.mkdir()
    hook = "import time\n_time = time.time\ntime.time = lambda: _time() + 3.2\n"
    (shadow / "sitecustomize.py").write_text(hook)
    python = _wrapper(ssh_cluster, "fast", f"export PYTHONPATH={shadow}")
    lines = THREE.replace("node2 slots=1", f"node2 python={python}")
    fault = _only(_faults(_examine(ssh_cluster, lines, "--json"), 1), "node2", "clock")
    assert "3.2 s ahead" in fault["what"] and "chronyc makestep" in fault["repair"]


def test_few_descriptors_are_named_with_the_limit(ssh_cluster: SshHosts) -> None:
    python = _wrapper(ssh_cluster, "poor", "ulimit -n 256")
    lines = THREE.replace("node3 slots=1", f"node3 python={python}")
    fault = _only(_faults(_examine(ssh_cluster, lines, "--json"), 1), "node3", "descriptors")
    assert fault["what"] == "256 file descriptors" and "nofile" in fault["repair"]


def test_packets_that_vanish_by_their_size_are_told_from_a_closed_port(ssh_cluster: SshHosts) -> None:
    # The far end of node2's cable takes no packet over 1000 bytes and tells nobody; without gso_max_segs the
    # simulated cable would carry 64 KiB at once.
    switch, port = ssh_cluster._net._switch, f"p{ssh_cluster._numbers['node2']}"
    assert ssh_cluster["node2"].call("ip", "link", "set", "eth0", "gso_max_segs", "1").code == 0
    subprocess.run(["ip", "-n", switch, "link", "set", port, "mtu", "1000"], check=True)
    ssh_route = ("ip", "route", "add", ssh_cluster.address(HEAD), "dev", "eth0", "mtu", "900")
    assert ssh_cluster["node2"].call(*ssh_route).code == 0
    found = _faults(_examine(ssh_cluster, THREE, "--json", "--timeout", "1"), 1)
    assert {fault["check"] for fault in found} == {"mtu"}
    assert {"node2 -> node1", "node2 -> node3"} <= {fault["where"] for fault in found}
    assert all("vanish" in fault["what"] and "MTU" in fault["repair"] for fault in found)


def test_a_dead_host_leaves_the_others_examined(ssh_cluster: SshHosts) -> None:
    ssh_cluster.cut("node3")
    fault = _only(_faults(_examine(ssh_cluster, THREE, "--json"), 1), "node3", "reach")
    assert "no way to it" in fault["what"]
    ssh_cluster.restore("node3")


def test_a_login_that_talks_is_a_warning(ssh_cluster: SshHosts) -> None:
    ssh_cluster.greet("node1", "Welcome!\n")
    done = _examine(ssh_cluster, THREE, "--json")
    assert done.code == 0, done.text
    warnings = {(fault["where"], fault["check"]) for fault in json.loads(done.out)["faults"]}
    assert ("node1", "login") in warnings
