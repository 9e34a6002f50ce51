"""PING, and PING through others: whether a member answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.actions import Tell
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.ledger import Ledger
from dagrad_bus.messages import MemberState, Ping, PingReq, PingRes

HELPERS = 3
"""Of those that should hear a suspect so many are asked to ping it, and as many of all others: its neighbours may be
out of reach as it is itself."""
ANSWER = 2.0
"""Seconds for an answer, while this worker itself is well."""
MISSED_WITHIN, MISSED_BY = 3.0, 2
"""So many members whose PONGs are missed within so many seconds say that it may be this worker's own fault."""
MOST_WAITING = 256
MOST_RELAYS = 64
OLD = 600.0
"""Seconds after which the dead are probed more rarely, by ``RARELY``."""
RARELY = 6
SKIPPED = 32
"""Members passed over in a row, at most, in search of one to ping."""
DRAWN = 4
"""Of those gone: some may have left, and are not probed."""


class Aim(Enum):
    """Why an answer is awaited."""

    ACCUSED = "any answer will do"
    BACKSTOP = "without it others are asked"
    OTHERS = "others were asked; without it the member is suspected"
    RELAY = "for a member that asked"


@dataclass(frozen=True, slots=True)
class Probe:
    """An answer awaited."""

    target: NodeId
    aim: Aim
    deadline: float
    asker: NodeId | None = None
    """RELAY: whom to tell, with ``asked``, its nonce."""
    asked: int = 0


def _nobody(node: NodeId) -> Sequence[NodeId]:
    return ()


def _ignore(node: NodeId, now: float, why: str) -> None:
    """Nobody is interested."""


def _ignore_life(node: NodeId, by: NodeId, now: float) -> None:
    """Nobody is interested."""


