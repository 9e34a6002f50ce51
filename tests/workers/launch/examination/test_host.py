from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from dagrad_bus.workers.launch.examination import host
from dagrad_bus.workers.launch.examination.host import (
    gather_facts,
    list_missing,
    read_addresses,
    read_wire,
    resolve,
    version_of,
)


def test_this_host_tells_all_of_itself(tmp_path: Path) -> None:
    facts = gather_facts(str(tmp_path), {"SSH_CONNECTION": "10.0.0.9 5 10.0.0.1 22", "RANK": "0", "HOME": "h"})
    assert json.loads(json.dumps(facts)) == facts
    assert facts["hostname"] == socket.gethostname() and facts["executable"] == sys.executable
    assert facts["ssh"] == ["10.0.0.9", "5", "10.0.0.1", "22"] and facts["ranks"] == ["RANK"]
    assert facts["cwd"] == {"path": str(tmp_path), "exists": True}
    assert facts["wire"] == 1 and facts["packages"]["numpy"]
    if sys.platform == "linux":
        assert facts["memory"]["total"] >= facts["memory"]["available"] > 0
        assert facts["cores"]["usable"] >= 1 and facts["fds"][0] > 0
        assert ["lo", "127.0.0.1"] in facts["addresses"] and facts["mtu"]["lo"] > 1000


def test_what_cannot_be_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: str) -> str:
        raise PermissionError

    monkeypatch.setattr(host, "_read", closed)
    facts = gather_facts("/nosuch", {})
    assert not {"memory", "somaxconn", "ephemeral"} & facts.keys()
    assert facts["cwd"]["exists"] is False and facts["cores"]["quota"] is None


def test_a_limit_of_the_control_group_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 800 kB",
        "/sys/fs/cgroup/memory.max": "102400",
        "/sys/fs/cgroup/memory.current": "2400",
        "/sys/fs/cgroup/cpu.max": "150000 100000",
    }

    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    monkeypatch.setattr(host, "_read", read)
    assert host._read_memory() == {"total": 102400, "available": 100000}
    assert host._read_quota() == 1.5
    files["/sys/fs/cgroup/memory.max"] = files["/sys/fs/cgroup/cpu.max"] = "max 100000"
    assert host._read_memory()["total"] == 1024000
    assert host._read_quota() is None


def test_a_package_that_breaks_on_import_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise ImportError("no msgpack")

    monkeypatch.setattr(host, "import_module", broken)
    assert read_wire() == {"wire_error": "ImportError: no msgpack"}


def test_names_versions_and_addresses() -> None:
    assert "127.0.0.1" in resolve("127.0.0.1") and resolve("nosuch.invalid") == []
    assert version_of("nosuch-dist") is None and version_of("numpy")
    assert list_missing({"a": "1", "b": None}, ["a", "b", "c"]) == ["b", "c"]
    assert ["lo", "127.0.0.1"] in read_addresses()
