"""``dagrad join``: whom it starts, and with which settings."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from dagrad_bus.bus import visitor
from dagrad_bus.errors import UsageError
from dagrad_bus.rendezvous import Address, publish
from dagrad_bus.settings import ExchangeSettings, TransportSettings, from_environment
from dagrad_bus.tools.join import environment, join
from dagrad_bus.wire import MemberState
from dagrad_bus.workers.launch import addresses
from dagrad_bus.workers.launch.folder import RunFolder, create

GONE = 2**22 + 1
"""A process id beyond the highest of any Linux."""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of two workers, with settings that are no defaults."""
    settings = {
        "degree": 6,
        "topology": "ring",
        "exchange": asdict(ExchangeSettings(density=0.25, wire="f32")),
        "transport": asdict(TransportSettings(codec="raw")),
    }
    facts = {"settings": settings, "omp_threads": "1"}
    made = create(tmp_path / "run", run="r", names=("local.0", "local.1"), facts=facts)
    publish(made.path, address("local.1", os.getpid()))  # somebody is there
    return made


def address(name: str, pid: int) -> Address:
    return Address(name=name, pid=pid, epoch=1, inbox="tcp://127.0.0.1:1", beat="tcp://127.0.0.1:2")


def test_the_worker_gets_the_settings_of_the_run(folder: RunFolder) -> None:
    env = environment({"PATH": "/bin", "RANK": "3"}, folder, folder.read_run(), "local.7")
    settings = from_environment(env)
    assert (settings.name, settings.run, settings.members) == ("local.7", "r", ("local.0", "local.1"))
    assert (settings.degree, settings.topology, settings.transport.codec) == (6, "ring", "raw")
    assert settings.exchange == ExchangeSettings(density=0.25, wire="f32")
    assert settings.directory == folder.path
    assert settings.joins
    assert "RANK" not in env
    assert env["DAGRAD_ATTEMPT"] == "1"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Environments of the commands that would have replaced this process."""
    found: list[dict[str, str]] = []

    def execute(file: str, words: object, env: dict[str, str]) -> None:
        found.append(env)

    monkeypatch.setattr(os, "execvpe", execute)
    return found


def test_a_new_worker_gets_the_first_free_name(folder: RunFolder, started: list[dict[str, str]]) -> None:
    for name in ("local.2", "local.3"):
        result = CliRunner().invoke(join, [str(folder.path), "true"])
        assert result.exit_code == 0, result.output
        assert started[-1]["DAGRAD_NAME"] == name
        assert name in folder.read_run()["workers"]


def test_one_that_died_comes_back_and_one_that_runs_is_refused(
    folder: RunFolder, started: list[dict[str, str]]
) -> None:
    publish(folder.path, address("local.0", GONE))
    assert CliRunner().invoke(join, ["--name", "local.0", str(folder.path), "true"]).exit_code == 0
    assert started[-1]["DAGRAD_NAME"] == "local.0"
    refused = CliRunner().invoke(join, ["--name", "local.1", str(folder.path), "true"])
    assert isinstance(refused.exception, UsageError)
    assert "local.1 is running" in str(refused.exception)
    assert len(started) == 1


def test_one_that_runs_on_another_host_is_refused(
    folder: RunFolder, started: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    far = Address(name="local.0", pid=GONE, epoch=1, inbox="tcp://192.0.2.77:1", beat="tcp://192.0.2.77:2")
    publish(folder.path, far)
    state = MemberState.ALIVE

    def read_run(path: Path, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(present=[SimpleNamespace(name="local.0", state=state)])

    monkeypatch.setattr(visitor, "read_run", read_run)
    words = ["--name", "local.0", str(folder.path), "true"]
    assert "local.0 is running" in str(CliRunner().invoke(join, words).exception)
    state = MemberState.SUSPECT
    assert CliRunner().invoke(join, words).exit_code == 0
    assert len(started) == 1


def test_two_dashes_may_stand_before_the_command(folder: RunFolder, started: list[dict[str, str]]) -> None:
    for words in (["--", str(folder.path), "true"], [str(folder.path), "--", "true", "--", "x"]):
        result = CliRunner().invoke(join, words)
        assert result.exit_code == 0, result.output
    assert [env["DAGRAD_NAME"] for env in started] == ["local.2", "local.3"]


def test_a_run_that_has_ended_is_not_joined(folder: RunFolder, started: list[dict[str, str]]) -> None:
    publish(folder.path, address("local.1", GONE))
    result = CliRunner().invoke(join, [str(folder.path), "true"])
    assert isinstance(result.exception, UsageError)
    assert "nobody to join" in str(result.exception)
    assert folder.read_run()["workers"] == ["local.0", "local.1"]
    far = Address(name="local.1", pid=GONE, epoch=1, inbox="tcp://192.0.2.77:1", beat="tcp://192.0.2.77:2")
    publish(folder.path, far)  # somebody of another host, who could live as far as this host can tell
    folder.update_run(ended=1.0)
    result = CliRunner().invoke(join, [str(folder.path), "true"])
    assert isinstance(result.exception, UsageError)
    assert "has ended: nobody to join" in str(result.exception)
    assert not started


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    result = CliRunner().invoke(join, [str(tmp_path), "true"])
    assert isinstance(result.exception, UsageError)
    assert "not a run folder" in str(result.exception)


def test_a_worker_joins_from_anywhere_by_seeds(
    tmp_path: Path, started: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGRAD_NAME", "another.0")
    monkeypatch.setenv("DAGRAD_DENSITY", "0.25")
    (tmp_path / "key").write_text("abc")
    words = ["--seeds", "w.0@127.0.0.1:5", "--run", "r", "--key-file", str(tmp_path / "key"), "--", "true"]
    result = CliRunner().invoke(join, words)
    assert result.exit_code == 0, result.output
    settings = from_environment(started[0])
    assert (settings.run, settings.key, settings.seeds) == ("r", b"abc", (("w.0", "tcp://127.0.0.1:5"),))
    assert settings.joins and settings.directory is None and settings.exchange.density == 0.25
    assert settings.name.endswith(f".{os.getpid()}") and settings.transport.is_loopback
    assert CliRunner().invoke(join, ["--name", "mine", *words]).exit_code == 0
    assert started[1]["DAGRAD_NAME"] == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which run"),
        (["--seeds", "w.0@h:5", "true"], "--run ID"),
        (["--seeds", "h:5", "--run", "r", "true"], "NAME@HOST:PORT"),
        (["--run", "r", "DIR", "true"], "go with --seeds"),
    ],
)
def test_what_is_missing_is_told(words: list[str], said: str, folder: RunFolder, started: list[dict[str, str]]) -> None:
    result = CliRunner().invoke(join, [str(folder.path) if word == "DIR" else word for word in words])
    assert isinstance(result.exception, UsageError) and said in str(result.exception)
    assert not started


def test_a_run_over_several_hosts_is_joined_at_an_address_that_others_reach(
    folder: RunFolder, started: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    far = Address(name="local.1", pid=GONE, epoch=1, inbox="tcp://192.0.2.77:1", beat="tcp://192.0.2.77:2")
    publish(folder.path, far)  # no process of this host

    def choose(hosts: Iterable[str]) -> str:
        return f"10.0.0.{len(list(hosts))}"

    monkeypatch.setattr(addresses, "choose", choose)  # agents bind by themselves: run.json says nothing of it
    result = CliRunner().invoke(join, [str(folder.path), "true"])
    assert result.exit_code == 0, result.output
    assert (started[0]["DAGRAD_ADVERTISE"], started[0]["DAGRAD_BIND"]) == ("10.0.0.1", "*")
    assert CliRunner().invoke(join, ["--interface", "lo", str(folder.path), "true"]).exit_code == 0
    assert (started[1]["DAGRAD_ADVERTISE"], started[1]["DAGRAD_BIND"]) == ("127.0.0.1", "127.0.0.1")
