"""What a worker is told under each engine, and which question only the user can answer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.settings import from_environment
from dagrad_bus.workers.launch import addresses, shim
from dagrad_bus.workers.launch.engines import Found, detect
from dagrad_bus.workers.launch.shim import Plan, Wishes, by_hand, plan, threads

SLURM = Found(engine="slurm", job="slurm-17.0", rank=2, size=4, local_rank=1, local_size=2, folder="/data/.dagrad/17.0",
              first_host="n0", reach="10.0.0.9")  # fmt: skip
TORCHRUN = Found(engine="torchrun", job="torchrun-x", rank=1, size=2, local_rank=1, local_size=2, attempt=3,
                 store="localhost:44663", first_host="localhost", reach="localhost")  # fmt: skip
POD = Found(engine="pod", job="train", rank=1, local_size=1, first_host="train-0")


@pytest.fixture(autouse=True)
def _own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this host be 10.0.0.7."""

    def choose(targets: Iterable[str]) -> str:
        return "10.0.0.7"

    def is_own(address: str) -> bool:
        return address in {"10.0.0.7", "127.0.0.1"}

    monkeypatch.setattr(addresses, "choose", choose)
    monkeypatch.setattr(addresses, "is_own", is_own)


def told(found: Found | None, environ: Mapping[str, str] | None = None, fqdn: str = "host", **wishes: Any) -> Plan:
    return plan(found, Wishes(**wishes), environ or {}, fqdn=lambda: fqdn)


def ours(made: Plan) -> dict[str, str]:
    return {name.removeprefix("DAGRAD_"): value for name, value in made.env.items() if name.startswith("DAGRAD_")}


def test_slurm_meets_in_the_folder_of_the_job() -> None:
    made = told(SLURM)
    assert ours(made) == {
        "RUN": "slurm-17.0", "NAME": "slurm.2", "MEMBERS": "slurm.0..3", "SLOT": "1", "ATTEMPT": "0",
        "RUN_DIR": "/data/.dagrad/17.0", "KEY_FILE": "/data/.dagrad/17.0/key", "ADVERTISE": "10.0.0.7", "BIND": "10.0.0.7",
    }  # fmt: skip
    assert made.folder == Path("/data/.dagrad/17.0") and not made.notes
    assert made.env["PYTHONUNBUFFERED"] == "1" and made.env["OMP_NUM_THREADS"]


def test_all_on_one_host_use_loopback() -> None:
    assert ours(told(replace(SLURM, local_size=4)))["BIND"] == "127.0.0.1"


def test_torchrun_meets_in_the_store_of_its_agent() -> None:
    made = told(TORCHRUN)
    assert ours(made) == {
        "RUN": "torchrun-x", "NAME": "torchrun.1", "MEMBERS": "torchrun.0..1", "SLOT": "1", "ATTEMPT": "3",
        "SEEDS": "torchstore://localhost:44663/dagrad/torchrun-x/3", "ADVERTISE": "127.0.0.1", "BIND": "127.0.0.1",
    }  # fmt: skip
    assert made.folder is None and not made.notes
    folder = told(TORCHRUN, directory=Path("/data/a"))
    assert "SEEDS" not in ours(folder) and folder.folder == Path("/data/a")


def test_pods_meet_by_the_names_of_the_first_three() -> None:
    made = told(POD, fqdn="train-1.mesh.default.svc.cluster.local", workers=8)
    found = ours(made)
    assert found["SEEDS"] == "pod.0@train-0.mesh:29600,pod.2@train-2.mesh:29600"
    assert (found["MEMBERS"], found["INBOX_PORT"], found["BEAT_PORT"]) == ("pod.0..7", "29600", "29601")
    assert ours(told(POD, {"DAGRAD_MEMBERS": "pod.0..1"}, service="s", workers=2))["SEEDS"] == "pod.0@train-0.s:29600"
    first = ours(told(replace(POD, rank=0), service="s", workers=1))
    assert "SEEDS" not in first and first["INBOX_PORT"] == "29600"


def test_a_pod_without_a_service_is_alone_and_one_without_a_count_asks() -> None:
    made = told(POD, fqdn="train-1", workers=8)
    assert "trains alone" in made.notes[0] and "NAME" not in ours(made)
    with pytest.raises(UsageError, match="--workers N"):
        told(POD, service="s")


def test_the_port_of_rank_0_is_the_seed_of_all_others() -> None:
    first = ours(told(replace(SLURM, rank=0), seed_port=29600, key_file="/k"))
    assert first["INBOX_PORT"] == "29600" and "SEEDS" not in first and "RUN_DIR" not in first
    other = ours(told(SLURM, seed_port=29600, key_file="/k"))
    assert other["SEEDS"] == "slurm.0@n0:29600" and "INBOX_PORT" not in other and other["KEY_FILE"] == "/k"
    assert ours(told(SLURM, seed_port=5, seed_host="fd00::2"))["SEEDS"] == "slurm.0@[fd00::2]:5"
    assert ours(told(replace(SLURM, local_size=4), seed_port=5))["SEEDS"] == "slurm.0@127.0.0.1:5"
    with pytest.raises(UsageError, match="--seed-host HOST"):
        told(replace(SLURM, first_host=""), seed_port=5)
    with pytest.raises(UsageError, match="--rank R"):
        told(None, seed_port=5, run="r", name="n")


