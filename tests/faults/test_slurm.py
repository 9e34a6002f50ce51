"""The configuration of virtual nodes. That they work is shown by tests/cluster/test_engines.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dagrad_bus.faults.slurm import Slurm, config, why_not


def read(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))


def test_each_node_has_files_and_a_port_of_its_own() -> None:
    found = read(config(Path("/run/x"), "alpha", "10.0.0.1", 4))
    assert "%n" in found["SlurmdPidFile"] and "%n" in found["SlurmdSpoolDir"]
    assert found["NodeName"].startswith("n[0-3] NodeHostname=alpha NodeAddr=10.0.0.1 Port=[17001-17004] ")
    assert found["SlurmctldHost"] == "alpha(10.0.0.1)" and found["SlurmctldPort"] == "17000"


def test_nothing_is_written_outside_of_the_folder() -> None:
    found = read(config(Path("/run/x"), "alpha", "10.0.0.1", 2))
    paths = [value.partition("=")[2] or value for value in found.values() if "/" in value and "pid" in value]
    assert paths and all(path.startswith("/run/x/") for path in paths)


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def which(program: str, path: str | None = None) -> str | None:
        return None if program == "munged" else f"/bin/{program}"

    monkeypatch.setattr(shutil, "which", which)
    assert why_not() == "needs munged (slurm-wlm, munge)"


def test_the_environment_holds_no_other_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slurm = Slurm(2)
    slurm.folder = tmp_path
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    found = slurm.environ()
    assert found["SLURM_CONF"] == f"{tmp_path}/slurm.conf" and "SLURM_JOB_ID" not in found and "PATH" in found
    assert slurm.environ({"A": "b", "SLURMD_NODENAME": "n3"}) == {"A": "b", "SLURM_CONF": f"{tmp_path}/slurm.conf"}
