from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any, NoReturn

import pytest

from dagrad_bus.tools.rehearsal import show_rehearsal
from dagrad_bus.workers.launch.hostfile import parse_list

OPTIONS: dict[str, Any] = {"ssh_config": None, "python": None}


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started, connected, made or removed."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a rehearsal touches nothing")

    for place, name in ((subprocess, "Popen"), (os, "mkdir"), (os, "unlink"), (os, "kill"), (socket, "getaddrinfo"),
                        (socket.socket, "connect"), (Path, "open"), (Path, "mkdir")):  # fmt: skip
        monkeypatch.setattr(place, name, refuse)


def test_each_host_its_workers_and_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    hosts = parse_list("ann@node1:2,localhost:1").hosts
    names = [f"{host.label}.{slot}" for host in hosts for slot in host.slot_numbers]
    show_rehearsal(
        names, hosts, ["train.py", "two words"], {}, OPTIONS | {"ssh_config": Path("my cfg"), "python": "/py"}
    )
    out = capsys.readouterr().out.split("\n\n")
    assert out[0] == "3 workers run: train.py 'two words'"
    assert out[1].startswith("node1: node1.0, node1.1\n") and "-F 'my cfg'" in out[1] and "ann@node1" in out[1]
    assert "/py" in out[1] and out[2].startswith("localhost: localhost.0\n") and "ssh" not in out[2]
    assert out[3] == "environment, sent over stdin:\n"


def test_this_host_needs_no_ssh(capsys: pytest.CaptureFixture[str]) -> None:
    show_rehearsal(["local.0", "local.1"], [], ["train.py"], {"B": "2", "A": "1"}, OPTIONS)
    out = capsys.readouterr().out
    assert "this host: local.0, local.1\n" in out and "ssh" not in out
    assert out.endswith("environment, beside that of this shell:\n  A=1\n  B=2\n")


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ("ray", "by Ray, 2 CPUs and 0.5 GPUs each: a.0, a.1\n"),
        ("slurm", "by Slurm: a.0, a.1\n  srun "),
    ],
)
def test_where_an_engine_places_them_it_says_so(engine: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = OPTIONS | {"cpus": 2.0, "gpus": 0.5, "srun_args": ["-pgpu"]}
    show_rehearsal(["a.0", "a.1"], [], ["train.py"], {}, options, engine=engine)
    out = capsys.readouterr().out
    assert says in out and ("-pgpu" in out) == (engine == "slurm") and "this host" not in out


def test_secrets_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    env = {
        "WANDB_API_KEY": "abc1", "HF_TOKEN": "abc2", "DB_PASSWORD": "abc3", "PROXY": "http://ann:abc4@proxy:80/",
        "DAGRAD_TAU": "4",
    }  # fmt: skip
    show_rehearsal(["local.0"], [], ["train.py"], env, OPTIONS)
    out = capsys.readouterr().out
    assert "abc" not in out and "DAGRAD_TAU=4" in out and out.count("***") == 4
