"""``dagrad ping``: round trips to the workers of a live run, by the bus's own PING and PONG."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from dagrad_bus.tools.visiting import (
    CONTEXT,
    NOBODY,
    NOT_WELL,
    Target,
    find_target,
    format_span,
    run_options,
    visit,
    wide_console,
    without_colour,
)

if TYPE_CHECKING:
    from rich.table import Table

    from dagrad_bus.bus.survey import Survey
    from dagrad_bus.ids import NodeId
    from dagrad_bus.wire import Record

PATIENCE = 1.0
"""Seconds that a PONG may take."""
_MOST_TALKED = 8
"""Workers of which each answer is a line of its own."""


@dataclass(slots=True)
class Tally:
    """The round trips to one worker."""

    name: str
    address: str
    sent: int = 0
    rtts: list[float] = field(default_factory=list[float])
    """Seconds, of the PINGs that were answered."""

    @property
    def loss(self) -> float:
        """Share of the PINGs without an answer."""
        return 1 - len(self.rtts) / self.sent if self.sent else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; times in seconds."""
        rtts = self.rtts
        return {
            "name": self.name,
            "address": self.address,
            "sent": self.sent,
            "received": len(rtts),
            "loss": round(self.loss, 4),
            "rtt": {"min": min(rtts), "median": median(rtts), "max": max(rtts)} if rtts else None,
        }


@click.command(context_settings=CONTEXT, short_help="Measure round trips to workers.")
@click.argument("words", nargs=-1, metavar="[DIR] [NAME]...")
@click.option("-c", "--count", type=click.IntRange(0), default=4, show_default=True, metavar="N",
              help="PINGs to each worker; 0: until Ctrl-C.")  # fmt: skip
@click.option("-i", "--interval", type=click.FloatRange(0.01, 3600), default=1.0, show_default=True, metavar="S",
              help="Seconds between two.")  # fmt: skip
@run_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object, at the end.")
@click.option("--no-color", is_flag=True, help="No colours; NO_COLOR in the environment does the same.")
def ping(
    words: tuple[str, ...], count: int, interval: float, timeout: float, as_json: bool, no_color: bool, **reach: Any
) -> None:
    """Send PINGs to the workers NAME (or to all) of the live run in DIR, and show how long their PONGs take.

    The time is that of the whole way: out to the worker's bus thread, and back over a connection of its own. A worker
    whose loop is held, or whose host swaps, shows here. Of more than 64 workers a sample is asked.

    \b
    dagrad ping
    dagrad ping runs/a local.2 --count 20 --interval 0.2
    dagrad ping local.0 local.1                       # of the newest run below runs/
    dagrad ping --seed node1.example:40113 --run 8f3c2a... --key-file key

    Exit code: 0 all answered; 1 some did not answer at all; 2 usage; 3 none did.
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    without_colour(no_color)
    target = find_target(words, **reach)
    tallies: dict[NodeId, Tally] = {}
    code = visit(target, lambda: _ping(target, tallies, count, interval, timeout, as_json=as_json))
    if tallies:  # after Ctrl-C too
        code = exit_code(list(tallies.values()))
        _report(list(tallies.values()), as_json=as_json)
    sys.exit(code)


async def _ping(
    target: Target, tallies: dict[NodeId, Tally], count: int, interval: float, patience: float, *, as_json: bool
) -> int:
    from dagrad_bus.bus.survey import open_survey

    if target.approach is None:
        raise AssertionError("a target of this command can be reached")
    async with open_survey(target.approach, patience) as survey:
        records = survey.find(target.names)
        nodes = await survey.connect(records, PATIENCE)
        _begin(tallies, records, nodes)
        is_talkative = not as_json and len(tallies) <= _MOST_TALKED
        number = 0
        while not count or number < count:
            number += 1
            began = time.monotonic()
            await _round(survey, tallies, number, is_talkative=is_talkative)
            if number != count:
                await asyncio.sleep(max(0.0, began + interval - time.monotonic()))
    return 0


def _begin(tallies: dict[NodeId, Tally], records: Sequence[Record], nodes: Sequence[NodeId]) -> None:
    """Make a line for each worker that is asked, and for each that has no address."""
    from dagrad_bus.tools.sightings import natural

    for record in sorted(records, key=lambda record: natural(record.name)):
        if record.node in nodes or not record.inbox:
            tallies[record.node] = Tally(record.name, record.inbox.removeprefix("tcp://"))
    if left := len(records) - len(tallies):
        click.echo(f"dagrad: {left} more workers are not asked: name them to ask them", err=True)


async def _round(survey: Survey, tallies: Mapping[NodeId, Tally], number: int, *, is_talkative: bool) -> None:
    answers = await survey.ping(list(tallies), PATIENCE)
    for node, tally in tallies.items():
        tally.sent += 1
        rtt = answers[node]
        if rtt is not None:
            tally.rtts.append(rtt)
        if is_talkative:
            said = f"time={format_span(rtt)}" if rtt is not None else "no answer"
            click.echo(f"{tally.name} ({tally.address or 'no address'}): seq={number} {said}")


def exit_code(tallies: Sequence[Tally]) -> int:
    """Return 0 if each worker answered, 3 if none did, else 1."""
    answered = sum(bool(tally.rtts) for tally in tallies)
    return 0 if answered == len(tallies) else NOT_WELL if answered else NOBODY


def _report(tallies: Sequence[Tally], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"schema": "dagrad.ping/1", "workers": [one.to_json() for one in tallies]}, indent=2))
    else:
        wide_console().print(draw(tallies))


def draw(tallies: Sequence[Tally]) -> Table:
    """Return the table of the round trips."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("worker", no_wrap=True)
    for heading in ("sent", "answered", "loss", "min", "median", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in tallies:
        style = "green" if one.loss == 0 else "yellow" if one.rtts else "bold red"
        times = [format_span(pick(one.rtts)) if one.rtts else "-" for pick in (min, median, max)]
        loss = Text(f"{100 * one.loss:.0f} %", style=style)
        table.add_row(one.name, str(one.sent), str(len(one.rtts)), loss, *times)
    return table
