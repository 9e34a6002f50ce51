"""The rules of the house that no linter checks."""

from __future__ import annotations

import ast
import re
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"dagrad_bus": "", "topology": "topology", "workers": "workers", "tools": "tools"}
"""Real folder of each part, and where its tests stand below ``tests``."""
UNTESTED = {
    "dagrad_bus/attach/port.py",  # a Protocol
}
WHOLE = {"tests/test_docs.py", "tests/test_house.py", "tests/test_packaging.py", "tests/test_readme.py"}
"""Tests of no single source file; so are those below these folders:"""
WHOLE_FOLDERS = ("tests/sim/", "tests/faults/", "tests/fuzz/", "tests/runs/", "tests/cluster/", "tests/benchmarks/")
LONGEST, LONG, SHORT_SHARE = 60, 30, 0.9
FILE_LINES = 400
FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager"}
FORBIDDEN_TEXT = (r"\bloop\.create_task\b", r"\bTODO\b", r"\bFIXME\b", r"\bXXX\b", r"(?<![\w.])/(?:work|home|root)/")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _sources() -> list[Path]:
    """Return the package's files by their real paths (the links would list some twice)."""
    found = chain.from_iterable((ROOT / folder).rglob("*.py") for folder in PACKAGES)
    return sorted(path for path in found if not any(parent.is_symlink() for parent in path.parents))


def _tests() -> list[Path]:
    return sorted((ROOT / "tests").rglob("test_*.py"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _body_lines(function: Function) -> int:
    """Return how many lines a function has from ``def`` to its end, its docstring apart."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        first = function.body[0]
        assert first.end_lineno is not None
        lines -= first.end_lineno - first.lineno + 1
    return lines


def _functions(paths: list[Path]) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Function):
                found[f"{_name(path)}:{node.lineno} {node.name}"] = _body_lines(node)
    return found


def _test_of(source: str) -> str:
    """Return where the tests of a source file stand."""
    folder, _, rest = source.partition("/")
    path = Path("tests", PACKAGES[folder], rest)
    return path.with_name(f"test_{path.name}").as_posix()


def test_no_function_is_longer_than_the_limit() -> None:
    long = {name: lines for name, lines in _functions([*_sources(), *_tests()]).items() if lines > LONGEST}
    assert not long, f"over {LONGEST} lines: {long}"


def test_nine_functions_in_ten_are_short() -> None:
    lengths = _functions(_sources())
    long = {name: lines for name, lines in lengths.items() if lines > LONG}
    assert len(long) <= (1 - SHORT_SHARE) * len(lengths), f"over {LONG} lines: {long}"


def test_a_file_over_the_limit_says_why() -> None:
    for path in _sources():
        text = path.read_text()
        reason = ast.get_docstring(ast.parse(text)) or ""
        lines = len(text.splitlines())
        assert lines <= FILE_LINES or f"over {FILE_LINES} lines because" in reason.lower(), f"{_name(path)}: {lines}"


def test_no_file_is_named_by_a_word_that_says_nothing() -> None:
    assert not [_name(path) for path in _sources() if path.stem in FORBIDDEN_NAMES]


def test_no_source_holds_a_forbidden_text() -> None:
    for path in _sources():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for pattern in FORBIDDEN_TEXT:
                assert not re.search(pattern, line), f"{_name(path)}:{number}: {line.strip()}"


def test_every_source_file_has_its_test_file() -> None:
    sources = {_name(path) for path in _sources() if not path.stem.startswith("__")} - UNTESTED
    missing = {source: _test_of(source) for source in sources if not (ROOT / _test_of(source)).exists()}
    assert not missing


def test_every_test_file_has_its_source_file() -> None:
    wanted = {_test_of(_name(path)) for path in _sources()}
    tests = {_name(path) for path in _tests()} - WHOLE
    assert not {test for test in tests if not test.startswith(WHOLE_FOLDERS)} - wanted


def test_tests_import_nothing_from_tests() -> None:
    for path in _tests():
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{_name(path)}:{node.lineno}: a relative import"
                modules = [node.module or ""]
            assert not [m for m in modules if m.split(".")[0] in {"tests", "conftest"}], _name(path)
