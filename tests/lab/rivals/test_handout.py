from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dagrad_bus.lab.rivals.handout import Trial, crew_command, deal, recipe
from dagrad_bus.lab.rivals.systems import OWN, SYSTEMS
from dagrad_bus.workers import problem
from dagrad_bus.workers.shards import Batches

MakeTrial = Callable[..., Trial]


def test_all_workers_get_the_batches_that_the_digits_program_draws(make_trial: MakeTrial, tmp_path: Path) -> None:
    trial = make_trial(shards="sorted", seed=3)
    deal(trial, SYSTEMS["ddp"], sys.executable, tmp_path)
    data = problem.load(3, "val")
    shard = data.shards(recipe(trial), 2)[1]
    stream = Batches(shard, 32, 3, "local.1")
    with np.load(tmp_path / "problem.npz") as dealt:
        assert dealt["order_1"].shape == (20, 32)
        assert (dealt["order_1"][0] == stream.next()).all() and (dealt["order_1"][1] == stream.next()).all()
        assert (dealt["train_x"] == data.train_x.numpy()).all() and (dealt["eval_y"] == data.test_y.numpy()).all()
        assert dealt["parameters"].shape == (301_066,)


def test_tuning_never_sees_the_test_part(make_trial: MakeTrial, tmp_path: Path) -> None:
    parts: dict[str, set[bytes]] = {}
    for report in ("val", "test"):
        deal(make_trial(report=report), SYSTEMS["local"], sys.executable, tmp_path / report)
        with np.load(tmp_path / report / "problem.npz") as dealt:
            parts[report] = {row.tobytes() for row in np.rint(dealt["eval_x"] * 100).astype(int)}
    assert len(parts["val"] & parts["test"]) < 0.05 * len(parts["test"])


def test_a_job_starts_each_worker_in_its_environment(make_trial: MakeTrial, tmp_path: Path) -> None:
    file = deal(make_trial("decent-ring"), SYSTEMS["decent-ring"], "/other/python", tmp_path)
    job = json.loads(file.read_text())
    assert job["commands"] == [["/other/python", "-m", "rivals.decent", str(file), rank] for rank in ("0", "1")]
    assert job["options"] == {"topology": "ring"}
    assert job["environ"]["PYTHONPATH"] == str(tmp_path / "drivers")
    assert {path.name for path in (tmp_path / "drivers" / "rivals").iterdir()} == {
        "__init__.py",
        "task.py",
        "decent.py",
    }
    assert crew_command(file)[-1] == str(file)


def test_this_system_is_started_by_its_own_launcher(make_trial: MakeTrial, tmp_path: Path) -> None:
    file = deal(make_trial(OWN, seed=7), SYSTEMS[OWN], sys.executable, tmp_path)
    (command,) = json.loads(file.read_text())["commands"]
    assert command[2:5] == ["dagrad_bus.tools.cli", "run", "-n"]
    assert command[command.index("--seed") + 1] == "7"
    assert command[-3:] == ["-m", "dagrad_bus.lab.rivals.own", str(file)]


@pytest.mark.parametrize(
    ("fault", "awaited", "sleep", "kill"),
    [("none", [0, 1, 2], {}, None), ("straggler", [1, 2], {"0": 0.2}, None), ("kill", [0, 2], {}, [1, 10])],
)
def test_faults(
    make_trial: MakeTrial,
    tmp_path: Path,
    fault: str,
    awaited: list[int],
    sleep: dict[str, float],
    kill: list[int] | None,
) -> None:
    trial = make_trial(workers=3, fault=fault)
    job = json.loads(deal(trial, SYSTEMS["local"], sys.executable, tmp_path).read_text())
    assert (job["awaited"], job["sleep"], job["kill"]) == (awaited, sleep, kill)


def test_a_trial_is_known_by_all_that_it_depends_on(make_trial: MakeTrial) -> None:
    keys = [
        make_trial(**change).key for change in ({}, {"lr": 0.1}, {"report": "test"}, {"fault": "kill"}, {"pace": 0.1})
    ]
    assert len({json.dumps(key) for key in keys}) == 5
    assert make_trial("hivemind").guess > make_trial("ddp").guess > 0
