"""How engines are called. That they start what they are told to is shown by tests/cluster/test_engines.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dagrad_bus.faults.engines import Engine, plain_environ, why_no_frameworks, why_no_mpirun
from dagrad_bus.faults.host import VirtualHost

HOST = VirtualHost("none", "alpha", Path("unused"), {})


def test_options_that_let_others_live_on_follow_the_program() -> None:
    engine = Engine("x", HOST, (HOST,), {}, lambda count: ["launch", "-n", str(count)], surviving=("--go-on",))
    assert engine.call_words(3, "date", "-u") == ["launch", "-n", "3", "date", "-u"]
    assert engine.call_words(3, "date", survive=True) == ["launch", "--go-on", "-n", "3", "date"]


def test_no_launch_inside_another_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAGRAD_RUN", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "TORCHELASTIC_RUN_ID", "PYTEST_CURRENT_TEST"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("KEPT", "1")
    found = plain_environ()
    assert found["KEPT"] == "1" and not {
        name for name in found if name.startswith(("DAGRAD", "SLURM", "OMPI", "TORCHE"))
    }


def test_missing_programs_and_modules_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def which(program: str) -> None:
        return None

    monkeypatch.setattr(shutil, "which", which)
    assert why_no_mpirun() == "needs mpirun (openmpi-bin)"
    assert why_no_frameworks("json") == ""
    assert why_no_frameworks("json", "no_such_module").startswith("needs no_such_module (pip install ")
