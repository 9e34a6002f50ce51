from __future__ import annotations

import pytest
from click.testing import CliRunner

from dagrad_bus.tools.bench import COMMANDS, bench


@pytest.mark.parametrize("name", COMMANDS)
def test_every_comparison_has_help(name: str) -> None:
    done = CliRunner().invoke(bench, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "--json" in done.output
