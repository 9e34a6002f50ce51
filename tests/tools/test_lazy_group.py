from __future__ import annotations

import sys

import click
from click.testing import CliRunner

from dagrad_bus.tools.lazy_group import LazyGroup

TABLE = {"one": ("dagrad_bus.tools.report:report", "Show one."), "lost": ("no_such_module:none", "Not there.")}


def _group() -> click.Group:
    @click.group(cls=LazyGroup, table=TABLE)
    def many() -> None:
        """Many."""

    return many


def test_help_lists_the_table_and_imports_nothing() -> None:
    said = CliRunner().invoke(_group(), ["--help"]).output
    assert said.index("one") < said.index("lost")
    assert "no_such_module" not in sys.modules


def test_a_subcommand_is_imported_when_it_is_called() -> None:
    assert "Usage" in CliRunner().invoke(_group(), ["one", "--help"]).output


def test_an_unknown_subcommand_is_a_usage_error() -> None:
    assert CliRunner().invoke(_group(), ["two"]).exit_code == 2
