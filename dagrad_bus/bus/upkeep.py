"""What the bus does by the clock beside its cores: the judgement of its own lateness, and the search for peers."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from dagrad_bus.ids import derive_node_id
from dagrad_bus.rendezvous import Address, look_up, names_in
from dagrad_bus.wire import MemberState

if TYPE_CHECKING:
    from dagrad_bus.bus.engine import Engine

LAG_INTERVAL = 0.1
"""Seconds between two looks at how late the loop is."""
LAG_FADE = 0.98
"""The lateness shown is the worst one, fading by this factor a look."""
STALL = 0.5
"""Lateness, in seconds, that counts against this worker's own health."""
SEARCH_FAST, SEARCH_SLOW = 0.05, 1.0
"""Seconds between two searches for addresses: while some neighbour is missing, and afterwards (restarts)."""
CONTACTS = 3
"""Members that one who joins later, or finds none of its neighbours, turns to at a time."""
ASK_OTHERS = 3.0
"""Seconds after which it turns to others: the first ones may be long gone."""


class Upkeep:
    """The periodic tasks of one bus."""

    def __init__(self, bus: Engine) -> None:
        self._bus = bus
        self._looked_at = bus.loop.time()
        self._asked: set[str] = set()
        self._is_outside = True
        self._ask_at = bus.loop.time() + (0.0 if bus.settings.joins else ASK_OTHERS)

    async def watch_lag(self) -> None:
        """Look at the loop's own lateness."""
        while True:
            await asyncio.sleep(LAG_INTERVAL)
            self.judge_lag()

    def judge_lag(self) -> None:
        """Measure how late the loop is; if it was held, hear the others out before anybody is judged.

        What was held may be the whole process: heartbeats that prove the others alive wait in its own queues.
        """
        bus, now = self._bus, self._bus.loop.time()
        lag = max(0.0, now - self._looked_at - LAG_INTERVAL)
        self._looked_at = now
        node = bus.node
        node.lag = max(lag, node.lag * LAG_FADE)
        bus.metrics.gauge("loop_lag_ms", round(node.lag * 1000, 3))
        if lag > STALL:
            bus.metrics.count("loop_stalls")
            bus.transport.hear_now()
            node.lagged(lag, bus.loop.time())
        alive = [peer for peer in node.neighbours if node.membership.state_of(peer) is MemberState.ALIVE]
        bus.metrics.gauge("peers", sum(not node.membership.is_expected(peer) for peer in alive))
        bus.metrics.gauge("members", len(node.membership.view))
        bus.metrics.gauge("connections_refused_by_limit", bus.transport.starved)
        bus.metrics.gauge("health", node.membership.health)

    async def find_peers(self) -> None:
        """Look for addresses that no member has told yet: in the run folder, or among the seeds."""
        bus = self._bus
        folder, seeds = bus.settings.directory, bus.settings.seeds
        while folder is not None or seeds:
            for name, inbox in seeds if self._knows_nobody() else ():
                bus.connect(derive_node_id(bus.settings.run, name), inbox, "")
            is_complete = folder is None or await self._search(folder)
            await asyncio.sleep(SEARCH_SLOW if is_complete else SEARCH_FAST)

    async def _search(self, folder: Path) -> bool:
        """Look in the run folder for those whose address is wanted; True: for nobody."""
        bus = self._bus
        missing = await self._missing(folder)
        for name in missing:
            found = await bus.loop.run_in_executor(bus.threads, look_up, folder, name)
            if found is not None:
                self._connect(found)
        return not missing

    def _knows_nobody(self) -> bool:
        """Whether no member at all was ever heard, or heard of: whom the roster names may all be gone."""
        if self._is_outside:
            known = self._bus.node.membership.table.items()
            self._is_outside = not any(record.epoch for peer, record in known if peer != self._bus.self_id)
        return self._is_outside

    async def _missing(self, folder: Path) -> list[str]:
        """Return the names of those whose address is wanted."""
        bus, now = self._bus, self._bus.loop.time()
        node = bus.node
        wanted = [contact.peer for contact in node.contacts.linked]
        names = [node.membership.name_of(peer) for peer in wanted if node.membership.is_expected(peer)]
        if now < self._ask_at or not self._knows_nobody():
            return names
        self._ask_at = now + ASK_OTHERS
        published = await bus.loop.run_in_executor(bus.threads, names_in, folder)
        others = [name for name in published if name != bus.settings.name and name not in self._asked]
        chosen = secrets.SystemRandom().sample(others, min(CONTACTS, len(others)))
        self._asked = self._asked.union(chosen) if others else set()
        return [*names, *chosen]

    def _connect(self, found: Address) -> None:
        bus = self._bus
        peer = derive_node_id(bus.settings.run, found.name)
        if bus.transport.address_of(peer) != found.inbox:
            bus.connect(peer, found.inbox, found.beat)
