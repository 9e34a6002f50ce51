"""What the bus does by the clock beside its cores: the judgement of its own lateness, and the search for peers."""

from __future__ import annotations

import asyncio
import math
import secrets
import socket
from typing import TYPE_CHECKING

from dagrad_bus.errors import RendezvousLost
from dagrad_bus.ids import derive_node_id
from dagrad_bus.rendezvous import Address, Rendezvous
from dagrad_bus.wire import MemberState

if TYPE_CHECKING:
    from dagrad_bus.bus.engine import Engine

LAG_INTERVAL = 0.1
"""Seconds between two looks at how late the loop is."""
LAG_FADE = 0.98
"""The lateness shown is the worst one, fading by this factor a look."""
STALL = 0.5
"""Lateness, in seconds, that counts against this worker's own health."""
SEARCH_FAST, SEARCH_LATER, SEARCH_SLOW = 0.05, 0.25, 1.0
"""Seconds between two searches for addresses: while some neighbour is missing, growing, and afterwards (restarts)."""
SEED_FAST, SEED_SLOW = 0.1, 2.0
"""Seconds between two rounds of the seeds, growing from the first to the second."""
UNANSWERED = 30.0
"""Seconds without any answer after which the log says so."""
CONTACTS = 3
"""Members that one who joins later, or finds none of its neighbours, turns to at a time."""
ASK_OTHERS = 3.0
"""Seconds after which it turns to others: the first ones may be long gone."""
_PRESENT = {MemberState.ALIVE, MemberState.SUSPECT}


class Upkeep:
    """The periodic tasks of one bus."""

    def __init__(self, bus: Engine) -> None:
        self._bus = bus
        self._looked_at = bus.loop.time()
        self._asked: set[str] = set()
        self._unresolved: set[str] = set()
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
        """Look where addresses are told for those that no member has told yet."""
        bus, pause = self._bus, SEARCH_FAST
        while bus.places:
            is_complete = True
            for place in list(bus.places):
                try:
                    is_complete &= await self._search(place)
                except RendezvousLost as error:
                    bus.lost(place, error)
            await asyncio.sleep(SEARCH_SLOW if is_complete else pause)
            pause = SEARCH_FAST if is_complete else min(SEARCH_LATER, 1.1 * pause)

    async def _search(self, place: Rendezvous) -> bool:
        """Look at one place for those whose address is wanted; True: for nobody."""
        bus = self._bus
        missing = await self._missing(place)
        for name in missing:
            found = await bus.loop.run_in_executor(bus.readers, place.look_up, name)
            if found is not None:
                self._connect(found)
        return not missing

    async def ask_seeds(self) -> None:
        """Turn to the seeds while some neighbour's address is unknown or nobody is there: they may start later."""
        bus, pause, warn_at = self._bus, SEED_FAST, self._bus.loop.time() + UNANSWERED
        seeds = [seed for seed in bus.settings.seeds if seed[0] != bus.settings.name]
        chance = secrets.SystemRandom()
        while seeds:
            if self._is_cut_off():
                chosen = chance.sample(seeds, min(CONTACTS, len(seeds)))
                await asyncio.gather(*(self._ask(*seed) for seed in chosen))
                self._ask_others(chance)
                pause = min(SEED_SLOW, 1.5 * pause)
            if bus.loop.time() >= warn_at and self._knows_nobody():
                bus.log.warning("no_seed_answers", seeds=[inbox for _, inbox in seeds], seconds=UNANSWERED)
                warn_at = math.inf
            await asyncio.sleep(pause * chance.uniform(0.75, 1.25))

    def _is_cut_off(self) -> bool:
        """Whether an address is wanted that no seed was asked for yet, or everybody else is gone."""
        node = self._bus.node
        membership = node.membership
        return len(membership.view) < 2 or any(membership.is_expected(contact.peer) for contact in node.contacts.linked)

    async def _ask(self, name: str, inbox: str) -> None:
        """Turn to one seed, by its own word of its address if there is one."""
        bus = self._bus
        peer = derive_node_id(bus.settings.run, name)
        contact = bus.node.by_peer.get(peer)
        record = bus.node.membership.record_of(peer)
        is_there = record is not None and record.epoch > 0 and record.state in _PRESENT
        if is_there or (contact is not None and contact.connected):
            bus.turn_to(peer)
            return
        found = await self._resolve(inbox)
        if found is not None and found != bus.transport.inbox:  # never to ourselves, under whatever name
            bus.connect(peer, found, "")

    def _ask_others(self, chance: secrets.SystemRandom) -> None:
        """Turn to one more member that is connected already: the seeds may know less than it does."""
        bus = self._bus
        connected = [contact.peer for contact in bus.node.contacts if contact.connected and not contact.is_visitor]
        if connected:
            bus.turn_to(chance.choice(connected))

    async def _resolve(self, inbox: str) -> str | None:
        """Return an endpoint with an address of its host, drawn anew each time; None: its name is not known yet.

        A name may lead to several, IPv6 first, and a worker may listen at one of them only. libzmq would resolve it
        too, but take the first, and hold every connection while it waits for the name server.
        """
        bus = self._bus
        host, _, port = inbox.removeprefix("tcp://").rpartition(":")
        try:
            known = await bus.loop.run_in_executor(bus.readers, _addresses, host.strip("[]"), int(port))
        except (OSError, UnicodeError) as error:
            bus.metrics.count("seeds_unresolved")
            if inbox not in self._unresolved:
                self._unresolved.add(inbox)
                bus.log.info("seed_unresolved", seed=inbox, why=str(error))
            return None
        found = secrets.choice(known)
        return f"tcp://[{found}]:{port}" if ":" in found else f"tcp://{found}:{port}"

    def _knows_nobody(self) -> bool:
        """Whether no member at all was ever heard, or heard of: whom the roster names may all be gone."""
        if self._is_outside:
            known = self._bus.node.membership.table.items()
            self._is_outside = not any(record.epoch for peer, record in known if peer != self._bus.self_id)
        return self._is_outside

    async def _missing(self, place: Rendezvous) -> list[str]:
        """Return the names of those whose address is wanted."""
        bus, now = self._bus, self._bus.loop.time()
        node = bus.node
        wanted = [contact.peer for contact in node.contacts.linked]
        names = [node.membership.name_of(peer) for peer in wanted if node.membership.is_expected(peer)]
        if now < self._ask_at or not self._knows_nobody():
            return names
        self._ask_at = now + ASK_OTHERS
        published = await bus.loop.run_in_executor(bus.readers, place.names)
        others = [name for name in published if name != bus.settings.name and name not in self._asked]
        chosen = secrets.SystemRandom().sample(others, min(CONTACTS, len(others)))
        self._asked = self._asked.union(chosen) if others else set()
        return [*names, *chosen]

    def _connect(self, found: Address) -> None:
        bus = self._bus
        peer = derive_node_id(bus.settings.run, found.name)
        if bus.transport.address_of(peer) != found.inbox:
            bus.connect(peer, found.inbox, found.beat)


def _addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a host. Waits for the name server."""
    return list(dict.fromkeys(str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
