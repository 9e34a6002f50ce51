"""Faked facts of hosts in good health."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dagrad_bus.workers.launch.examination.judgement import Examined, HostFacts

GOOD: dict[str, Any] = {
    "hostname": "node",
    "python": "3.11.7",
    "executable": "/opt/python",
    "packages": {
        **dict.fromkeys(("numpy", "pyzmq", "msgpack", "google-crc32c", "structlog", "blosc2", "uvloop"), "1.0"),
        "dagrad-bus": "0.1.0",
        "torch": "2.13.0+cpu",
    },
    "wire": 1,
    "addresses": [["lo", "127.0.0.1"], ["eth0", "10.0.0.1"], ["ib0", "10.1.0.1"]],
    "fds": [4096, 4096],
    "memory": {"total": 1 << 36, "available": 1 << 35},
    "cores": {"usable": 8, "quota": None},
    "temporary": {"path": "/t", "free": 1 << 36, "writable": True},
    "somaxconn": 4096,
    "ephemeral": [32768, 60999],
    "own_name": ["10.0.0.1"],
    "cwd": {"path": "/c", "exists": True},
    "ranks": [],
    "gpus": 0,
}
Make = Callable[..., HostFacts]


@pytest.fixture
def good() -> dict[str, Any]:
    """Facts of a host in good health."""
    return dict(GOOD)


@pytest.fixture
def make_host() -> Make:
    """Return a maker of hosts: ``facts`` replace those of a good one, the rest goes to HostFacts."""

    def make(label: str = "node1", facts: dict[str, Any] | None = None, **values: Any) -> HostFacts:
        standard: dict[str, Any] = {"target": label, "address": "10.0.0.1", "reached": True, "ports": [20001, 20002]}
        standard["ports_tried"] = 2
        return HostFacts(label=label, facts=GOOD | (facts or {}), **(standard | values))

    return make


@pytest.fixture
def make_examined(good: dict[str, Any]) -> Callable[..., Examined]:
    """Return a maker of examinations of hosts and paths."""

    def make(hosts: list[HostFacts], **values: Any) -> Examined:
        standard: dict[str, Any] = {"paths": [], "here": good, "first_port": 20000, "last_port": 32000}
        return Examined(hosts=hosts, **(standard | values))

    return make
