from __future__ import annotations

import ast
from itertools import chain
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab import rivals
from dagrad_bus.lab.rivals.systems import OWN, REFERENCE, SYSTEMS, System, find_systems

FOLDER = Path(rivals.__file__).parent


def test_all_systems_are_meant_where_none_is_named_and_the_reference_comes_first() -> None:
    assert [system.name for system in find_systems([])] == list(SYSTEMS)
    assert [system.name for system in find_systems(["ddp"])] == [REFERENCE, "ddp"]


def test_an_unknown_system_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no system horovod: there are local, dagrad, ddp"):
        find_systems(["ddp", "horovod"])


def test_every_release_is_pinned() -> None:
    for system in SYSTEMS.values():
        assert all("==" in word or "<" in word for word in system.requirements)
        assert bool(system.environment) == bool(system.requirements)


@pytest.mark.parametrize("system", [system for system in SYSTEMS.values() if system.name != OWN], ids=lambda s: s.name)
def test_a_driver_imports_nothing_that_is_not_copied_with_it(system: System) -> None:
    for file in ("task.py", f"{system.driver}.py"):
        nodes = list(ast.walk(ast.parse((FOLDER / file).read_text())))
        named = chain.from_iterable(node.names for node in nodes if isinstance(node, ast.Import))
        modules = {alias.name for alias in named}
        modules |= {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not [name for name in modules if name.startswith("dagrad_bus")]
        assert [name for name in modules if name.startswith(".")] in ([], [".task"])
