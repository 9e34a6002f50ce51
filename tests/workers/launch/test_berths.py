from __future__ import annotations

import json
import socket
import sys
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.workers.launch import berths as berths_module
from dagrad_bus.workers.launch.berths import Reach, agent_words, describe, host_berths, local_berth, restore
from dagrad_bus.workers.launch.hostfile import Host, parse_list
from dagrad_bus.workers.launch.orders import WorkerOrder

NODE = Host(label="node1", host="node1", slot_numbers=(0, 2), devices=("cuda:0", "", "cuda:2"))
WORD = st.text("abcz0.-_", min_size=1, max_size=8)
HOSTS = st.builds(
    Host, label=WORD, host=WORD, user=WORD | st.just(""), port=st.integers(0, 65535), python=WORD | st.just(""),
    slot_numbers=st.lists(st.integers(0, 4095), unique=True).map(tuple), cwd=WORD, addr=WORD | st.just(""),
)  # fmt: skip


@pytest.fixture
def reach(tmp_path: Path) -> Reach:
    return Reach(folder=tmp_path, env={"PATH": "/bin"})


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, Any]]]:
    """What would be run, instead of running it."""
    calls: list[tuple[list[str], dict[str, Any]]] = []

    def open_nothing(words: list[str], **options: Any) -> AbstractAsyncContextManager[None]:
        calls.append((list(words), options))
        return nullcontext()

    monkeypatch.setattr(berths_module, "open_process", open_nothing)
    return calls


def test_this_host_has_one_berth(reach: Reach, dialled: list[Any]) -> None:
    berth = local_berth(2, replace(reach, outlives=True))
    assert berth.is_local and berth.label == "local"
    assert berth.workers == (WorkerOrder(name="local.0", slot=0), WorkerOrder(name="local.1", slot=1))
    berth.dial()
    words, options = dialled[0]
    assert words == [sys.executable, "-u", "-m", "dagrad_bus.workers.launch.agent"]
    assert options == {"env": reach.env, "errors": reach.folder / "logs" / "local.agent.log", "outlives": True}


def test_other_hosts_are_reached_by_ssh_and_keep_their_slots(reach: Reach, dialled: list[Any]) -> None:
    host = replace(NODE, user="ann", port=22, cwd="/data", addr="10.0.0.1")
    (berth,) = host_berths([host], replace(reach, outlives=True))
    assert [order.name for order in berth.workers] == ["node1.0", "node1.2"]
    assert [order.env for order in berth.workers] == [{"DAGRAD_DEVICE": "cuda:0"}, {"DAGRAD_DEVICE": "cuda:2"}]
    assert (berth.is_local, berth.where, berth.cwd, berth.advertise) == (False, "ann@node1:22", "/data", "10.0.0.1")
    berth.dial()
    words, options = dialled[0]
    assert words[0] == "ssh" and words[words.index("-p") + 1] == "22" and words[-2] == "ann@node1"
    assert options.get("outlives", False) is False  # the ssh, not the agent, is a child of ours
    assert options["errors"].name == "node1.agent.log"


def test_each_berth_dials_its_own_host(reach: Reach, dialled: list[Any]) -> None:
    hosts = [replace(NODE, label=label, host=label) for label in ("a", "b", "c")]
    for berth in host_berths(hosts, reach):
        berth.dial()
    assert [words[-2] for words, _ in dialled] == ["a", "b", "c"]


def test_the_local_one_of_several_hosts_says_how_others_reach_it(reach: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def towards(host: str) -> str:
        asked.append(host)
        return "192.0.2.9"

    monkeypatch.setattr(berths_module, "towards", towards)
    here = Host(label="localhost", host="localhost", slot_numbers=(0,))
    berths = host_berths([here, replace(NODE, addr="10.0.0.1"), NODE], reach)
    assert (berths[0].is_local, berths[0].advertise, asked) == (True, "192.0.2.9", ["10.0.0.1"])
    assert host_berths([replace(here, addr="198.51.100.1"), NODE], reach)[0].advertise == "198.51.100.1"
    assert host_berths([here], reach)[0].advertise == ""


def test_where_the_first_host_has_no_way_others_are_asked_and_its_real_name(
    reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = {"node2": "192.0.2.2", "10.1.2.3": "192.0.2.3"}
    monkeypatch.setattr(berths_module, "towards", ways.get)
    monkeypatch.setattr(berths_module, "of_name", {socket.gethostname(): "192.0.2.1"}.get)
    config = reach.folder / "config"
    config.write_text("Host gpu1\n HostName 10.1.2.3\n")
    here = Host(label="localhost", host="localhost", slot_numbers=(0,))

    def told(*names: str, ssh_config: Path | None = None) -> str:
        hosts = [here, *(replace(NODE, host=name, port=22) for name in names)]
        return host_berths(hosts, replace(reach, ssh_config=ssh_config))[0].advertise

    assert told("no.such.host.invalid", "node2") == "192.0.2.2"
    assert told("gpu1", ssh_config=config) == "192.0.2.3"
    assert told("no.such.host.invalid") == "192.0.2.1"
    assert told("localhost") == ""


def test_the_interpreter_is_the_hosts_or_ours() -> None:
    assert agent_words(NODE, None)[-1].split()[1] == f"'{sys.executable}'"
    assert agent_words(replace(NODE, python="~/py"), None)[-1].split()[1] == "~/'py'"
    words = agent_words(NODE, Path("cfg"))
    assert words[words.index("-F") + 1] == "cfg"


@settings(max_examples=50, deadline=None)
@given(st.lists(HOSTS, max_size=3))
def test_what_run_json_keeps_of_hosts_finds_them_again(hosts: list[Host]) -> None:
    kept = json.loads(json.dumps(describe(hosts)))
    assert restore(kept) == tuple(hosts)
    assert [agent_words(host, None) for host in restore(kept)] == [agent_words(host, None) for host in hosts]


@pytest.mark.parametrize("damaged", [[{}], [{"label": "a"}], ["a"], [3]])
def test_what_is_no_description_of_hosts_is_an_error(damaged: list[Any]) -> None:
    with pytest.raises((KeyError, TypeError)):
        restore(damaged)


def test_a_list_of_hosts_becomes_berths(reach: Reach) -> None:
    hosts = parse_list("localhost:1,node2:2").hosts
    assert [(berth.is_local, len(berth.workers)) for berth in host_berths(hosts, reach)] == [(True, 1), (False, 2)]
