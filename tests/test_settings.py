"""Settings: every bound is checked, and the environment is read strictly."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrad_bus.errors import SettingsError
from dagrad_bus.settings import (
    BeatSettings,
    ExchangeSettings,
    LinkSettings,
    Settings,
    TransportSettings,
    describe,
    from_environment,
    parse_members,
)

OUT_OF_BOUNDS = [
    (ExchangeSettings, "rule", "push"),
    (ExchangeSettings, "wire", "f64"),
    (ExchangeSettings, "density", 0.0),
    (ExchangeSettings, "density", 1.1),
    (ExchangeSettings, "density", float("nan")),
    (ExchangeSettings, "block", 3),
    (ExchangeSettings, "block", 512),
    (ExchangeSettings, "block", -1),
    (ExchangeSettings, "interval", 0),
    (ExchangeSettings, "fanout", -1),
    (ExchangeSettings, "choice", "best"),
    (ExchangeSettings, "explore", -1),
    (ExchangeSettings, "explore", 3),
    (ExchangeSettings, "w0", 0.0),
    (ExchangeSettings, "w0", 1.0),
    (ExchangeSettings, "tau", -1.0),
    (ExchangeSettings, "tau", float("inf")),
    (ExchangeSettings, "age_power", 11.0),
    (ExchangeSettings, "clip", 0.0),
    (ExchangeSettings, "refresh", 1.5),
    (ExchangeSettings, "dirty", -0.1),
    (LinkSettings, "window", 0),
    (LinkSettings, "window", 33),
    (LinkSettings, "ack_delay", 1.5),
    (LinkSettings, "mailbox_frames", 0),
    (LinkSettings, "max_frame", 1000),
    (LinkSettings, "max_frame", (64 << 20) + 1),
    (LinkSettings, "abandon", 0.0),
    (LinkSettings, "stalled", -1.0),
    (BeatSettings, "silence", 2.0),
    (BeatSettings, "interval", 0.0),
    (BeatSettings, "silence_max", 2.0),
    (BeatSettings, "suspicion_min", 9.0),
    (BeatSettings, "probe", 0.0),
    (BeatSettings, "grace", float("inf")),
    (TransportSettings, "codec", "lzma"),
    (TransportSettings, "inbox_port", 65536),
    (TransportSettings, "beat_port", -1),
    (TransportSettings, "flush", 11.0),
    (TransportSettings, "port_range", (0, 10)),
    (TransportSettings, "port_range", (10, 10)),
    (TransportSettings, "port_range", (10, 65536)),
    (Settings, "degree", 3),
    (Settings, "degree", 0),
    (Settings, "name", "n" * 33),
    (Settings, "rendezvous", "http://x:1/y"),
    (Settings, "rendezvous", "torchstore://x/y"),
    (Settings, "rendezvous", "file://"),
    (Settings, "members", ("a", "b")),
    (Settings, "members", ("local.0", "local.0")),
]


@pytest.mark.parametrize(("kind", "name", "value"), OUT_OF_BOUNDS)
def test_a_value_out_of_bounds_is_refused_with_value_and_bound(kind: type, name: str, value: object) -> None:
    with pytest.raises(SettingsError, match="needs"):
        kind(**{name: value})


@pytest.mark.parametrize("kind", [ExchangeSettings, LinkSettings, BeatSettings, TransportSettings, Settings])
def test_the_defaults_are_within_bounds(kind: type) -> None:
    assert kind() == replace(kind())


def test_a_worker_by_itself_is_alone() -> None:
    assert Settings().is_alone
    assert not Settings(members=("local.0", "local.1")).is_alone


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(Settings(key=b"secret"))


@pytest.mark.parametrize(("bind", "loopback"), [("127.0.0.1", True), ("::1", True), ("*", False), ("10.0.0.1", False)])
def test_loopback_is_what_only_this_host_reaches(bind: str, loopback: bool) -> None:
    assert TransportSettings(bind=bind).is_loopback is loopback


def test_an_empty_environment_is_a_worker_that_is_alone() -> None:
    assert from_environment({"PATH": "/bin"}) == Settings()


def test_every_exchange_setting_can_be_given(tmp_path: Path) -> None:
    default = ExchangeSettings()
    other = {"rule": "local", "wire": "f16", "block": 8, "interval": 3, "fanout": 2, "seed": 5, "age_power": 2.0}
    other |= {"choice": "complementary", "explore": 1}
    given: dict[str, Any] = {f.name: other.get(f.name, getattr(default, f.name)) for f in fields(default)}
    environ = {f"DAGRAD_{name.upper()}": str(value) for name, value in given.items()}
    assert from_environment(environ).exchange == ExchangeSettings(**given)


def test_files_are_read_and_names_taken(tmp_path: Path) -> None:
    (tmp_path / "roster").write_text("a\nb\n")
    (tmp_path / "key").write_text("c0ffee\n")
    environ = {
        "DAGRAD_RUN": "r",
        "DAGRAD_NAME": "b",
        "DAGRAD_ROSTER": str(tmp_path / "roster"),
        "DAGRAD_KEY_FILE": str(tmp_path / "key"),
        "DAGRAD_RUN_DIR": str(tmp_path),
        "DAGRAD_BIND": "*",
        "DAGRAD_LOOP": "asyncio",
        "DAGRAD_DEGREE": "2",
        "DAGRAD_LAUNCHER_ANYTHING": "ignored",
    }
    found = from_environment(environ)
    assert (found.run, found.name, found.members, found.key) == ("r", "b", ("a", "b"), b"c0ffee")
    assert (found.directory, found.degree) == (tmp_path, 2)
    assert (found.transport.bind, found.transport.loop) == ("*", "asyncio")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DENSTY", "0.1", "did you mean DAGRAD_DENSITY"),
        ("QQQQQQ", "1", "unknown setting DAGRAD_QQQQQQ"),
        ("DENSITY", "much", "needs float"),
        ("INTERVAL", "1.5", "needs int"),
        ("ROSTER", "/no/such/file", "No such file"),
        ("KEY_FILE", "/no/such/file", "No such file"),
        ("DENSITY", "2", r"\(0, 1\]"),
        ("CODEC", "lzma", "needs one of"),
        ("PORT_RANGE", "20000", "needs FIRST-LAST"),
        ("PORT_RANGE", "30000-20000", "needs two ports"),
        ("INBOX_PORT", "x", "needs int"),
        ("INBOX_PORT", "70000", "to 65535"),
        ("MEMBERS", "w.3..1", "STEM.FIRST..LAST"),
        ("MEMBERS", "w.0..99999999", "65536 at most"),
        ("MEMBERS", "w.0,w.0", "distinct"),
        ("SEEDS", "10.0.0.1:5", "NAME@HOST:PORT"),
        ("SEEDS", "file:///a,torchstore://h:1/p", "one folder or store"),
        ("SEEDS", "ftp://h/x", "needs file://DIR"),
    ],
)
def test_a_wrong_environment_is_refused_by_name(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        from_environment({f"DAGRAD_{name}": value})


def test_members_are_listed_by_name_and_by_range() -> None:
    assert parse_members("slurm.0..3") == ("slurm.0", "slurm.1", "slurm.2", "slurm.3")
    assert parse_members("a, b.2..2,node1.x") == ("a", "b.2", "node1.x")
    found = from_environment({"DAGRAD_MEMBERS": "mpi.0..2", "DAGRAD_NAME": "mpi.1"})
    assert found.members == ("mpi.0", "mpi.1", "mpi.2") and not found.joins


@given(st.lists(st.tuples(st.sampled_from(["a.", "b", "node1."]), st.integers(0, 50), st.integers(0, 20)), max_size=4))
def test_a_range_holds_both_its_ends(parts: list[tuple[str, int, int]]) -> None:
    text = ",".join(f"{stem}{first}..{first + more}" for stem, first, more in parts)
    wanted = tuple(f"{stem}{n}" for stem, first, more in parts for n in range(first, first + more + 1))
    assert parse_members(text) == wanted


def test_members_are_named_once(tmp_path: Path) -> None:
    (tmp_path / "roster").write_text("a\nb\n")
    with pytest.raises(SettingsError, match="give one of them"):
        from_environment({"DAGRAD_ROSTER": str(tmp_path / "roster"), "DAGRAD_MEMBERS": "a,b", "DAGRAD_NAME": "a"})


def test_ports_are_read() -> None:
    found = from_environment({"DAGRAD_PORT_RANGE": "20000-32000", "DAGRAD_INBOX_PORT": "5", "DAGRAD_BEAT_PORT": "6"})
    assert (found.transport.port_range, found.transport.inbox_port, found.transport.beat_port) == ((20000, 32000), 5, 6)
    assert from_environment({"DAGRAD_PORT_RANGE": ""}).transport.port_range is None


def test_seeds_are_members_and_at_most_one_place() -> None:
    found = from_environment({"DAGRAD_SEEDS": "w.0@10.0.0.1:5,file:///a/b,w.1@[fd00::2]:6,"})
    assert found.seeds == (("w.0", "tcp://10.0.0.1:5"), ("w.1", "tcp://[fd00::2]:6"))
    assert found.meeting_folder == Path("/a/b") and found.meeting_store is None
    assert not found.is_alone
    found = from_environment({"DAGRAD_SEEDS": "torchstore://[::1]:29500/dagrad/x/0"})
    assert found.meeting_store == ("::1", 29500, "dagrad/x/0") and found.meeting_folder is None


def test_what_run_json_says_of_the_settings_holds_no_secret() -> None:
    text = json.dumps(describe(Settings(key=b"secret")))
    assert "secret" not in text
    assert json.loads(text)["exchange"]["density"] == 0.015


def test_the_base_folder_of_agents_is_known_and_not_read() -> None:
    assert from_environment({"DAGRAD_AGENT_BASE": "/nowhere"}) == from_environment({})