def test_seeds_need_no_folder_and_open_ports_are_told_by_the_first() -> None:
    assert "RUN_DIR" not in ours(told(SLURM, seeds="slurm.0@h:5"))
    assert told(SLURM, seeds="slurm.0@h:5").notes == ()
    assert "--key-file" in told(replace(SLURM, rank=0), seeds="slurm.1@h:5").notes[0]
    assert told(replace(SLURM, rank=0), seeds="slurm.1@h:5", key_file="/k").notes == ()


def test_by_hand() -> None:
    found = by_hand(Wishes(rank=1, workers=4))
    assert found is not None
    made = ours(told(found, run="r", seed_port=29600, seed_host="10.0.0.1"))
    assert (made["NAME"], made["MEMBERS"], made["SEEDS"]) == ("worker.1", "worker.0..3", "worker.0@10.0.0.1:29600")
    assert by_hand(Wishes()) is None
    with pytest.raises(UsageError, match="above it"):
        by_hand(Wishes(rank=4, workers=4))
    with pytest.raises(UsageError, match="--run ID"):
        told(found, seed_port=5, seed_host="h")


def test_one_more_joins_by_seeds() -> None:
    made = ours(told(None, name="late", run="r", seeds="worker.0@10.0.0.1:5"))
    assert (made["NAME"], made["RUN"]) == ("late", "r") and "MEMBERS" not in made
    with pytest.raises(UsageError, match="who is this worker"):
        told(None, run="r", seeds="worker.0@10.0.0.1:5")


def test_nobody_to_turn_to_is_said_once() -> None:
    made = told(None, {"DAGRAD_MEMBERS": "a,b"})
    assert "trains alone" in made.notes[0]
    assert from_environment(made.env).is_alone
    assert told(replace(SLURM, rank=0, size=1)).notes == ()


def test_variables_speak_where_no_option_does() -> None:
    environ = {"DAGRAD_RUN": "mine", "DAGRAD_RUN_DIR": "/d", "DAGRAD_ADVERTISE": "gw", "DAGRAD_BIND": "10.0.0.7"}
    made = ours(told(SLURM, environ))
    assert (made["RUN"], made["RUN_DIR"], made["ADVERTISE"], made["BIND"]) == ("mine", "/d", "gw", "10.0.0.7")
    assert ours(told(SLURM, environ, run="other"))["RUN"] == "other"
    assert "MEMBERS" not in ours(told(SLURM, {"DAGRAD_ROSTER": "/r"}))


@pytest.mark.parametrize(
    ("wishes", "address", "bind"),
    [
        ({"advertise": "10.0.0.7"}, "10.0.0.7", "10.0.0.7"),
        ({"advertise": "203.0.113.9"}, "203.0.113.9", "*"),
        ({"advertise": "node.example"}, "node.example", "*"),
        ({"interface": "lo"}, "127.0.0.1", "127.0.0.1"),
        ({"seeds": "slurm.0@127.0.0.1:5"}, "10.0.0.7", "10.0.0.7"),
    ],
)
def test_addresses(wishes: dict[str, Any], address: str, bind: str) -> None:
    made = ours(told(SLURM, **wishes))
    assert (made["ADVERTISE"], made["BIND"]) == (address, bind)


def test_seeds_on_loopback_alone_keep_a_worker_there() -> None:
    made = ours(told(None, name="late", run="r", seeds="a@127.0.0.1:5,b@[::1]:5"))
    assert made["BIND"] == "127.0.0.1"


def test_a_port_known_beforehand_is_open_at_every_address() -> None:
    assert ours(told(replace(SLURM, rank=0), seed_port=5))["BIND"] == "*"
    assert ours(told(POD, service="s", workers=2))["BIND"] == "*"
    here = by_hand(Wishes(rank=0, workers=2))
    assert ours(told(here, run="r", seed_port=5, seed_host="127.0.0.1"))["BIND"] == "127.0.0.1"


def test_a_host_without_an_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(targets: Iterable[str]) -> None:
        return None

    monkeypatch.setattr(addresses, "choose", choose)
    assert "--advertise" in told(SLURM).notes[0]


def test_ranks_are_taken_away_and_may_be_kept() -> None:
    environ = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "h"}
    assert not environ.keys() & told(TORCHRUN, environ).env.keys()
    assert told(TORCHRUN, environ).env["DAGRAD_LAUNCHER_RANK"] == "1"
    assert told(TORCHRUN, environ, keep_ranks=True).env.items() >= environ.items()


def test_a_worker_of_dagrad_run_keeps_all_it_was_told() -> None:
    environ = {"DAGRAD_RUN": "r", "DAGRAD_NAME": "local.1", "DAGRAD_RUN_DIR": "/d", "RANK": "0"}
    made = told(detect(environ), environ)
    assert ours(made).items() >= {"RUN": "r", "NAME": "local.1", "RUN_DIR": "/d"}.items()
    assert made.folder is None and "RANK" not in made.env


def test_cores_are_shared_unless_the_engine_shared_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(shim, "count_cores", lambda: 8)
    assert threads(SLURM) == 4 and threads(replace(SLURM, local_size=64)) == 1 and threads(None) == 8
    monkeypatch.setattr(shim, "count_cores", lambda: 2)
    assert threads(SLURM) == 2
    assert told(SLURM, {"OMP_NUM_THREADS": "3"}).env["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("found", [SLURM, TORCHRUN])
def test_what_is_told_makes_settings(found: Found) -> None:
    env = {name: value for name, value in told(found).env.items() if name != "DAGRAD_KEY_FILE"}
    settings = from_environment(env)
    assert settings.name == found.name and len(settings.members) == found.size and not settings.joins
