"""What the bus does by the clock beside its cores: the judgement of its own lateness, and the search for peers."""

from __future__ import annotations

import asyncio
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
"""Members that one who joins later turns to."""


class Upkeep:
    """The periodic tasks of one bus."""

    def __init__(self, bus: Engine) -> None:
        self._bus = bus
        self._looked_at = bus.loop.time()
        self._asked: set[str] = set()

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
        for name, inbox in bus.settings.seeds:
            bus.connect(derive_node_id(bus.settings.run, name), inbox, "")
        folder = bus.settings.directory
        while folder is not None:
            missing = await self._missing()
            for name in missing:
                found = await bus.loop.run_in_executor(bus.threads, look_up, folder, name)
                if found is not None:
                    self._connect(found)
            await asyncio.sleep(SEARCH_FAST if missing else SEARCH_SLOW)

    async def _missing(self) -> list[str]:
        """Return the names of those whose address is wanted."""
        bus = self._bus
        node, folder = bus.node, bus.settings.directory
        if folder is not None and not node.neighbours and len(self._asked) < CONTACTS:
            names = await bus.loop.run_in_executor(bus.threads, names_in, folder)
            others = [name for name in names if name != bus.settings.name and name not in self._asked]
            self._asked.update(others[:CONTACTS])
            return others[:CONTACTS]
        wanted = [contact.peer for contact in node.contacts.linked]
        return [node.membership.name_of(peer) for peer in wanted if node.membership.is_expected(peer)]

    def _connect(self, found: Address) -> None:
        bus = self._bus
        peer = derive_node_id(bus.settings.run, found.name)
        if bus.transport.address_of(peer) != found.inbox:
            bus.connect(peer, found.inbox, found.beat)
