"""``dagrad peers``: the live graph, and what each of its links carries."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from statistics import median
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

    from dagrad_bus.bus.survey import Picture, Sighting, Survey
    from dagrad_bus.wire import LinkReport

_EXPENDABLE = ("in flight", "queue", "refused", "alike", "in", "out", "heard", "age", "got", "rtt")
"""Columns that a narrow terminal goes without, the first one first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link as one end sees it. None: that end told nothing about it."""

    worker: str
    peer: str
    role: str
    """``neighbour``, ``former``, ``explored`` or ``incoming`` (the peer wants it)."""
    state: str | None = None
    """``up``, ``greeting``, ``stalled``, ``refused`` or ``down``."""
    flaw: str = ""
    """What is wrong: ``one-sided``, ``unreachable``, or its state."""
    accepted: int | None = None
    """Frames sent that the peer took."""
    lost: int | None = None
    in_flight: int | None = None
    received: int | None = None
    refused: int | None = None
    queued: int | None = None
    """Frames of the peer that wait to be mixed."""
    bytes_sent: int | None = None
    bytes_received: int | None = None
    rtt: float | None = None
    """Seconds, smoothed."""
    delay: float | None = None
    """Seconds from reading values at the peer to taking their frame here, smoothed."""
    age: float | None = None
    """The same in this worker's own steps."""
    heard: float | None = None
    """Seconds since the peer's last message."""
    cosine: float | None = None
    """Estimated cosine of both ends' own changes."""


