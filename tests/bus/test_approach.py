"""How a run is found: folder, seeds, and the address that its workers can answer to."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from dagrad_bus.bus.approach import Approach, Door, from_folder, host_of, read_seeds
from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.rendezvous import Address, publish
from dagrad_bus.topology.live import TopologySpec

GONE = 2**22 + 1
"""A process id beyond the highest of any Linux."""


def address(name: str, *, pid: int, port: int, host: str = "127.0.0.1") -> Address:
    return Address(name=name, pid=pid, epoch=1, inbox=f"tcp://{host}:{port}", beat=f"tcp://{host}:{port + 1}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text(json.dumps({"run": "r", "settings": {"topology": "ring", "degree": 2}}))
    (tmp_path / "key").write_bytes(b"secret\n")
    return tmp_path


def test_a_folder_names_run_key_graph_and_the_living(folder: Path) -> None:
    publish(folder, address("a", pid=os.getpid(), port=1))
    publish(folder, address("b", pid=GONE, port=3))
    publish(folder, address("c", pid=GONE, port=5, host="10.0.0.7"))
    found = from_folder(folder, ["x@10.0.0.9:7"])
    assert (found.run, found.key, found.spec) == ("r", b"secret", TopologySpec(kind="ring", degree=2))
    assert [door.inbox for door in found.doors()] == ["tcp://10.0.0.9:7", "tcp://127.0.0.1:1", "tcp://10.0.0.7:5"]
    assert str(found) == str(folder)


def test_a_seed_has_an_address_and_perhaps_a_name() -> None:
    named, bare, six = read_seeds(["node1.0@node1:40113", "tcp://10.0.0.7:1", "[fe80::1]:9"], "r")
    assert named == Door(derive_node_id("r", "node1.0"), "tcp://node1:40113")
    assert bare.inbox == "tcp://10.0.0.7:1" and len(bare.node) == 16 and bare.node != six.node
    assert host_of(six.inbox) == "fe80::1"


@pytest.mark.parametrize("text", ["", "node1", "node1:", ":1", "a@b@c:1", "node 1:5", "node1:0", "node1:65536", "*:5"])
def test_what_is_no_seed_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="a seed is"):
        read_seeds([text], "r")


def test_one_listens_on_loopback_where_all_are_there() -> None:
    approach = Approach("r", b"")
    here, there = Door(NodeId(b"a" * 16), "tcp://127.0.0.1:1"), Door(NodeId(b"b" * 16), "tcp://192.0.2.1:1")
    assert approach.sockets([here]).bind == "127.0.0.1"
    assert approach.sockets([]).bind == "127.0.0.1"
    with suppress(UsageError):  # a machine without a way out
        assert approach.sockets([here, there]).bind not in {"", "*", "127.0.0.1"}


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the folder of a run"):
        from_folder(tmp_path)
