from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.errors import StartError
from dagrad_bus.tools import run_ray as run_ray_module
from dagrad_bus.tools.run_ray import run_on_ray
from dagrad_bus.workers.launch.brief import Launch
from dagrad_bus.workers.launch.folder import RunFolder, create
from dagrad_bus.workers.launch.journal import Record
from dagrad_bus.workers.launch.orders import Start
from dagrad_bus.workers.launch.outcome import Exit, Outcome, Watcher, Worker
from dagrad_bus.workers.launch.pipes import Pipe

NAMES = ["ray-0.0", "ray-1.0"]
OPTIONS: dict[str, Any] = {
    "progress": "none", "as_json": False, "figures": False, "cpus": 2.0, "gpus": 0.5, "strategy": "PACK",
    "min_workers": 1, "min_success": None, "on_failure": "abort",
}  # fmt: skip


@dataclass
class Bundle:
    address: str

    def open_pipe(self) -> AbstractAsyncContextManager[Pipe]:
        raise AssertionError("nothing is dialled")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    facts = {"created": 0.0, "command": ["train.py"], "settings": {"exchange": {"rule": "state"}}}
    return create(tmp_path / "run", run="ab12", names=NAMES, facts=facts)


@pytest.fixture
def start() -> Start:
    return Start(run="ab12", host="", roster=NAMES, command=["train.py"], cwd="/", lease=0.0)


def test_one_worker_a_bundle(
    folder: RunFolder, start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int, dict[str, Any]]] = []
    launches: list[Launch] = []

    @asynccontextmanager
    async def open_bundles(count: int, **wish: Any) -> AsyncGenerator[list[Bundle]]:
        asked.append((count, wish))
        yield [Bundle(f"10.0.0.{number}") for number in range(count)]

    class Launcher:
        def __init__(self, launch: Launch, watcher: Watcher) -> None:
            launches.append(launch)

        async def run(self) -> Outcome:
            return Outcome([Worker(name, Record(name), exit=Exit(name, 1, 0, None, 1.0)) for name in NAMES])

    monkeypatch.setattr(run_ray_module, "open_ray", open_bundles)
    monkeypatch.setattr(run_ray_module, "Launcher", Launcher)
    assert run_on_ray(folder, start, OPTIONS) == 0
    wish = {"errors": folder.path / "logs" / "ray.log", "cpus": 2.0, "gpus": 0.5, "strategy": "PACK"}
    assert asked == [(2, wish)]
    berths = launches[0].berths
    assert [(berth.label, [order.name for order in berth.workers], berth.is_local) for berth in berths] == [
        ("ray-0", ["ray-0.0"], False), ("ray-1", ["ray-1.0"], False),
    ]  # fmt: skip
    assert (launches[0].min_workers, launches[0].abort, launches[0].start) == (1, True, start)
    said = capsys.readouterr().err
    assert "2 workers on Ray" in said and "ray-1 is on ray 10.0.0.1" in said
    assert [ended["state"] for ended in folder.read_run()["exits"]] == ["done", "done"]


def test_a_cluster_that_is_full_is_one_error(folder: RunFolder, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def open_bundles(count: int, **wish: Any) -> AsyncGenerator[list[Bundle]]:
        raise StartError("the cluster has no room")
        yield []

    monkeypatch.setattr(run_ray_module, "open_ray", open_bundles)
    with pytest.raises(StartError, match="no room"):
        run_on_ray(folder, start, OPTIONS)
