"""Hosts reach one another until they are cut off; nothing is left of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from dagrad_bus.errors import StartError
from dagrad_bus.faults.namespaces import Hosts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]
PROBE = "import socket,sys; s=socket.socket(); s.settimeout(0.3); sys.exit(s.connect_ex((sys.argv[1], 9)) != 111)"


def reaches(net: Hosts, one: int, other: int) -> bool:
    """Whether a connection attempt is answered, if only by a refusal."""
    words = ["ip", "netns", "exec", net.name(one), "python3", "-c", PROBE, net.address(other)]
    return subprocess.run(words, check=False).returncode == 0


def names() -> set[str]:
    return set(subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split())


def test_hosts_are_cut_off_and_joined(hosts: Callable[[int], Hosts]) -> None:
    net = hosts(3)
    assert reaches(net, 0, 1) and reaches(net, 1, 2)
    net.part([0], [1])
    assert not reaches(net, 0, 1) and reaches(net, 0, 2)
    net.part([0], [1], parted=False)
    net.blackhole([2], [0])
    assert not reaches(net, 0, 2) and reaches(net, 0, 1)
    net.plug(1, plugged=False)
    assert not reaches(net, 0, 1)
    net.plug(1, plugged=True)
    net.limit(0, 1_000_000)
    net.limit(0, 0)
    assert net.sent(0) > 0
    with pytest.raises(StartError):
        net.blackhole([0], [1], there=False)
    mine = {net.name(host) for host in range(3)}
    assert mine <= names()
    net.close()
    assert not mine & names()
