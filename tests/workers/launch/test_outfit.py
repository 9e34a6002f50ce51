from __future__ import annotations

from pathlib import Path

import pytest

from dagrad_bus.settings import from_environment
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.orders import Start, WorkerOrder
from dagrad_bus.workers.launch.outfit import choose_addresses, equip
from dagrad_bus.workers.launch.quarters import BASE_NAME

CAME = {"SSH_CONNECTION": "10.0.0.9 5000 127.0.0.1 22"}


def start(**options: object) -> Start:
    base: dict[str, object] = {"run": "r", "host": "n1", "command": ["x"], "cwd": "/"}
    return Start(**base | options)  # type: ignore[arg-type]  # checked where orders are parsed


def test_workers_find_the_runs_files_and_share_the_cores(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.roster.write_text("n1.0\nn1.1\n")
    folder.key.write_text("k")
    workers = [WorkerOrder(name=f"n1.{n}", slot=n) for n in range(1000)]
    own = {"HOME": "/h", "RANK": "3", "DAGRAD_NAME": "other.0", BASE_NAME: "/b", "LR": "1"}
    env = equip(start(workers=workers, env={"LR": "2", "DAGRAD_DENSITY": "0.5"}), folder, own)
    assert (env["HOME"], env["LR"], env["OMP_NUM_THREADS"], env["PYTHONUNBUFFERED"]) == ("/h", "2", "1", "1")
    assert "RANK" not in env and env["DAGRAD_LAUNCHER_RANK"] == "3"
    settings = from_environment({**env, "DAGRAD_NAME": "n1.0"})  # and nothing that it does not know
    assert (settings.run, settings.members, settings.key, settings.directory) == ("r", ("n1.0", "n1.1"), b"k", tmp_path)
    assert equip(start(keep_ranks=True), folder, own)["RANK"] == "3"


@pytest.mark.parametrize(
    ("order", "environ", "found"),
    [
        (start(), {}, {}),
        (start(), CAME, {"DAGRAD_ADVERTISE": "127.0.0.1", "DAGRAD_BIND": "127.0.0.1"}),
        (start(folder="/runs/1"), CAME, {}),  # a launcher in an ssh session of its own
        (start(advertise="192.0.2.1"), CAME, {"DAGRAD_ADVERTISE": "192.0.2.1", "DAGRAD_BIND": "*"}),
        (start(advertise="127.0.0.1", folder="/r"), {}, {"DAGRAD_ADVERTISE": "127.0.0.1", "DAGRAD_BIND": "127.0.0.1"}),
        (start(env={"DAGRAD_BIND": "*"}), CAME, {"DAGRAD_ADVERTISE": "127.0.0.1", "DAGRAD_BIND": "*"}),
        (start(), {**CAME, "DAGRAD_ADVERTISE": "192.0.2.7"}, {"DAGRAD_ADVERTISE": "192.0.2.7", "DAGRAD_BIND": "*"}),
        (
            start(folder="/r"),
            {"DAGRAD_ADVERTISE": "127.0.0.1"},
            {"DAGRAD_ADVERTISE": "127.0.0.1", "DAGRAD_BIND": "127.0.0.1"},
        ),
        (
            start(advertise="192.0.2.1", env={"DAGRAD_BIND": "127.0.0.1"}),
            {},
            {"DAGRAD_ADVERTISE": "192.0.2.1", "DAGRAD_BIND": "*"},
        ),
        (
            start(advertise="127.0.0.1", env={"DAGRAD_BIND": "*"}),
            {},
            {"DAGRAD_ADVERTISE": "127.0.0.1", "DAGRAD_BIND": "*"},
        ),
        (start(), {"SSH_CONNECTION": "odd"}, {}),
    ],
)
def test_the_address_is_the_users_or_the_one_ssh_came_by(
    order: Start, environ: dict[str, str], found: dict[str, str]
) -> None:
    assert choose_addresses(order, environ) == found
