from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.rivals.environments import Installed
from dagrad_bus.lab.rivals.figure import draw
from dagrad_bus.lab.rivals.outcome import Outcome
from dagrad_bus.lab.rivals.rows import make_rows
from dagrad_bus.lab.rivals.scoreboard import Findings
from dagrad_bus.lab.rivals.systems import SYSTEMS


@pytest.fixture
def found(make_outcome: Callable[..., Outcome]) -> list[Findings]:
    """All systems but the last with numbers."""
    made: list[Findings] = []
    for number, system in enumerate(SYSTEMS.values()):
        one = Findings(system, Installed("python"))
        one.finals = {kind: [make_outcome(bytes_per_step=number * 1e4)] for kind in ("iid", "sorted")}
        made.append(one)
    made[-1].finals = {}
    return made


@pytest.mark.usefixtures("warm_figure")
def test_the_figure_is_drawn_of_what_there_is(found: list[Findings], tmp_path: Path) -> None:
    file = draw(make_rows(found), tmp_path / "scoreboard.png")
    assert file.read_bytes().startswith(b"\x89PNG")
    assert len(draw(make_rows(found[:1]), tmp_path / "alone.png").read_bytes()) < len(file.read_bytes())


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="digits"):
        draw([], tmp_path / "scoreboard.png")
