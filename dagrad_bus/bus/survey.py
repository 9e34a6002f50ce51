"""A look at a whole live run: one worker's table, everybody's heartbeats, round trips, and what the links carry.

::

    async with open_survey(approach, patience=5.0) as survey:
        picture = await survey.observe(patience=3.0, links=True)
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random

from dagrad_bus.bus.approach import Approach
from dagrad_bus.bus.visit import POLL, Visit
from dagrad_bus.bus.visitor import LiveRun, enter, live_run, look
from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId
from dagrad_bus.messages import TELLS_LINKS
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.wire import Heartbeat, LinkReport, LinksReq, MemberState, Record

MOST = 64
"""Members connected to at a time; of a larger run a sample is heard."""
ASK_LINKS = 0.5
"""Seconds after which a question about links is asked again; workers answer one in 0.2 s."""
STALE = 4.0
"""Seconds after which a heartbeat says nothing about now."""
SETTLE = 2.5
"""Seconds that tables which differ are given to agree, as they do after any change."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One member, as this visitor saw it."""

    record: Record
    """What the worker that was asked believes of it."""
    is_asked: bool
    """Whether this visitor listened to it at all."""
    beat: Heartbeat | None = None
    """Its last heartbeat."""
    beat_age: float = math.inf
    """Seconds since then."""
    rtt: float | None = None
    """Seconds of the last PING and its PONG; None: it did not answer."""
    links: tuple[LinkReport, ...] | None = None
    """None: not asked, or not answered, or an earlier release."""

    @property
    def is_present(self) -> bool:
        """Whether it is believed to take part."""
        return self.record.state in {MemberState.ALIVE, MemberState.SUSPECT}

    @property
    def is_heard(self) -> bool:
        """Whether it showed that it lives."""
        return self.beat is not None or self.rtt is not None


@dataclass(frozen=True, slots=True)
class Picture:
    """A run at one moment."""

    run: str
    told_by: str
    """Whose table it is."""
    spec: TopologySpec
    members: tuple[Sighting, ...]
    """All that were ever heard of, sorted by name."""

    @property
    def present(self) -> tuple[Sighting, ...]:
        """Those that take part, as far as the asked worker knows."""
        return tuple(one for one in self.members if one.is_present)

    @property
    def left_out(self) -> int:
        """How many of them were not listened to because there are too many."""
        return sum(not one.is_asked for one in self.present)

    @property
    def digests(self) -> frozenset[int]:
        """Digests of table and spec that are going round; one: all agree."""
        return frozenset(one.beat.digest for one in self.members if one.beat is not None)

    @property
    def spec_versions(self) -> frozenset[int]:
        """Versions of the spec that are going round."""
        return frozenset(one.beat.spec_version for one in self.members if one.beat is not None)


