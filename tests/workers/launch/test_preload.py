from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dagrad_bus.workers.launch.command import Command
from dagrad_bus.workers.launch.preload import DEFAULT_PRELOAD, choose_preload

SCRIPT = Command("script", "train.py", (), ("python", "-u", "train.py"))
OWN = Command("module", "dagrad_bus.workers.digits", (), ("python", "-u", "-m", "dagrad_bus.workers.digits"))


def test_the_usual_modules_and_the_users() -> None:
    assert choose_preload(SCRIPT, ()) == DEFAULT_PRELOAD
    assert choose_preload(SCRIPT, ("json,csv", "numpy")) == (*DEFAULT_PRELOAD, "json", "csv")
    assert choose_preload(OWN, ()) == (*DEFAULT_PRELOAD, OWN.target)


def test_none_drops_the_usual_ones() -> None:
    assert choose_preload(OWN, ("none",)) == ()
    assert choose_preload(SCRIPT, ("none,json",)) == ("json",)


PROGRAM = """
import sys
before = set(sys.modules)
import time, torch, dagrad_bus
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with dagrad_bus.attach(model, optimizer) as bus:
    for _ in range(40):  # long enough for a frame of the other
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        time.sleep(0.05)
print("imported late:", sorted(name for name in set(sys.modules) - before if name.startswith("dagrad_bus")))
"""


@pytest.mark.slow
def test_a_worker_that_attaches_imports_nothing_of_ours_by_itself(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    words = ["run", "-n", "2", "--no-figures", "--progress", "none", "--dir", str(tmp_path / "run"), "train.py"]
    subprocess.run([sys.executable, "-m", "dagrad_bus.tools.cli", *words], cwd=tmp_path, check=True, timeout=60)
    said = [(tmp_path / "run" / "logs" / f"local.{slot}.log").read_text() for slot in range(2)]
    assert said == ["imported late: []\n"] * 2
