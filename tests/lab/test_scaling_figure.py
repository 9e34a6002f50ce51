"""The figure is drawn, with and without the paper's points."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagrad_bus.lab.profiles import PROFILES, WIRES
from dagrad_bus.lab.scaling import Question, answer
from dagrad_bus.lab.scaling_figure import draw


@pytest.mark.parametrize("name", ["resnet50", "bert-base"])
def test_a_figure_is_drawn(name: str, tmp_path: Path) -> None:
    wires = {wire: WIRES[wire] for wire in ("10gbit", "100mbit")}
    question = Question(
        profile=PROFILES[name], wires=wires, workers=(2, 4), rules=("state", "sync-ps", "local"), steps=5
    )
    file = draw(question, answer(question), tmp_path / "deep" / "efficiency.png", "a caption")
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size > 20_000
