"""A run folder made by all its workers at once: one is first, all agree."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch.shared import found_run, publish_once

NAMES = ("slurm.0", "slurm.1")


def enter(path: Path, number: int) -> tuple[str, int]:
    folder = found_run(path, run="r", names=NAMES, facts={"created": 1.0, "by": number})
    return folder.key.read_text(), folder.read_run()["by"]


def test_all_find_what_the_first_one_wrote(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(partial(enter, tmp_path / "a" / "run"), range(32)))
    assert len(found) == 1
    folder = tmp_path / "a" / "run"
    assert sorted(os.listdir(folder)) == ["key", "logs", "peers", "roster", "run.json", "workers"]
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
    assert (folder / "roster").read_text().split() == list(NAMES)
    assert json.loads((folder / "run.json").read_text())["workers"] == list(NAMES)


def _write(path: Path, number: int) -> None:
    os._exit(0 if publish_once(path, str(number) * 4096) else 1)


@pytest.mark.slow
def test_of_many_processes_one_is_first(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=_write, args=(tmp_path / "x", number)) for number in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert sorted(process.exitcode or 0 for process in started) == [0, 1, 1, 1]
    for process in started:
        process.close()
    text = (tmp_path / "x").read_text()
    assert len(text) == 4096 and len(set(text)) == 1


def test_another_run_is_not_entered(tmp_path: Path) -> None:
    found_run(tmp_path, run="r", names=NAMES, facts={})
    with pytest.raises(UsageError, match="holds run 'r', and this is 's'"):
        found_run(tmp_path, run="s", names=NAMES, facts={})


def test_a_key_may_be_given_and_must_be_that_of_the_folder(tmp_path: Path) -> None:
    assert found_run(tmp_path, run="r", names=NAMES, facts={}, key="abc").key.read_text() == "abc\n"
    found_run(tmp_path, run="r", names=NAMES, facts={}, key="abc")
    with pytest.raises(UsageError, match="another key"):
        found_run(tmp_path, run="r", names=NAMES, facts={}, key="abd")


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="all workers see"):
        found_run(tmp_path / "file", run="r", names=NAMES, facts={})


def test_a_file_system_without_hard_links_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UsageError, match="no hard links"):
        found_run(tmp_path, run="r", names=NAMES, facts={})
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
