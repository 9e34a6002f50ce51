from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dagrad_bus.errors import SettingsError, StartError
from dagrad_bus.tools import cli

Dagrad = Callable[..., "subprocess.CompletedProcess[str]"]
HEAVY = {"torch", "numpy", "matplotlib", "rich", "zmq", "blosc2", "asyncio", "dagrad_bus.tools.run"}


def test_help_teaches_and_imports_nothing_heavy(environment: dict[str, str], tmp_path: Path) -> None:
    code = """
import json, sys
from dagrad_bus.tools.cli import main
try:
    main(["--help"])
except SystemExit as end:
    print(json.dumps([end.code, sorted(sys.modules)]), file=sys.stderr)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=15,
        check=True,
    )
    code_seen, modules = json.loads(ran.stderr)
    assert code_seen == 0
    assert not HEAVY & set(modules)
    for part in ("dagrad run -n 8 -- python -m dagrad_bus.workers.digits", "report    Show a finished run"):
        assert part in ran.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_of_the_table_exists_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert f"dagrad {name} " in capsys.readouterr().out


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["rum"])
    assert end.value.code == 2
    assert "No such command 'rum'" in capsys.readouterr().err


def test_version_says_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("dagrad-bus ")


@pytest.mark.parametrize(("error", "code"), [(SettingsError("density is 3"), 2), (StartError("port in use"), 1)])
def test_a_known_error_is_one_line(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli.dagrad, "main", fail)
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == code
    assert capsys.readouterr().err == f"dagrad: {error}\n"


def test_an_unknown_error_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli.dagrad, "main", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main([])