class Survey:
    """A visit that stays; made by :func:`open_survey`, used on its loop."""

    def __init__(self, visit: Visit, approach: Approach) -> None:
        self._visit = visit
        self._approach = approach
        self._loop = asyncio.get_running_loop()
        self._chance = Random()  # whom of a large run to listen to
        self._sample: frozenset[NodeId] = frozenset()
        self._asked = 0

    @property
    def run(self) -> LiveRun:
        """Table and spec as known by now."""
        return live_run(self._visit, self._approach)

    def find(self, names: Collection[str]) -> list[Record]:
        """Return the members of these names, or all present ones where none is given.

        Raises:
            UsageError: nobody has such a name; the message says who is there.
        """
        run = self.run
        known = {record.name: record for record in run.members}
        if unknown := [name for name in names if name not in known]:
            some = ", ".join(list(known)[:8]) + (", ..." if len(known) > 8 else "")
            raise UsageError(f"no worker is called {unknown[0]!r}: there are {some}")
        return [known[name] for name in names] if names else list(run.present)

    async def observe(self, patience: float, *, only: Collection[str] = (), links: bool = False) -> Picture:
        """Listen to the members until each has spoken, and return what was seen.

        Args:
            patience: seconds, for all of it.
            only: names to listen to; empty: all present.
            links: ask what their links carry, too.
        """
        began = self._loop.time()
        until = began + patience
        self._refresh()
        nodes = self._choose(self.find(only))
        before = {node: len(self._visit.rtts.get(node, ())) for node in nodes}
        pinged: set[NodeId] = set()
        await self._gather(nodes, pinged, before, began, until, links=links)
        return self._picture(nodes, before, links=links)

    async def _gather(
        self, nodes: list[NodeId], pinged: set[NodeId], before: dict[NodeId, int], began: float, until: float,
        *, links: bool,
    ) -> None:  # fmt: skip
        """Ask, and wait until everything is there or time is up; tables that differ may take a moment to agree."""
        visit = self._visit
        for node in nodes:
            visit.links.pop(node, None)
        asked: dict[NodeId, float] = {}
        while (now := self._loop.time()) < until:
            visit.introduce()
            for node in nodes:
                if node in visit.abilities and node not in pinged and visit.ping(node):
                    pinged.add(node)
                if links:
                    self._ask_links(node, asked, now)
            waiting = [node for node in nodes if node not in visit.gone and not self._is_complete(node, before, links)]
            if not waiting and (self._agree(nodes) or now - began > SETTLE):
                return
            await asyncio.sleep(POLL)

    def _ask_links(self, node: NodeId, asked: dict[NodeId, float], now: float) -> None:
        visit = self._visit
        if (
            not visit.abilities.get(node, 0) & TELLS_LINKS
            or self._has_links(node)
            or now - asked.get(node, 0.0) < ASK_LINKS
        ):
            return
        if visit.transport.send(node, LinksReq(visit.expect_links(node))):
            asked[node] = now

    def _has_links(self, node: NodeId) -> bool:
        parts = self._visit.links.get(node, [])
        return bool(parts) and sum(len(part.reports) for part in parts) >= parts[0].total

    def _is_complete(self, node: NodeId, before: dict[NodeId, int], links: bool) -> bool:
        visit = self._visit
        is_answered = len(visit.rtts.get(node, ())) > before[node]
        return (
            node in visit.beats
            and is_answered
            and (not links or self._has_links(node) or not visit.abilities.get(node, TELLS_LINKS) & TELLS_LINKS)
        )

    def _agree(self, nodes: Iterable[NodeId]) -> bool:
        return len({self._visit.beats[node].message.digest for node in nodes if node in self._visit.beats}) <= 1

    def _choose(self, records: list[Record]) -> list[NodeId]:
        """Return whom to listen to, connected or about to be; of too many a sample that stays as far as it lives."""
        found = {record.node: record for record in records if record.inbox}
        if len(found) > MOST:
            kept = [node for node in found if node in self._sample]
            fresh = [node for node in found if node not in self._sample]
            chosen = [*kept, *self._chance.sample(fresh, min(len(fresh), MOST))][:MOST]
            found = {node: found[node] for node in sorted(chosen)}
        self._sample = frozenset(found)
        transport = self._visit.transport
        for node, record in found.items():
            if transport.address_of(node) is None or node in self._visit.gone:
                transport.connect(node, record.inbox, None)
                self._visit.gone.discard(node)
            transport.listen(node, record.beat or None)
        return list(found)

    def _refresh(self) -> None:
        """Ask somebody who was heard lately for what is new in the table; the answer is for the next look."""
        heard = sorted(self._visit.beats, key=lambda node: -self._visit.beats[node].at)[:8]
        self._asked += 1
        if heard:
            teller = heard[self._asked % len(heard)]
            self._visit.transport.send(teller, self._visit.digest(self._approach.spec))

    def _picture(self, nodes: Collection[NodeId], before: dict[NodeId, int], *, links: bool) -> Picture:
        visit, now, run = self._visit, self._loop.time(), self.run
        seen: list[Sighting] = []
        for record in run.members:
            node = record.node
            beat, rtts = visit.beats.get(node), visit.rtts.get(node, [])[before.get(node, 0) :]
            reports = [report for part in visit.links.get(node, ()) for report in part.reports]
            is_current = beat is not None and beat.message.epoch >= record.epoch and now - beat.at < STALE
            seen.append(
                Sighting(
                    record,
                    node in nodes,
                    beat.message if beat is not None and is_current else None,
                    now - beat.at if beat is not None and is_current else math.inf,
                    rtts[-1] if rtts else None,
                    tuple(reports) if links and self._has_links(node) else None,
                )
            )
        return Picture(self._approach.run, run.told_by, run.spec, tuple(seen))

    async def connect(self, records: Iterable[Record], patience: float) -> list[NodeId]:
        """Connect to members and wait until all of them have answered a greeting, or time is up; return their ids."""
        nodes = self._choose(list(records))
        until = self._loop.time() + patience
        while self._loop.time() < until:
            self._visit.introduce()
            if all(node in self._visit.abilities or node in self._visit.gone for node in nodes):
                break
            await asyncio.sleep(POLL)
        return nodes

    async def ping(self, nodes: Collection[NodeId], patience: float) -> dict[NodeId, float | None]:
        """Send each a PING and wait for the PONGs; return seconds, None for one that did not answer in time."""
        visit = self._visit
        before = {node: len(visit.rtts.get(node, ())) for node in nodes}
        visit.introduce()
        waiting = [node for node in nodes if visit.ping(node)]
        until = self._loop.time() + patience
        while waiting and self._loop.time() < until:
            await asyncio.sleep(0.002)
            visit.introduce()
            waiting = [node for node in waiting if len(visit.rtts.get(node, ())) == before[node]]
        answered = {node: visit.rtts.get(node, [])[before[node] :] for node in nodes}
        return {node: rtts[-1] if rtts else None for node, rtts in answered.items()}


@asynccontextmanager
async def open_survey(approach: Approach, patience: float) -> AsyncGenerator[Survey]:
    """Find a worker of the run and read its table.

    Args:
        approach: where the run is.
        patience: seconds.

    Raises:
        UsageError: no way to the workers.
        NobodyAnswers: no worker answered in time.
    """
    with ExitStack() as stack:
        visit, doors = enter(stack, approach)
        await look(visit, approach, doors, asyncio.get_running_loop().time() + patience)
        yield Survey(visit, approach)
