"""A group of subcommands that are imported when they are called: ``--help`` loads none of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

Table = Mapping[str, tuple[str, str]]
"""Subcommand: where it is, as ``module:attribute``, and its line in ``--help``."""


class LazyGroup(click.Group):
    """A group over a table of subcommands.

    Args:
        table: the subcommands, in the order of ``--help``.
        rest: as :class:`click.Group` takes them.
    """

    def __init__(self, *, table: Table, **rest: Any) -> None:
        super().__init__(**rest)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand; None if there is none of that name."""
        if cmd_name not in self.table:
            return None
        module, _, attribute = self.table[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])
