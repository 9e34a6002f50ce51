"""Who is let in, and why not."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.identity import BACKOFF_MS, Identity, boot_epoch, codecs_of
from dagrad_bus.codec import Codec
from dagrad_bus.errors import LayoutMismatch, MalformedFrame, NotAdmitted, RemoteError, VersionMismatch
from dagrad_bus.ids import NodeId
from dagrad_bus.rendezvous import Address, publish
from dagrad_bus.settings import Settings, TransportSettings
from dagrad_bus.wire import ErrorCode, Hello, pack, parse

LAYOUT = Layout((Entry("x", (8,), "float32"),), (), 1)


def identity(
    name: str = "a", run: str = "r", key: bytes = b"k", layout: Layout = LAYOUT, bind: str = "127.0.0.1"
) -> Identity:
    settings = Settings(run=run, name=name, members=("a", "b"), key=key, transport=TransportSettings(bind=bind))
    return Identity(settings, layout, 5)


def hello(**options: object) -> Hello:
    return identity("b", **options).hello("tcp://127.0.0.1:10", "tcp://127.0.0.1:11")  # type: ignore[arg-type]  # names above


GOOD = hello()
OTHER_LAYOUT = Layout((Entry("x", (9,), "float32"),), (), 1)


def test_a_restart_is_newer_even_where_the_clock_was_set_back(tmp_path: Path) -> None:
    settings = Settings(name="a", directory=tmp_path)
    assert abs(time.time_ns() - boot_epoch(settings)) < 10**10
    ahead = time.time_ns() + 10**12
    address = Address(name="a", pid=1, epoch=ahead, inbox="tcp://127.0.0.1:1", beat="tcp://127.0.0.1:2")
    publish(tmp_path, address)
    assert boot_epoch(settings) == ahead + 1
    publish(tmp_path, replace(address, epoch=1 << 63))
    assert abs(time.time_ns() - boot_epoch(settings)) < 10**10


def test_a_member_with_the_key_is_let_in() -> None:
    identity().admit(GOOD)
    assert (GOOD.host, GOOD.inbox_port, GOOD.beat_port, GOOD.name) == ("127.0.0.1", 10, 11, "b")
    assert parse(pack(GOOD)) == GOOD


@pytest.mark.row(31, 39, layer="L1")
@pytest.mark.parametrize(
    ("given", "error"),
    [
        pytest.param(hello(key=b"wrong"), NotAdmitted, id="wrong key"),
        pytest.param(hello(key=b""), NotAdmitted, id="no key"),
        pytest.param(hello(run="other"), NotAdmitted, id="other run"),
        pytest.param(replace(GOOD, node=NodeId(bytes(16))), NotAdmitted, id="no member"),
        pytest.param(replace(GOOD, node=identity().node), NotAdmitted, id="ourselves"),
        pytest.param(replace(GOOD, minor=(1, 2)), VersionMismatch, id="later version only"),
        pytest.param(hello(layout=OTHER_LAYOUT), LayoutMismatch, id="other layout"),
        pytest.param(replace(GOOD, host=""), MalformedFrame, id="no host"),
        pytest.param(replace(GOOD, inbox_port=0), MalformedFrame, id="no port"),
        pytest.param(hello(key=b"wrong", layout=OTHER_LAYOUT), NotAdmitted, id="a stranger hears nothing of layouts"),
    ],
)
def test_who_is_refused(given: Hello, error: type[RemoteError]) -> None:
    with pytest.raises(error):
        identity().admit(given)


@pytest.mark.parametrize("host", ["127.0.0.1", "node-7.cluster", "[::1]", "[fe80::1%eth0]"])
def test_hosts_that_a_socket_can_connect_to(host: str) -> None:
    identity().admit(replace(GOOD, host=host))


def test_the_proof_depends_on_run_and_key_only() -> None:
    assert identity("a").proof == identity("b").proof
    assert len({identity(run=run, key=key).proof for run in "rs" for key in (b"", b"k", b"l")}) == 6
    assert identity(key=b"k" * 100).proof  # a long key is cut, not refused


@pytest.mark.parametrize(
    ("options", "codecs"),
    [
        ({}, {Codec.ZLIB, Codec.BLOSC2_LZ4, Codec.BLOSC2_ZSTD}),
        ({"key": b""}, {Codec.ZLIB}),
        ({"bind": "*"}, {Codec.ZLIB}),
    ],
)
def test_blosc2_is_taken_from_holders_of_the_key_on_this_host_only(
    options: dict[str, object], codecs: set[Codec]
) -> None:
    assert codecs_of(hello(**options)) == codecs
    assert codecs_of(replace(GOOD, capabilities=0)) == frozenset()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LayoutMismatch("m" * 300), ErrorCode.LAYOUT),
        (VersionMismatch("v"), ErrorCode.VERSION),
        (MalformedFrame("x"), ErrorCode.INTERNAL),
    ],
)
def test_a_refusal_says_why_and_for_how_long(error: RemoteError, code: ErrorCode) -> None:
    refusal = identity().refusal(error)
    assert (refusal.code, refusal.fatal, refusal.backoff_ms) == (code, True, BACKOFF_MS)
    assert parse(pack(refusal)) == refusal
