from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagrad_bus.rendezvous import Address, look_up, publish
from dagrad_bus.workers.launch import directory as directory_module
from dagrad_bus.workers.launch.directory import Directory
from dagrad_bus.workers.launch.folder import RunFolder, create
from dagrad_bus.workers.launch.orders import LONGEST_LINE, Addresses, Graph, encode


def entry(name: str, epoch: int = 1, pid: int = 5) -> dict[str, Any]:
    return {"name": name, "pid": pid, "epoch": epoch, "inbox": "tcp://10.0.0.1:1", "beat": "tcp://10.0.0.1:2"}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create(tmp_path / "run", run="r", names=["n1.0", "n2.0"], facts={})


@pytest.fixture
def directory(folder: RunFolder) -> Directory:
    return Directory(folder)


def told(directory: Directory, host: str, *own: str) -> dict[str, int]:
    """Return name and epoch of all that a host is told now."""
    orders = [order for order in directory.news_for(host, own) if isinstance(order, Addresses)]
    return {name: one["epoch"] for order in orders for name, one in order.entries.items()}


def test_what_a_host_reports_the_others_are_told_once(directory: Directory) -> None:
    directory.publish(["n1.0"], entry("n1.0"))
    assert not told(directory, "n1", "n1.0")
    assert told(directory, "n2", "n2.0") == {"n1.0": 1}
    assert not told(directory, "n2", "n2.0")
    directory.publish(["n1.0"], entry("n1.0", epoch=2))
    assert told(directory, "n2", "n2.0") == {"n1.0": 2}
    assert told(directory, "n3") == {"n1.0": 2}


def test_a_host_that_is_forgotten_is_told_everything_anew(directory: Directory) -> None:
    directory.publish(["n1.0"], entry("n1.0"))
    told(directory, "n2")
    directory.forget("n2")
    directory.forget("n9")
    assert told(directory, "n2") == {"n1.0": 1}


def test_workers_that_joined_by_themselves_are_told_of_too(directory: Directory, folder: RunFolder) -> None:
    publish(folder.path, Address(**entry("late", epoch=4)))
    assert told(directory, "n1", "n1.0") == {"late": 4} and directory.has("late") and not directory.has("n1.0")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_an_older_address_never_replaces_a_newer_one(
    directory: Directory, folder: RunFolder, epochs: list[int]
) -> None:
    (folder.path / "peers" / "n1.0.json").unlink(missing_ok=True)
    for number, epoch in enumerate(epochs):
        directory.publish(["n1.0"], entry("n1.0", epoch, pid=number))
    found = look_up(folder.path, "n1.0")
    assert found is not None and (found.epoch, found.pid) == (max(epochs), epochs.index(max(epochs)))


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"name": "n2.0"},
        {"name": "../../roster"},
        {"epoch": "soon"},
        {"epoch": float("inf")},
        {"pid": None},
        {"pid": float("nan")},
        {"inbox": "tcp://nowhere"},
        {"beat": "\x1b[2J"},
    ],
)
def test_what_is_no_address_of_that_host_is_left_out(
    directory: Directory, folder: RunFolder, wrong: dict[str, Any]
) -> None:
    directory.publish(["n1.0"], entry("n1.0") | wrong if wrong else {})
    assert not list((folder.path / "peers").iterdir())


def test_a_damaged_file_is_left_out(directory: Directory, folder: RunFolder) -> None:
    for name, text in {"a": "{", "b": "[]", "c": "3", "d": json.dumps(entry("d"))}.items():
        (folder.path / "peers" / f"{name}.json").write_text(text)
    assert told(directory, "n1") == {"d": 1}


def test_a_full_disk_is_not_the_hosts_fault(directory: Directory, folder: RunFolder) -> None:
    (folder.path / "peers").rmdir()
    (folder.path / "peers").write_text("no folder")
    directory.publish(["n1.0"], entry("n1.0"))
    assert not told(directory, "n2")


def test_many_are_told_in_several_orders(
    directory: Directory, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "_BATCH", 4)
    for number in range(8):
        publish(folder.path, Address(**entry(f"n1.{number}")))
    orders = list(directory.news_for("n2", []))
    assert [len(order.entries) for order in orders if isinstance(order, Addresses)] == [4, 4]


@pytest.mark.parametrize("size", [0, 10, (512 << 10) - 1, 512 << 10, (512 << 10) + 1, 3 << 20])
def test_graphs_travel_in_parts_that_fit_a_line(directory: Directory, folder: RunFolder, size: int) -> None:
    (folder.path / "graphs").mkdir()
    document = bytes(range(256)) * (size // 256 + 1)
    (folder.path / "graphs" / "ab12.json").write_bytes(document[:size])
    parts = [order for order in directory.news_for("n1", []) if isinstance(order, Graph)]
    assert b"".join(base64.b64decode(part.data) for part in parts) == document[:size]
    assert all((part.digest, part.size) == ("ab12", size) for part in parts)
    assert [part.at for part in parts] == list(range(0, size, 512 << 10))
    assert all(len(encode(part)) <= LONGEST_LINE for part in parts)
    assert not list(directory.news_for("n1", []))
