from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.extras import load_from_hub, need


def test_a_library_that_is_there_is_imported() -> None:
    assert need("math") is math


@pytest.mark.parametrize(("name", "library"), [("PIL.Image", "pillow"), ("tokenizers", "tokenizers")])
def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, name: str, library: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"^{library} is missing .*pip install 'dagrad-bus\[workloads\]'$"):
        need(name)


def test_without_the_hubs_library_files_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"nyu-mll/glue comes from the hub by .*pass --data-dir"):
        load_from_hub("nyu-mll/glue", "rte")


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*words: str) -> object:
        if words == ("nyu-mll/glue", "rte"):
            return {"train": [1]}
        raise ConnectionError("no route\nand much more")

    library = ModuleType("datasets")
    library.__dict__["load_dataset"] = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    assert load_from_hub("nyu-mll/glue", "rte") == {"train": [1]}
    with pytest.raises(UsageError) as caught:
        load_from_hub("elsewhere")
    assert str(caught.value) == "elsewhere cannot be had from the hub (no route): pass --data-dir with files"
