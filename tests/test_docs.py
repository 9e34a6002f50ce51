"""The documents agree with the project: links lead somewhere, settings, options and counters are described."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

from dagrad_bus import settings
from dagrad_bus.errors import SettingsError
from dagrad_bus.settings import (
    PREFIX,
    BeatSettings,
    ExchangeSettings,
    LinkSettings,
    Settings,
    TransportSettings,
    from_environment,
)
from dagrad_bus.tools.cli import COMMANDS, dagrad
from dagrad_bus.tools.lazy_group import LazyGroup
from dagrad_bus.wire import MessageType

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
API = (ROOT / "docs" / "api.md").read_text()
README = (ROOT / "README.md").read_text()
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FORBIDDEN = re.compile(r"(?<![\w.])/(?:work|home|root|tmp)/|\bTODO\b|\bFIXME\b")
GROUPS = (Settings, ExchangeSettings, LinkSettings, BeatSettings, TransportSettings)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _anchors(path: Path) -> set[str]:
    """Return the names that a browser of the repository gives to the headings."""
    prose = FENCE.sub("", path.read_text())
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    for target in LINK.findall(FENCE.sub("", document.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), f"{_name(document)}: {target}"
        if anchor:
            assert anchor in _anchors(found), f"{_name(document)}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_no_document_holds_a_forbidden_text(document: Path) -> None:
    assert not FORBIDDEN.search(document.read_text())


def test_every_document_is_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        seen.add(document)
        targets = [target.partition("#")[0] for target in LINK.findall(document.read_text())]
        found = [(document.parent / target).resolve() for target in targets if target.endswith(".md")]
        waiting += [path for path in found if path.exists() and path not in seen]
    assert not {_name(path) for path in DOCUMENTS} - {_name(path) for path in seen}


def _known_variables() -> set[str]:
    """Return every name of the environment that the settings accept."""
    with pytest.raises(SettingsError) as refused:
        from_environment({f"{PREFIX}NOSUCH": "1"})
    assert "unknown" in str(refused.value)
    return {PREFIX + name for name in (*settings._EXCHANGE, *settings._PLAIN, *settings._FOREIGN)}


def test_every_variable_is_described() -> None:
    assert not {name for name in _known_variables() if f"`{name}`" not in API}


def test_no_variable_is_described_that_is_none() -> None:
    described = set(re.findall(rf"`({PREFIX}[A-Z0-9_]+)`", API + README)) - {PREFIX}
    assert not described - _known_variables()


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_every_field_of_the_settings_is_described(group: type) -> None:
    assert not {field.name for field in fields(group) if f"`{field.name}`" not in API}


def test_defaults_are_those_of_the_settings() -> None:
    for group in (ExchangeSettings, LinkSettings):
        for field in fields(group):
            row = next(line for line in API.splitlines() if line.startswith(f"| `{field.name}` |"))
            assert row.split("|")[2].strip(" `") == str(field.default), row


def test_every_subcommand_and_option_is_described() -> None:
    assert isinstance(dagrad, LazyGroup)
    context = click.Context(dagrad)
    found = {name: dagrad.get_command(context, name) for name in COMMANDS}
    for name, command in list(found.items()):
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": command.get_command(context, sub) for sub in command.list_commands(context)}
    for name, command in found.items():
        assert f"### dagrad {name}\n" in API
        assert command is not None
        options = [word for option in command.params if isinstance(option, click.Option) for word in option.opts]
        missing = [word for word in options if not re.search(rf"`{word}[` ]|[/\[]{word}[/\]]", API)]
        assert not missing, name


def test_every_message_of_the_wire_is_described() -> None:
    wire = (ROOT / "docs" / "wire.md").read_text()
    assert not [m.name for m in MessageType if f"| 0x{m:02x} | {m.name} |" not in wire]


def test_every_counter_and_gauge_is_described() -> None:
    sources = sorted((ROOT / "dagrad_bus").rglob("*.py"))
    names = {
        name
        for path in sources
        for name in re.findall(r"\.(?:count|gauge|observe)\(\s*\"([a-z_]+)[\".]", path.read_text())
    }
    assert len(names) > 20
    assert not {name for name in names if f"`{name}" not in API}
