"""What the bus does by the clock: heartbeats, the judgement of silence and of its own lateness, the search for peers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from dagrad_bus.rendezvous import look_up
from dagrad_bus.wire import Heartbeat, pack

if TYPE_CHECKING:
    from dagrad_bus.bus.engine import Engine

LAG_INTERVAL = 0.1
"""Seconds between two looks at how late the loop is."""
LAG_FADE = 0.98
"""The lateness shown is the worst one, fading by this factor a look."""
SEARCH_FAST, SEARCH_SLOW = 0.05, 1.0
"""Seconds between two searches for addresses: while some neighbour is missing, and afterwards (restarts)."""
TRAINING = 1
"""Heartbeat state."""


class Upkeep:
    """The periodic tasks of one bus."""

    def __init__(self, bus: Engine) -> None:
        self._bus = bus
        self._lag = 0.0

    async def beat(self) -> None:
        """Publish a heartbeat each interval."""
        bus = self._bus
        while True:
            step, rate, at = bus.progress
            message = Heartbeat(
                node=bus.self_id,
                epoch=bus.identity.epoch,
                incarnation=0,
                state=TRAINING,
                step=step,
                rate=rate,
                lag_ms=round(self._lag * 1000),
                progress_ms=0 if at == 0 else max(0, round((time.monotonic() - at) * 1000)),
                members=len(bus.settings.members),
            )
            parts = pack(message)
            bus.transport.broadcast(parts)
            bus.metrics.count("bytes_sent", sum(map(len, parts)) * len(bus.liveness.alive))
            await asyncio.sleep(bus.settings.beat.interval)

    async def judge(self) -> None:
        """Look at the neighbours' silence and at the loop's own lateness."""
        bus = self._bus
        while True:
            before = bus.loop.time()
            await asyncio.sleep(LAG_INTERVAL)
            now = bus.loop.time()
            self._lag = max(now - before - LAG_INTERVAL, self._lag * LAG_FADE)
            bus.metrics.gauge("loop_lag_ms", round(self._lag * 1000, 3))
            bus.metrics.gauge("peers", len(bus.liveness.alive))
            if now >= bus.liveness.next_deadline():
                for suspected in bus.liveness.tick(now):
                    bus.metrics.count("suspected")
                    bus.log.warning("peer_silent", peer=bus.by_peer[suspected.peer].name)
            for neighbour in bus.by_peer.values():
                if neighbour.address is not None and neighbour.out.is_dead(now):
                    bus.metrics.count("connections_reset")
                    bus.connect(neighbour.peer, neighbour.address.inbox, neighbour.address.beat)

    async def find_peers(self) -> None:
        """Look for the neighbours' addresses in the run folder, and for those of restarted ones."""
        bus = self._bus
        folder = bus.settings.directory
        while folder is not None and bus.by_peer:
            for neighbour in bus.by_peer.values():
                found = await bus.loop.run_in_executor(bus.threads, look_up, folder, neighbour.name)
                if found is None or (neighbour.address is not None and found.epoch <= neighbour.address.epoch):
                    continue
                neighbour.address = found
                if bus.transport.address_of(neighbour.peer) != found.inbox:
                    bus.connect(neighbour.peer, found.inbox, found.beat)
            missing = any(neighbour.address is None for neighbour in bus.by_peer.values())
            await asyncio.sleep(SEARCH_FAST if missing else SEARCH_SLOW)