class Prober:
    """Outstanding questions of one worker.

    Args:
        context: shared.
        ledger: told of every sign of life.
        now: seconds, monotonic.
    """

    def __init__(self, context: Context, ledger: Ledger, now: float) -> None:
        self._context = context
        self._ledger = ledger
        self.near: Callable[[NodeId], Sequence[NodeId]] = _nobody
        """Neighbours of a member, in the graph."""
        self.on_silent: Callable[[NodeId, float, str], None] = _ignore
        """Called with a member that nobody got an answer from."""
        self.on_vouched: Callable[[NodeId, NodeId, float], None] = _ignore_life
        """Called with a member that this worker doubts, and one that got an answer from it."""
        self.apart: frozenset[NodeId] = frozenset()
        """Members known to be out of reach."""
        self.on_served: Callable[[NodeId, NodeId, float], None] = _ignore_life
        """Called with a member that asked, and the one that this worker got an answer from for it."""
        self._waiting: dict[int, Probe] = {}
        self._missed: dict[NodeId, float] = {}
        self._place = self._stride = self._left = self._places = 0
        self._turn = 0
        context.agenda.put("probe", now + context.spread(context.settings.probe))

    # Questions -------------------------------------------------------------------------------------------------------

    def ask_about(self, target: NodeId, now: float) -> None:
        """Ping a suspect, and let others do so."""
        self._ping(target, Aim.ACCUSED, now)
        self._ask_others(target, Aim.ACCUSED, now)

    def inquire(self, target: NodeId, now: float) -> bool:
        """Ask others about a member before it is accused; whether there is anybody to ask."""
        return self._ask_others(target, Aim.OTHERS, now)

    def _ping(self, target: NodeId, aim: Aim, now: float) -> None:
        nonce = self._await(Probe(target, aim, now + ANSWER * self._context.health.factor))
        self._context.out.append(Tell(target, Ping(nonce)))

    def _ask_others(self, target: NodeId, aim: Aim, now: float) -> bool:
        near, relays = self._context.some(self._helpers(target), HELPERS), self._context.relays_at(now)
        helpers = dict.fromkeys((*near, *(node for node in relays if node != target), *self._strangers(target)))
        if helpers:
            nonce = self._await(Probe(target, aim, now + 2 * ANSWER * self._context.health.factor))
            self._context.out += [Tell(helper, PingReq(nonce, target)) for helper in helpers]
        return bool(helpers)

    def _helpers(self, target: NodeId) -> list[NodeId]:
        """Return who hears the target: as it said itself, or by the graph."""
        table, watch = self._ledger.table, self._context.watches.get(target)
        named = watch.beat.neighbours if watch is not None and watch.beat is not None else ()
        found = [node for node in map(table.with_prefix, named) if node is not None] or self.near(target)
        return [node for node in found if self._is_alive(node) and node not in (target, self._context.me.node)]

    def _strangers(self, target: NodeId) -> list[NodeId]:
        table, rng = self._ledger.table, self._context.rng
        drawn = [table.at(int(place)) for place in rng.integers(table.places, size=2 * HELPERS)]
        excluded = target, self._context.me.node
        return [node for node in drawn if node is not None and node not in excluded and self._is_alive(node)][:HELPERS]

    def _is_alive(self, node: NodeId) -> bool:
        record = self._ledger.table.find(node)
        return record is not None and record.epoch > 0 and record.state is MemberState.ALIVE

    def _await(self, probe: Probe) -> int:
        while len(self._waiting) >= MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        nonce = self._context.nonce()
        self._waiting[nonce] = probe
        self._context.agenda.sooner("pings", probe.deadline)
        return nonce

    def backstop(self, now: float) -> None:
        """Ping the next member of a shuffled round: it may have died together with all that observe it."""
        self._context.agenda.put("probe", now + self._context.settings.probe)
        target = self._next_member()
        if target is not None:
            self._ping(target, Aim.BACKSTOP, now)

    def _next_member(self) -> NodeId | None:
        table = self._ledger.table
        if not self._left or self._places != table.places:
            self._shuffle(table.places)
        for _ in range(min(self._left, SKIPPED)):
            self._left -= 1
            self._place = (self._place + self._stride) % self._places
            node = table.at(self._place)
            is_own = node == self._context.me.node or node in self._context.watches or node in self.apart
            if node is not None and not is_own and self._is_alive(node):
                return node
        return None

    def _shuffle(self, places: int) -> None:
        """Begin a round that meets every place once, in constant memory: a stride that has no factor in common."""
        rng = self._context.rng
        self._places = self._left = places
        self._place = int(rng.integers(places))
        self._stride = 1 + int(rng.integers(places))
        while math.gcd(self._stride, places) != 1:
            self._stride += 1

    def next_dead(self, now: float) -> NodeId | None:
        """Return which dead member to try now, if any: without that a partition would never heal."""
        gone, settings = self._ledger.table.gone, self._context.settings
        if not gone:
            return None
        self._context.agenda.put("dead", now + settings.dead_probe)
        self._turn += 1
        is_rare = self._turn % RARELY == 0
        dead = [node for node, since in gone.items() if is_rare or now - since < OLD]
        drawn = self._context.some(dead, DRAWN)
        return next((node for node in drawn if self._ledger.table[node].state is MemberState.DEAD), None)

    def try_dead(self, target: NodeId) -> None:
        """Ping a dead member; nothing is awaited."""
        self._context.out.append(Tell(target, Ping(self._context.nonce())))

    # Answers ---------------------------------------------------------------------------------------------------------

    def pong(self, peer: NodeId, nonce: int, now: float) -> None:
        """Take an answer; that the peer lives is noted elsewhere."""
        probe = self._waiting.get(nonce)
        if probe is None or probe.target != peer:
            return
        del self._waiting[nonce]
        if probe.asker is not None:
            self._context.out.append(Tell(probe.asker, PingRes(probe.asked, probe.target, ok=True)))
            self.on_served(probe.asker, probe.target, now)

    def requested(self, asker: NodeId, message: PingReq, now: float) -> None:
        """Ping a member for another one."""
        relays = sum(probe.aim is Aim.RELAY for probe in self._waiting.values())
        if message.target == self._context.me.node:
            self._context.out.append(Tell(asker, PingRes(message.nonce, message.target, ok=True)))
        elif relays < MOST_RELAYS and self._ledger.table.find(message.target) is not None:
            probe = Probe(message.target, Aim.RELAY, now + ANSWER, asker, message.nonce)
            self._context.out.append(Tell(message.target, Ping(self._await(probe))))

    def result(self, peer: NodeId, message: PingRes, now: float) -> None:
        """Take what another worker found out."""
        probe = self._waiting.get(message.nonce)
        if probe is None or probe.target != message.target or not message.ok or probe.aim is Aim.RELAY:
            return
        del self._waiting[message.nonce]
        self._ledger.vouched(message.target, peer, now)
        self.on_vouched(message.target, peer, now)

    def refused(self, node: NodeId) -> None:
        """Forget what a member was asked whose port is closed: that says nothing about this worker's own health."""
        for nonce in [nonce for nonce, probe in self._waiting.items() if probe.target == node]:
            if self._waiting[nonce].aim is not Aim.RELAY:
                del self._waiting[nonce]

    def expire(self, now: float) -> None:
        """Give up waiting for what is overdue."""
        for nonce in [nonce for nonce, probe in self._waiting.items() if probe.deadline <= now]:
            self._missing(self._waiting.pop(nonce), now)
        self._reschedule()

    def _reschedule(self) -> None:
        self._context.agenda.put("pings", min((probe.deadline for probe in self._waiting.values()), default=math.inf))

    def _missing(self, probe: Probe, now: float) -> None:
        if probe.asker is not None:
            self._context.out.append(Tell(probe.asker, PingRes(probe.asked, probe.target, ok=False)))
            return
        if self._ledger.heard_lately(probe.target, now):
            return
        if probe.aim is Aim.OTHERS:
            self.on_silent(probe.target, now, "answered neither this worker nor others")
        elif probe.aim is Aim.BACKSTOP:
            self._miss(probe.target, now)
            if not self._ask_others(probe.target, Aim.OTHERS, now):
                self.on_silent(probe.target, now, "did not answer")
        else:
            self._miss(probe.target, now)

    def _miss(self, target: NodeId, now: float) -> None:
        """Two silent members that nobody else gave up: it may be this worker that is cut off or slow."""
        record = self._ledger.table.find(target)
        if record is None or record.state > MemberState.SUSPECT:
            return
        self._missed = {node: at for node, at in self._missed.items() if now - at < MISSED_WITHIN}
        self._missed[target] = now
        if len(self._missed) >= MISSED_BY:
            self._missed.clear()
            self._context.health.worsen(1, now)

    def shift(self, by: float, now: float) -> None:
        """Move all deadlines: this worker was late itself."""
        latest = now + 2 * ANSWER
        for nonce, probe in self._waiting.items():
            deadline = min(probe.deadline + by, latest)
            self._waiting[nonce] = replace(probe, deadline=deadline)
        self._reschedule()
