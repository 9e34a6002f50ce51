"""What membership costs each worker as there are more of them: messages and bytes a second, which must not grow with N.

Only membership runs, without links: heartbeats to graph neighbours, probes, push-pull, and the flood about one crash.
Everybody starts from one shared table in which all are alive, so ten thousand workers fit in one process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from dagrad_bus.ids import NodeId, Step, derive_node_id
from dagrad_bus.membership import Action, Base, Flood, MemberChanged, Membership, NeighboursChanged, Tell
from dagrad_bus.messages import Heartbeat, MemberState, Message, Ping, Pong, Record
from dagrad_bus.settings import BeatSettings
from dagrad_bus.sim.sizes import size_of
from dagrad_bus.sim.world import World
from dagrad_bus.topology.live import TopologySpec

LATENCY = 0.005
WARM, MEASURED = 5.0, 10.0
"""Virtual seconds before, and of, the measurement of a quiet cluster."""
AFTERMATH = 15.0
"""Virtual seconds in which the death of one is followed."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one size came to; each rate is of one worker."""

    workers: int
    messages_a_second: float
    """Received in a quiet cluster."""
    bytes_a_second: float
    heartbeats_a_second: float
    """Part of the messages."""
    p50: float
    """Seconds until half of the others believed a killed one dead."""
    last: float
    """Seconds until all of them did."""
    copies: float
    """Messages of gossip received by each worker in the aftermath."""
    events: int

    def told(self) -> str:
        """Return it on one line."""
        return (
            f"N={self.workers}: {self.messages_a_second:.2f} messages/s ({self.heartbeats_a_second:.2f} heartbeats), "
            f"{self.bytes_a_second:.0f} B/s each; a death known to half in {self.p50:.2f} s, to all in {self.last:.2f} s, "
            f"{self.copies:.1f} gossip messages each; {self.events} events"
        )


class Member:
    """One worker that is nothing but its member table."""

    __slots__ = ("armed", "core", "crowd", "dead", "listeners", "node", "rate")

    def __init__(self, crowd: Crowd, node: NodeId, core: Membership) -> None:
        self.crowd, self.node, self.core = crowd, node, core
        self.armed = float("inf")
        self.dead = False
        self.listeners: tuple[NodeId, ...] = core.neighbours

    def tick(self, due: float, _: object) -> None:
        """Do what is due."""
        if due != self.armed or self.dead:
            return
        self.armed = float("inf")
        now = self.crowd.world.now
        self.do(self.core.tick(now))

    def beat(self, _: object, __: object) -> None:
        """Send a heartbeat, and again in a second."""
        if self.dead:
            return
        world = self.crowd.world
        self.crowd.broadcast(self, self.core.heartbeat(world.now, state=1, step=Step(1), rate=1.0))
        world.after(0.9 + 0.2 * world.rng.random(), self.beat)

    def take(self, peer: NodeId, message: Message) -> None:
        """Take a message."""
        if self.dead:
            return
        crowd = self.crowd
        now = crowd.world.now
        if isinstance(message, Ping):
            crowd.send(self.node, peer, Pong(message.nonce, self.core.me.epoch, self.core.me.incarnation))
            self.do(self.core.heard(peer, now))
        else:
            self.do(self.core.receive(peer, message, now))

    def do(self, actions: Iterable[Action]) -> None:
        """Carry out what the core says."""
        crowd = self.crowd
        for action in actions:
            match action:
                case Flood(message=message):
                    crowd.broadcast(self, message)
                case Tell(peer=peer, message=message):
                    crowd.send(self.node, peer, message)
                case NeighboursChanged(added=added):
                    for peer in added:
                        self.do(self.core.watched(peer, crowd.world.now))
                    self.listeners = self.core.neighbours
                case MemberChanged(new="dead"):
                    crowd.deaths.append(crowd.world.now)
                case _:
                    pass
        due = self.core.next_deadline()
        if due < self.armed:
            self.armed = due
            crowd.world.at(max(due, crowd.world.now), self.tick, due)


class Crowd:
    """All of them."""

    def __init__(self, workers: int, seed: int = 0) -> None:
        self.world = World(seed)
        self.messages: Counter[type] = Counter()
        self.bytes = 0
        self.deaths: list[float] = []
        self.members: dict[NodeId, Member] = {}
        base = Base([_record(place) for place in range(workers)])
        spec, settings = TopologySpec(), BeatSettings()
        for node in base.ids:
            rng = np.random.default_rng(self.world.fork(1))
            core = Membership(base.records[node], base, spec, settings, rng, 0.0)
            self.members[node] = Member(self, node, core)
        for member in self.members.values():
            for peer in member.core.neighbours:
                member.do(member.core.watched(peer, 0.0))
            member.do(())
            self.world.after(self.world.rng.random(), member.beat)

    def broadcast(self, member: Member, message: Message) -> None:
        """Send a copy to each neighbour; the graph is symmetric, so those are who listens."""
        size = size_of(message)
        world, members = self.world, self.members
        due = world.now + LATENCY
        for peer in member.listeners:
            self.messages[type(message)] += 1
            self.bytes += size
            world.at(due, self._arrive, members[peer], (member.node, message))

    def send(self, node: NodeId, peer: NodeId, message: Message) -> None:
        """Send to one, or tell that nobody is there."""
        self.messages[type(message)] += 1
        self.bytes += size_of(message)
        self.world.after(LATENCY, self._arrive, self.members[peer], (node, message))

    def _arrive(self, member: Member, content: tuple[NodeId, Message]) -> None:
        member.take(*content)

    def kill(self, node: NodeId) -> None:
        """End one; its neighbours' sockets find its port closed."""
        self.members[node].dead = True
        for peer in self.members[node].core.neighbours:
            self.world.after(0.3 + 0.1 * self.world.rng.random(), self._refuse, self.members[peer], node)

    def _refuse(self, member: Member, node: NodeId) -> None:
        if not member.dead:
            member.do(member.core.refused(node, self.world.now))


def _record(place: int) -> Record:
    name = f"w{place}"
    host = f"10.{place >> 16}.{place >> 8 & 255}.{place & 255}"
    return Record(
        derive_node_id("scale", name), 1_700_000_000_000_000_000, 0, MemberState.ALIVE, b"", host, 9000, 9001, name
    )


def scale(workers: int, seed: int = 0) -> Cost:
    """Measure a cluster of one size."""
    crowd = Crowd(workers, seed)
    world = crowd.world
    world.run(WARM)
    crowd.messages.clear()
    crowd.bytes = 0
    world.run(WARM + MEASURED)
    share = 1 / (MEASURED * workers)
    quiet = Cost(
        workers, crowd.messages.total() * share, crowd.bytes * share, crowd.messages[Heartbeat] * share, 0, 0, 0, 0
    )  # fmt: skip
    crowd.messages.clear()
    crowd.deaths.clear()
    began = world.now
    crowd.kill(next(iter(crowd.members)))
    world.run(began + AFTERMATH)
    times = sorted(crowd.deaths)
    known = len(times) >= workers - 1
    gossip = sum(count for kind, count in crowd.messages.items() if kind.__name__ == "Gossip")
    return replace(
        quiet,
        p50=times[len(times) // 2] - began if times else float("inf"),
        last=times[-1] - began if known else float("inf"),
        copies=gossip / workers,
        events=world.events,
    )
