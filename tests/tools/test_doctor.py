from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dagrad_bus.errors import UsageError
from dagrad_bus.tools.doctor import doctor, parse_ports
from dagrad_bus.workers.launch.folder import create


def _call(*words: str) -> Result:
    return CliRunner().invoke(doctor, list(words))


def test_ranges_of_ports() -> None:
    assert parse_ports("20000-32000") == (20000, 32000)
    assert parse_ports("5-5") == (5, 5)
    for bad in ("", "20000", "9-8", "0-5", "1-65536", "a-b", "1-2-3"):
        with pytest.raises(UsageError, match="--port-range"):
            parse_ports(bad)


def test_a_run_and_hosts_are_two_questions(tmp_path: Path) -> None:
    found = _call(str(tmp_path), "-H", "a")
    assert isinstance(found.exception, UsageError) and "give one of them" in str(found.exception)
    assert isinstance(_call(str(tmp_path)).exception, UsageError)


def test_a_host_file_with_mistakes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("node1 slot=2\n")
    found = _call("--hostfile", str(tmp_path / "hosts"))
    assert isinstance(found.exception, UsageError) and "slots" in str(found.exception)


def test_a_run_that_is_over_gives_3(tmp_path: Path) -> None:
    folder = create(tmp_path / "r", run="ab" * 8, names=["a.0"], facts={"ended": 1.0})
    found = _call(str(folder.path), "--json")
    report = json.loads(found.stdout)
    assert found.exit_code == report["exit"] == 3
    assert (report["schema"], report["examined"], report["faults"][0]["check"]) == ("dagrad.doctor/1", "run", "run")
    table = _call(str(folder.path))
    assert table.exit_code == 3 and "dagrad report" in table.stdout and "a.0" in table.stdout


@pytest.mark.slow
def test_this_host() -> None:
    words = [sys.executable, "-m", "dagrad_bus.tools.cli", "doctor"]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=False, timeout=60)
    report = json.loads(done.stdout)
    faults = [fault for fault in report["faults"] if fault["level"] == "fault"]
    assert done.returncode == (1 if faults else 0) == report["exit"]
    (host,) = report["facts"]["hosts"]
    assert host["reached"] and host["label"] == "local" and len(host["ports"]) == 2
    table = subprocess.run([*words, "-H", "localhost:2"], capture_output=True, text=True, check=False, timeout=60)
    assert "localhost" in table.stdout and "fault" in table.stdout
