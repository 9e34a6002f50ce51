from __future__ import annotations

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