@click.command(context_settings=CONTEXT, short_help="Show the live graph.")
@click.argument("words", nargs=-1, metavar="[DIR]")
@click.option("--name", "wanted", multiple=True, metavar="WORKER", help="Links of this worker only. Repeatable.")
@run_options
@form_options
def peers(
    words: tuple[str, ...], wanted: tuple[str, ...], timeout: float, watch: float | None, as_json: bool,
    no_color: bool, **reach: Any,
) -> None:  # fmt: skip
    """Show who exchanges with whom in the live run in DIR, and what each link carries, as its worker counts it.

    Each link stands twice, once for each end. Frames and bytes count since the link's contact began; `sent` frames
    were taken by the peer, `lost` ones were not. `age` is how old the peer's values are on arrival, in steps of the
    worker; `queue`, how many of its frames wait to be mixed; `alike`, the cosine between what both learn by themselves.

    \b
    dagrad peers
    dagrad peers runs/a --name local.3 --watch 1
    dagrad peers runs/a --json | jq '.links[] | select(.flaw != "")'
    dagrad peers --seed node1.example:40113 --run 8f3c2a... --key-file key

    Flaws, in red: one-sided (A exchanges with B, B does not list A), unreachable (the peer is dead or silent), and
    links that are not up.

    Exit code: 0 every link is up and known to both ends; 1 some are not; 2 usage; 3 nobody answers.
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    without_colour(no_color)
    target = find_target(words, **reach)
    names = (*wanted, *target.names)
    if watch is not None:
        timeout = min(timeout, max(watch, 2.5))
    sys.exit(visit(target, lambda: _peers(target, names, timeout, watch, as_json)))


async def _peers(target: Target, names: Collection[str], patience: float, watch: float | None, as_json: bool) -> int:
    from dagrad_bus.bus.survey import open_survey

    if target.approach is None:
        raise AssertionError("a target of this command can be reached")
    async with open_survey(target.approach, patience) as survey:
        survey.find(names)  # a name that is none is told before anything else
        return await show(target, lambda: _look(survey, names, patience), every=watch, as_json=as_json)


async def _look(survey: Survey, names: Collection[str], patience: float) -> Shown:
    picture = await survey.observe(patience, links=True)
    links = [link for link in find_links(picture) if not names or link.worker in names]
    facts = {
        "schema": "dagrad.peers/1",
        "run": picture.run,
        "graph": _spec_facts(picture),
        "not_listened_to": picture.left_out,
        "flaws": sum(bool(link.flaw) for link in links),
        "links": [asdict(link) for link in links],
    }
    return Shown(facts, lambda: draw(links), lambda: verdict(picture, links), NOT_WELL if facts["flaws"] else 0)


def _spec_facts(picture: Picture) -> dict[str, Any]:
    from dagrad_bus.tools.sightings import spec_facts

    return spec_facts(picture.spec)


def find_links(picture: Picture) -> list[Link]:
    """Return each link as each end sees it: what it told, or else what its heartbeat says of its neighbours."""
    from dagrad_bus.tools.sightings import natural

    by_node = {one.record.node: one for one in picture.members}
    by_prefix = {node[:8]: node for node in by_node}
    links: list[Link] = []
    for one in picture.present:
        reports = {report.peer: report for report in one.links or ()}
        listed = {by_prefix[prefix] for prefix in _listed(one) if prefix in by_prefix}
        links += [_link(one, by_node.get(peer), peer, reports.get(peer)) for peer in {*reports, *listed}]
    return sorted(links, key=lambda link: (natural(link.worker), natural(link.peer)))


def _listed(one: Sighting) -> tuple[bytes, ...]:
    return one.beat.neighbours if one.beat is not None else ()


def _link(one: Sighting, other: Sighting | None, peer: bytes, report: LinkReport | None) -> Link:
    """Return a link of ``one``; ``other`` is None for a peer that its table does not know."""
    name = other.record.name if other is not None else peer.hex()[:8]
    if report is None:
        return Link(worker=one.record.name, peer=name, role="neighbour", flaw=_flaw(one, other, "up"))
    role, state = report.role.name.lower(), report.phase.name.lower()
    return Link(
        worker=one.record.name,
        peer=name,
        role=role,
        state=state,
        flaw=_flaw(one, other, state) if role == "neighbour" else "",
        accepted=report.accepted,
        lost=report.lost,
        in_flight=report.in_flight,
        received=report.received,
        refused=report.refused,
        queued=report.queued,
        bytes_sent=report.bytes_sent,
        bytes_received=report.bytes_received,
        rtt=report.rtt_us / 1e6 or None,
        delay=report.delay_ms / 1000 if report.received else None,
        age=report.delay_ms / 1000 * one.beat.rate if report.received and one.beat is not None else None,
        heard=report.heard_ms / 1000 if report.heard_ms < _never() else None,
        cosine=_cosine(one, other),
    )


def _never() -> int:
    from dagrad_bus.wire import NEVER_HEARD

    return NEVER_HEARD


def _flaw(one: Sighting, other: Sighting | None, state: str) -> str:
    if other is None or not other.is_present or (other.is_asked and not other.is_heard):
        return "unreachable"
    if other.beat is not None and other.is_asked and _is_one_sided(one, other):
        return "one-sided"
    return "" if state == "up" else state


def _is_one_sided(one: Sighting, other: Sighting) -> bool:
    """Whether only the first lists the second; a heartbeat names no more than 64 neighbours."""
    from dagrad_bus.wire import MAX_NEIGHBOURS

    listed, mine = _listed(other), _listed(one)
    is_mine = other.record.node[:8] in mine
    return is_mine and len(listed) < MAX_NEIGHBOURS and one.record.node[:8] not in listed


def _cosine(one: Sighting, other: Sighting | None) -> float | None:
    from dagrad_bus.sketch import cosine, is_sketch

    mine = one.beat.sketch if one.beat is not None else b""
    theirs = other.beat.sketch if other is not None and other.beat is not None else b""
    return round(cosine(mine, theirs), 3) if is_sketch(mine) and is_sketch(theirs) else None


def draw(links: Sequence[Link]) -> Table:
    """Return the table."""
    firsts = {link.worker: link for link in reversed(links)}
    lead: list[Column] = [
        ("worker", lambda one: one.worker if firsts[one.worker] is one else ""),
        ("peer", lambda one: one.peer),
        ("link", _state),
    ]
    has_sketches = any(link.cosine is not None for link in links)
    columns = [column for column in _columns() if has_sketches or column[0] != "alike"]
    return fitting_table(lead, columns, links, _EXPENDABLE, wide_console().width)


def _columns() -> list[Column]:
    from dagrad_bus.tools.tables import format_number as number
    from dagrad_bus.tools.tables import format_size as size

    return [
        ("sent", lambda one: number(one.accepted, 0)),
        ("lost", lambda one: number(one.lost, 0)),
        ("out", lambda one: size(one.bytes_sent)),
        ("in flight", lambda one: number(one.in_flight, 0)),
        ("got", lambda one: number(one.received, 0)),
        ("refused", lambda one: number(one.refused, 0)),
        ("in", lambda one: size(one.bytes_received)),
        ("queue", lambda one: number(one.queued, 0)),
        ("rtt", lambda one: format_span(one.rtt)),
        ("age", lambda one: number(one.age)),
        ("heard", lambda one: format_span(one.heard)),
        ("alike", lambda one: number(one.cosine, 2)),
    ]


def _state(link: Link) -> Text:
    from rich.text import Text

    if link.flaw:
        return Text(link.flaw, style="bold red")
    if link.role != "neighbour":
        return Text(link.role, style="yellow")
    return Text(link.state or "?", style="green" if link.state else "dim")


def verdict(picture: Picture, links: Sequence[Link]) -> list[Text]:
    """Return what the table comes to."""
    from rich.text import Text

    from dagrad_bus.tools.sightings import describe_spec
    from dagrad_bus.wire import MemberState

    flawed = [link for link in links if link.flaw]
    rtts = [link.rtt for link in links if link.rtt is not None]
    ends = [link for link in links if link.role == "neighbour"]
    said = [f"{len({link.worker for link in links})} workers, {len(ends)} ends of links", describe_spec(picture.spec)]
    if rtts:
        said.append(f"round trip {format_span(median(rtts))} (median), {format_span(max(rtts))} (longest)")
    lines = [Text(" " + "; ".join(said), style="bold red" if flawed else "green")]
    for kind in sorted({link.flaw for link in flawed}):
        some = [f"{link.worker} -> {link.peer}" for link in flawed if link.flaw == kind]
        lines.append(Text(f" {kind}: {', '.join(some[:8])}{', ...' if len(some) > 8 else ''}", style="bold red"))
    if gone := [one.record.name for one in picture.members if one.record.state is MemberState.DEAD]:
        lines.append(
            Text(f" dead, without links: {', '.join(gone[:8])}{', ...' if len(gone) > 8 else ''}", style="yellow")
        )
    if any(link.state is None for link in links):
        lines.append(Text(" links without numbers: their worker did not tell (an earlier release?)", style="yellow"))
    if picture.left_out:
        lines.append(Text(f" a sample was heard: {picture.left_out} members were not listened to", style="yellow"))
    return lines
