"""Settings: every bound is checked, and the environment is read strictly."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.errors import SettingsError
from dagrad_bus.settings import (
    BeatSettings,
    ExchangeSettings,
    LinkSettings,
    Settings,
    TransportSettings,
    from_environment,
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
    (Settings, "degree", 3),
    (Settings, "degree", 0),
    (Settings, "name", "n" * 33),
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
    ],
)
def test_a_wrong_environment_is_refused_by_name(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        from_environment({f"DAGRAD_{name}": value})
