"""The taxonomy is the tree that its module prints."""

from __future__ import annotations

import re

from dagrad_bus import errors
from dagrad_bus.errors import BusError, RemoteError, UsageError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BusError)]


def test_the_docstring_names_every_error_and_no_other() -> None:
    tree = (errors.__doc__ or "").split("::", 1)[1].rsplit("\n\n", 1)[0]
    assert set(re.findall(r"^[ |+-]*([A-Z]\w+)", tree, re.MULTILINE)) == {kind.__name__ for kind in KINDS}


def test_a_caller_s_fault_is_a_value_error() -> None:
    assert issubclass(UsageError, ValueError)


def test_a_peer_s_fault_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in KINDS if issubclass(kind, RemoteError)]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch("[a-z_]+", code) for code in codes)
