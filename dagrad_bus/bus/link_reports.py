"""What the links of a worker have carried, counted where it happens, and told to whoever asks (LINKS_REQ)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dagrad_bus.bus.contact import Contact
from dagrad_bus.ids import NodeId
from dagrad_bus.link import State
from dagrad_bus.wire import MAX_LINKS, NEVER_HEARD, LinkPhase, LinkReport, LinkRole, Links, LinksReq

SOONEST = 0.2
"""Seconds between two answers to one asker: a short question has a long answer."""
_PHASES = {state: LinkPhase[state.name] for state in State}
_U16, _U32 = 0xFFFF, 0xFFFF_FFFF


def answer(
    asker: Contact, message: LinksReq, contacts: Iterable[Contact], waiting: Callable[[NodeId], int], now: float
) -> list[Links]:
    """Return what to send to ``asker``; nothing where it asks again too soon.

    Args:
        asker: member or visitor.
        message: the question.
        contacts: all of this worker's.
        waiting: returns how many frames of a peer wait to be mixed.
        now: seconds.
    """
    if now - asker.tally.told_at < SOONEST:
        return []
    asker.tally.told_at = now
    reports = [_report(one, waiting(one.peer), now) for one in contacts if one.has_link or one.incoming is not None]
    lots = [tuple(reports[at : at + MAX_LINKS]) for at in range(0, len(reports), MAX_LINKS)] or [()]
    return [Links(message.nonce, len(reports), lot) for lot in lots]


def _report(contact: Contact, queued: int, now: float) -> LinkReport:
    tally, out = contact.tally, contact.out
    heard = NEVER_HEARD if tally.heard_at is None else min(NEVER_HEARD - 1, round((now - tally.heard_at) * 1000))
    return LinkReport(
        peer=contact.peer,
        role=_role(contact),
        phase=_PHASES[out.state],
        accepted=tally.accepted,
        lost=tally.lost,
        in_flight=min(_U16, out.in_flight),
        received=tally.received,
        refused=tally.refused,
        queued=max(0, min(_U32, queued)),  # put and taken are counted on two threads
        bytes_sent=tally.bytes_sent,
        bytes_received=tally.bytes_received,
        rtt_us=min(_U32, round(out.srtt * 1e6)),
        delay_ms=min(_U32, round(tally.delay * 1000)),
        heard_ms=max(0, heard),
    )


def _role(contact: Contact) -> LinkRole:
    if contact.is_neighbour:
        return LinkRole.NEIGHBOUR
    if contact.closing_at is not None:
        return LinkRole.FORMER
    return LinkRole.EXPLORED if contact.explored_until else LinkRole.INCOMING
