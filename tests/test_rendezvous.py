"""Addresses in a shared folder: whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dagrad_bus.errors import StartError
from dagrad_bus.rendezvous import Address, Folder, Rendezvous, decode, encode, look_up, publish

ADDRESS = Address(name="local.0", pid=5, epoch=7, inbox="tcp://127.0.0.1:1000", beat="tcp://[::1]:1001")


def test_what_is_published_is_found(tmp_path: Path) -> None:
    publish(tmp_path, ADDRESS)
    assert look_up(tmp_path, "local.0") == ADDRESS
    assert look_up(tmp_path, "local.1") is None


def test_a_restart_replaces_its_own_address(tmp_path: Path) -> None:
    publish(tmp_path, ADDRESS)
    publish(tmp_path, replace(ADDRESS, epoch=8))
    found = look_up(tmp_path, "local.0")
    assert found is not None
    assert found.epoch == 8
    assert os.listdir(tmp_path / "peers") == ["local.0.json"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "peers").write_text("a file")
    with pytest.raises(StartError, match=str(tmp_path)):
        publish(tmp_path, ADDRESS)


GOOD = asdict(ADDRESS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        "[" * 4000,
        json.dumps(GOOD)[:-10],
        json.dumps({**GOOD, "name": "local.1"}),
        json.dumps({**GOOD, "epoch": "soon"}),
        json.dumps({**GOOD, "epoch": None}),
        json.dumps({**GOOD, "inbox": "ipc:///tmp/x"}),
        json.dumps({**GOOD, "inbox": "tcp://a b:1"}),
        json.dumps({**GOOD, "beat": 5}),
        json.dumps({key: GOOD[key] for key in GOOD if key != "beat"}),
        "\x00\xff",
    ],
)
def test_what_makes_no_sense_is_no_address(tmp_path: Path, text: str) -> None:
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "local.0.json").write_text(text, encoding="latin-1")
    assert look_up(tmp_path, "local.0") is None


def test_a_folder_is_a_rendezvous(tmp_path: Path) -> None:
    place: Rendezvous = Folder(tmp_path)
    assert place.names() == [] and place.look_up("local.0") is None
    place.publish(replace(ADDRESS, name="local.1"))
    place.publish(ADDRESS)
    assert place.names() == ["local.0", "local.1"]
    assert place.look_up("local.0") == ADDRESS == look_up(tmp_path, "local.0")
    assert place.place == str(tmp_path)


def test_what_is_encoded_is_decoded_under_its_own_name_only() -> None:
    assert decode(encode(ADDRESS), "local.0") == ADDRESS
    assert decode(encode(ADDRESS), "local.1") is None
