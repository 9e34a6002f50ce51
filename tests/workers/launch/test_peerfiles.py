from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.errors import StartError, UsageError
from dagrad_bus.rendezvous import Address, look_up, names_in, publish
from dagrad_bus.workers.launch.peerfiles import AddressFiles, GraphFiles


def entry(name: str, epoch: int = 1) -> dict[str, Any]:
    ends = {"inbox": f"tcp://10.0.0.1:{1000 + epoch}", "beat": "tcp://10.0.0.1:9"}
    return {"name": name, "pid": 7, "epoch": epoch, **ends}


@pytest.fixture
def files(tmp_path: Path) -> AddressFiles:
    (tmp_path / "peers").mkdir()
    return AddressFiles(tmp_path)


def test_what_workers_publish_is_told_once(files: AddressFiles, tmp_path: Path) -> None:
    assert files.news(["n1.0"]) == []
    publish(tmp_path, Address(**entry("n1.0")))
    publish(tmp_path, Address(**entry("n2.0")))
    assert files.news(["n1.0"]) == [entry("n1.0")]
    assert files.news(["n1.0"]) == []
    publish(tmp_path, Address(**entry("n1.0", 2)))
    assert files.news(["n1.0"]) == [entry("n1.0", 2)]


def test_what_makes_no_sense_is_not_told(files: AddressFiles, tmp_path: Path) -> None:
    for name, text in {"a": "[]", "b": "{", "c": json.dumps(entry("x")), "d": "[" * 5000}.items():
        (tmp_path / "peers" / f"{name}.json").write_text(text)
    assert files.news("abcd") == []


def test_addresses_of_others_are_written_as_workers_write_them(files: AddressFiles, tmp_path: Path) -> None:
    files.publish({"n2.0": entry("n2.0", 5)}, ["n1.0"])
    assert look_up(tmp_path, "n2.0") == Address(**entry("n2.0", 5))
    assert names_in(tmp_path) == ["n2.0"]
    assert [path.name for path in (tmp_path / "peers").iterdir()] == ["n2.0.json"]


@pytest.mark.parametrize(("epoch", "left"), [(4, 5), (5, 5), (6, 6)])
def test_an_older_address_never_replaces_a_newer_one(
    files: AddressFiles, tmp_path: Path, epoch: int, left: int
) -> None:
    files.publish({"n2.0": entry("n2.0", 5)}, [])
    files.publish({"n2.0": entry("n2.0", epoch)}, [])
    found = look_up(tmp_path, "n2.0")
    assert found is not None and found.epoch == left


def test_an_own_worker_is_never_overwritten(files: AddressFiles, tmp_path: Path) -> None:
    files.publish({"n1.0": entry("n1.0", 9)}, ["n1.0"])
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("../key", entry("../key")),
        ("a", entry("b")),
        ("a", {**entry("a"), "epoch": "1"}),
        ("a", {**entry("a"), "more": "x" * 5000}),
    ],
)
def test_what_is_no_address_is_refused(files: AddressFiles, tmp_path: Path, name: str, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is no address"):
        files.publish({name: given}, [])
    assert names_in(tmp_path) == []


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot write"):
        AddressFiles(tmp_path / "gone").publish({"a": entry("a")}, [])


def test_a_graph_is_there_once_its_last_part_has_come(tmp_path: Path) -> None:
    graphs = GraphFiles(tmp_path)
    graphs.add("ab12", 0, 5, b"xxx")
    graphs.add("ab12", 0, 5, b"abc")  # begun anew
    assert not (tmp_path / "graphs").exists()
    graphs.add("ab12", 3, 5, b"de")
    assert (tmp_path / "graphs" / "ab12.json").read_bytes() == b"abcde"
    assert len(list((tmp_path / "graphs").iterdir())) == 1


@pytest.mark.parametrize(
    ("digest", "at", "size", "text"),
    [
        ("../x", 0, 3, "needs a digest"),
        ("ab", 0, 0, "0 bytes"),
        ("ab", 0, 9 << 20, "at most"),
        ("ab", 2, 5, "a part at byte 2 of 5, after 0"),
        ("ab", 0, 2, "a part at byte 0 of 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, digest: str, at: int, size: int, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        GraphFiles(tmp_path).add(digest, at, size, b"abc")
