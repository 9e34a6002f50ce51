from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch.folder import RunFolder, create, default_path, mark_process


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A fresh run folder of two workers."""
    return create(tmp_path / "run", run="ab12", names=["local.0", "local.1"], facts={"created": 1.0})


def test_a_new_folder_has_roster_key_and_facts(folder: RunFolder) -> None:
    assert folder.roster.read_text() == "local.0\nlocal.1\n"
    assert len(bytes.fromhex(folder.key.read_text())) == 32
    assert stat.S_IMODE(folder.key.stat().st_mode) == 0o600
    assert folder.read_run() == {
        "schema": "dagrad.run/1",
        "run": "ab12",
        "workers": ["local.0", "local.1"],
        "launched": ["local.0", "local.1"],
        "created": 1.0,
    }
    assert {path.name for path in folder.path.iterdir() if path.is_dir()} == {"peers", "logs", "workers"}


def test_two_runs_have_two_keys(folder: RunFolder, tmp_path: Path) -> None:
    other = create(tmp_path / "other", run="ab13", names=["local.0"], facts={})
    assert other.key.read_text() != folder.key.read_text()


def test_a_folder_takes_one_run_only(folder: RunFolder) -> None:
    with pytest.raises(UsageError, match="holds a run already"):
        create(folder.path, run="ab14", names=["local.0"], facts={})


def test_update_adds_and_keeps(folder: RunFolder) -> None:
    folder.update_run(ended=2.0)
    assert folder.read_run()["ended"] == 2.0
    assert folder.read_run()["run"] == "ab12"
    assert not list(folder.path.glob(".*"))


@pytest.mark.parametrize(("text", "says"), [(None, "not a run folder"), ("{", "damaged"), ("[]", "another kind")])
def test_what_is_no_run_folder_is_named(text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match=says):
        RunFolder(tmp_path).read_run()


def test_logs_can_be_had_elsewhere_too(folder: RunFolder, tmp_path: Path) -> None:
    folder.keep_logs_in(tmp_path / "logs", ["local.0"])
    folder.log("local.0").write_text("out")
    folder.errors("local.0").write_text("err")
    there = tmp_path / "logs" / "local.0"
    assert ((there / "stdout.log").read_text(), (there / "stderr.log").read_text()) == ("out", "err")
    assert not (there / "stdout.log").is_symlink()


def test_on_another_file_system_they_are_links(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    folder.keep_logs_in(tmp_path / "logs", ["local.0"])
    folder.log("local.0").write_text("out")
    there = tmp_path / "logs" / "local.0" / "stdout.log"
    assert there.is_symlink() and there.read_text() == "out"


def test_logs_of_another_run_are_not_replaced(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "logs" / "local.0").mkdir(parents=True)
    (tmp_path / "logs" / "local.0" / "stderr.log").write_text("precious")
    with pytest.raises(UsageError, match=r"stderr\.log: File exists"):
        folder.keep_logs_in(tmp_path / "logs", ["local.0"])


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    own = mark_process(os.getpid())
    assert own and own == mark_process(os.getpid()) != mark_process(1)
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert mark_process(child.pid) == ""  # it has ended, though its number is not free
    child.wait()
    assert mark_process(child.pid) == ""


def test_default_folders_sort_by_time() -> None:
    assert default_path("ff00ff", now=1e9) < default_path("00ff00", now=1e9 + 1)
