"""``dagrad status``: how a live run is, a line a worker."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from dagrad_bus.tools.visiting import (
    CONTEXT,
    NOT_WELL,
    Column,
    Shown,
    Target,
    find_target,
    fitting_table,
    form_options,
    format_span,
    run_options,
    show,
    visit,
    wide_console,
    without_colour,
)

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from dagrad_bus.bus.survey import Survey
    from dagrad_bus.tools.sightings import Member, Status

STYLES = {"alive": "green", "syncing": "cyan", "leaving": "yellow", "left": "dim", "expected": "dim"}
"""All other states are red."""
_FROM_JOURNALS = ("loss", "sent/step")
_EXPENDABLE = ("address", "knows", "health", "lag", "sent/step", "peers", "last step", "rtt", "loss", "behind", "heard")
"""Columns that a narrow terminal goes without, the first one first."""


@click.command(context_settings=CONTEXT, short_help="Show how a live run is.")
@click.argument("words", nargs=-1, metavar="[DIR]")
@run_options
@form_options
def status(
    words: tuple[str, ...], timeout: float, watch: float | None, as_json: bool, no_color: bool, **reach: Any
) -> None:
    """Show how the live run in DIR is: a line a worker, and whether all is well.

    Nobody's memory is asked but the workers' own: one tells its member table, all of them are pinged and their
    heartbeats heard (of more than 64, a sample). Journals in DIR add loss and traffic. Without DIR it is the newest
    run below runs/; from another host, where the folder is not at hand, name any worker by --seed.

    \b
    dagrad status
    dagrad status runs/a --watch 2
    dagrad status runs/a --json | jq -r '.members[] | select(.state == "dead") | .name'
    dagrad status --seed node1.example:40113 --run 8f3c2a... --key-file key

    States: alive; syncing (copies its neighbours' model); leaving, left; expected (launched, not heard of yet);
    and what makes the exit code 1: suspect (some worker does not hear it), silent (it does not answer here), dead,
    wedged (it lives, but trains no more).

    Exit code: 0 all well; 1 a worker failed, or tables or graphs differ; 2 usage; 3 nobody answers (is the run over?).
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    without_colour(no_color)
    target = find_target(words, **reach)
    if target.names:
        raise click.UsageError(f"dagrad status takes one run folder, not {target.names[0]!r} too")
    if watch is not None:
        timeout = min(timeout, max(watch, 2.5))
    sys.exit(visit(target, lambda: _status(target, timeout, watch, as_json)))


async def _status(target: Target, patience: float, watch: float | None, as_json: bool) -> int:
    from dagrad_bus.bus.survey import open_survey

    if target.approach is None:
        raise AssertionError("a target of this command can be reached")
    async with open_survey(target.approach, patience) as survey:
        return await show(target, lambda: _look(target, survey, patience), every=watch, as_json=as_json)


async def _look(target: Target, survey: Survey, patience: float) -> Shown:
    from dagrad_bus.tools.sightings import make_status, read_latest

    picture = await survey.observe(patience)
    roster: list[str] = []
    if target.folder is not None:
        roster = [str(name) for name in target.folder.read_run()["workers"]]
    names = list(dict.fromkeys([*roster, *(one.record.name for one in picture.members)]))
    records = read_latest(target.folder, names) if target.folder is not None else {}
    found = make_status(picture, records, roster)
    return Shown(found.to_json(), lambda: draw(found), lambda: verdict(found), 0 if found.is_well else NOT_WELL)


def draw(found: Status) -> Table:
    """Return the table."""
    lead: list[Column] = [("worker", lambda one: one.name), ("state", lambda one: state_text(one.state))]
    has_journals = any(one.bytes_per_step is not None for one in found.members)
    columns = [column for column in _columns() if has_journals or column[0] not in _FROM_JOURNALS]
    return fitting_table(lead, columns, found.members, _EXPENDABLE, wide_console().width)


def _columns() -> list[Column]:
    from dagrad_bus.tools.tables import format_number as number
    from dagrad_bus.tools.tables import format_size as size

    return [
        ("step", lambda one: number(one.step, 0)),
        ("steps/s", lambda one: number(one.rate)),
        ("behind", lambda one: number(one.behind, 0).replace("-0", "0")),
        ("last step", lambda one: format_span(one.last_step)),
        ("loss", lambda one: number(one.loss, 4)),
        ("heard", lambda one: format_span(one.beat_age)),
        ("rtt", lambda one: format_span(one.rtt)),
        ("peers", lambda one: "-" if one.neighbours is None else str(len(one.neighbours))),
        ("sent/step", lambda one: size(one.bytes_per_step)),
        ("lag", lambda one: "-" if one.lag_ms is None else format_span(one.lag_ms / 1000)),
        ("health", lambda one: number(one.health, 0)),
        ("knows", lambda one: number(one.members, 0)),
        ("address", lambda one: one.address or "-"),
    ]


def state_text(state: str) -> Text:
    """Return a state in its colour."""
    from rich.text import Text

    return Text(state, style=STYLES.get(state, "bold red"))


def verdict(found: Status) -> list[Text]:
    """Return what the table comes to."""
    from rich.text import Text

    from dagrad_bus.tools.sightings import describe_spec

    groups: dict[str, list[Member]] = {}
    for member in found.members:
        groups.setdefault(member.state, []).append(member)
    said = [f"{len(some)} {state}" + _who(state, some) for state, some in groups.items()]
    steps = found.steps
    parts = [", ".join(said)]
    if steps is not None:
        parts.append(f"steps {steps[0]} to {steps[1]}")
    parts.append(describe_spec(found.spec))
    if found.consensus is not None:
        parts.append(f"consensus distance {found.consensus:.3f}")
    lines = [Text(" " + "; ".join(parts), style="green" if found.is_well else "bold red")]
    if found.dissenters:
        names = ", ".join(one.name for one in found.dissenters)
        lines.append(Text(f" tables or graphs differ: {names} does not agree with most", style="bold red"))
    elif len(found.heard) > 1:
        lines.append(Text(f" all {len(found.heard)} heard agree on members and graph", style="dim"))
    if found.left_out:
        lines.append(Text(f" a sample was heard: {found.left_out} members were not listened to", style="yellow"))
    return lines


def _who(state: str, some: list[Member]) -> str:
    """Return who it is, of states that are worth a name."""
    if state == "alive" or len(some) > 8:
        return ""
    return f" ({', '.join(one.name for one in some)})"
