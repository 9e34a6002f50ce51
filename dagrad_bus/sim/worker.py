"""A virtual worker: the real :class:`~dagrad_bus.bus.node.Node` on a virtual network, and a training thread.

A :class:`Process` is one life of a worker, with its own clock: monotonic time begins anywhere and drifts. It does what
``bus.engine`` does with sockets and a loop: hands over what arrives, ends each burst, ticks when it is due, looks for
addresses, and tells a node that was stopped how late it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from dagrad_bus.blocks import Layout
from dagrad_bus.bus.contact import Contact
from dagrad_bus.bus.framing import allowed, nack_code, pack_frame, unpack_frame
from dagrad_bus.bus.identity import Identity
from dagrad_bus.bus.node import Node
from dagrad_bus.errors import MalformedFrame, RemoteError
from dagrad_bus.events import Arrival, Outgoing
from dagrad_bus.ids import NodeId
from dagrad_bus.link import Assembled
from dagrad_bus.mailbox import Mailbox
from dagrad_bus.membership import MemberChanged
from dagrad_bus.messages import Data, Message
from dagrad_bus.settings import LinkSettings, Settings
from dagrad_bus.sim.network import Network
from dagrad_bus.sim.plug import Plug
from dagrad_bus.sim.world import World
from dagrad_bus.wire import CorruptPayload

SOON = 1e-6
"""Least seconds between two ticks: a deadline that stays in the past cannot stop the clock."""
SEARCH = 1.0
"""Seconds between two looks for addresses that no member has told."""
NEVER = float("inf")


class Watch:
    """Who looks on; the checker. Calls come after the process has done its part."""

    def stepped(self, process: Process, touched: Iterable[Contact] | None = None) -> None:
        """Take note that ``process`` handled an event, which concerned the ``touched`` contacts; None: perhaps all."""

    def accepted(self, process: Process, arrival: Arrival) -> None:
        """Take note that a frame was put into its mailbox."""

    def changed(self, process: Process, change: MemberChanged) -> None:
        """Take note that ``process`` believes something else of a member."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A monotonic clock that drifts: ``local = world * rate + shift``."""

    rate: float = 1.0
    shift: float = 0.0

    def local(self, world: float) -> float:
        """Return what the clock shows."""
        return world * self.rate + self.shift

    def world(self, local: float) -> float:
        """Return when it shows ``local``."""
        return (local - self.shift) / self.rate


class Inbox(Mailbox):
    """A mailbox that can be kept from granting credit, and that is watched."""

    def __init__(self, settings: LinkSettings) -> None:
        super().__init__(settings)
        self.withheld = False
        self.on_put: Callable[[Arrival], None] = lambda arrival: None

    def has_room(self, peer: NodeId) -> bool:
        """Whether ``peer`` may send more."""
        return not self.withheld and super().has_room(peer)

    def put(self, arrival: Arrival) -> None:
        """Add a frame."""
        super().put(arrival)
        self.on_put(arrival)


class Folder:
    """The run folder: where each worker listens, as its newest life has written there."""

    def __init__(self) -> None:
        self.address: dict[NodeId, tuple[str, str]] = {}


class Process:
    """One life of a worker.

    Args:
        world: time and chance.
        network: its network.
        plug: its port, fresh.
        settings: who it is.
        layout: what it trains.
        epoch: boot epoch.
        clock: its own.
        folder: where it finds the others.
        watch: who looks on.
        life: number of this process among all of the run.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        plug: Plug,
        settings: Settings,
        layout: Layout,
        epoch: int,
        clock: Clock,
        folder: Folder,
        watch: Watch,
        life: int = 0,
    ) -> None:
        self.life = life
        """Number of this process among all of the run."""
        self._world, self._network, self._clock, self._folder, self._watch = world, network, clock, folder, watch
        self.plug = plug
        self.settings = settings
        self.layout = layout
        self.name = settings.name
        self.epoch = epoch
        self.mailbox = Inbox(settings.link)
        self.mailbox.on_put = self._took
        self.identity = Identity(settings, layout, epoch)
        self.id = self.identity.node
        self.born = world.now
        self.paused_at = 0.0
        self.is_leaving = False
        self._armed = NEVER
        self._moved = False
        rng = np.random.default_rng(world.fork(epoch & 0xFFFF))
        self.node = Node(self.identity, plug, self.mailbox, self._decode, rng, clock.local(world.now))
        self.node.on_moved, self.node.on_event = self._note_moved, self._note
        plug.end = self
        folder.address[self.id] = (plug.inbox, plug.beat)
        self._run_tick()
        self._search(None, None)

    def __repr__(self) -> str:
        """Name it."""
        return f"{self.name}#{self.life}"

    @property
    def runs(self) -> bool:
        """Whether it is neither dead nor stopped."""
        return not (self.plug.dead or self.plug.paused)

    def now(self) -> float:
        """Return what its clock shows."""
        clock = self._clock
        return self._world.now * clock.rate + clock.shift

    # What the network tells --------------------------------------------------------------------------------------

    def received(self, routing: bytes, message: Message) -> None:
        """Take a message of the inbox."""
        now = self.now()
        if not self.node.is_banned(routing, now):
            self.node.received(routing, message, now)
            self.settle()

    def damaged(self, routing: bytes, message: Message) -> None:
        """Take a message whose checksum is wrong: nothing in it counts, but for the name of a damaged payload."""
        now = self.now()
        error: RemoteError = MalformedFrame("header checksum")
        if isinstance(message, Data) and self._world.rng.random() < 0.8:
            error = CorruptPayload(message.edge, message.seq)
        self.node.malformed(routing, error, now)
        self.settle()

    def beaten(self, peer: NodeId, message: Message) -> None:
        """Take a broadcast."""
        self.node.beaten(peer, message, self.now())
        self.settle()

    def connection(self, peer: NodeId, up: bool) -> None:
        """Take note of a connection made or broken."""
        self.node.connection(peer, up=up, now=self.now())
        self.settle()

    def refused(self, peer: NodeId) -> None:
        """Take note that nobody listens where ``peer`` should be."""
        self.node.refused(peer, self.now())
        self.settle()

    def writable(self, peer: NodeId) -> None:
        """Take note that a send may be tried again."""
        self.node.writable(peer, self.now())
        self.settle()

    # The loop ----------------------------------------------------------------------------------------------------

    def _note_moved(self) -> None:
        self._moved = True

    def _note(self, event: object) -> None:
        if isinstance(event, MemberChanged):
            self._watch.changed(self, event)

    def settle(self) -> None:
        """End the burst: send what is to be sent, set the alarm, let the checker look."""
        if self._moved:
            self.node.flush(self.now())
        self._settled()

    def _settled(self) -> None:
        node = self.node
        touched = node.flushed.values() if self._moved else ()
        self._moved = False
        due = min(node.due, node.membership.next_deadline())
        if due < self._armed:
            self._arm(due)
        self._watch.stepped(self, touched)

    def _arm(self, due: float) -> None:
        self._armed = due
        self._world.at(max(self._clock.world(due), self._world.now + SOON), self._tick, due)

    def _tick(self, due: float, _: object) -> None:
        if due != self._armed or self.plug.dead:
            return
        if self.plug.paused:
            self._armed = NEVER
            return
        self._run_tick()

    def _run_tick(self) -> None:
        self._armed = NEVER
        self.node.tick(self.now())
        self._settled()

    def _search(self, _: object, __: object) -> None:
        """Look into the run folder for those whose address is wanted."""
        if self.plug.dead:
            return
        node, folder, world = self.node, self._folder, self._world
        if not self.plug.paused and not self.is_leaving:
            wanted = [c.peer for c in node.contacts.linked if node.membership.is_expected(c.peer)]
            if not node.neighbours:
                known = [peer for peer in folder.address if peer != self.id]
                wanted = world.rng.sample(known, min(3, len(known)))
            for peer in wanted:
                found = folder.address.get(peer)
                if found is not None and self.plug.address_of(peer) != found[0]:
                    node.contacts.reach(peer, self.now(), found)
            if wanted:
                self.settle()
        world.after(SEARCH * (0.9 + 0.2 * world.rng.random()), self._search)

    def _decode(self, frame: Assembled) -> None:
        """Decode at once; the verdict follows in the same burst, as for all small frames."""
        contact = self.node.by_peer.get(frame.peer)
        transit = frame.head.queued_ms / 1000 + (contact.out.srtt / 2 if contact is not None else 0.0)
        code = 0
        try:
            self.mailbox.put(unpack_frame(frame, frame.peer, self.layout, self.identity.codecs, transit))
        except RemoteError as error:
            code = nack_code(error)
        self.node.verdict(frame, code, self.now())

    def _took(self, arrival: Arrival) -> None:
        self._watch.accepted(self, arrival)

    def publish(self, outgoing: Outgoing) -> None:
        """Encode a frame and send it."""
        contacts = [self.node.by_peer.get(peer) for peer in outgoing.links]
        takers = [contact.codecs for contact in contacts if contact is not None]
        packed = pack_frame(outgoing, self.layout, allowed(self.settings.transport.codec, takers))
        self.node.submit(outgoing.links, packed, self.now())

    # Its fate ----------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop it, as SIGSTOP does."""
        self.paused_at = self._world.now
        self._network.pause(self.plug)

    def go_on(self) -> None:
        """Let it run again: it hears the others out first, then learns how late it is."""
        lag = (self._world.now - self.paused_at) * self._clock.rate
        self._network.go_on(self.plug)
        if not self.plug.dead:
            self.node.lag = lag
            self.node.lagged(lag, self.now())
            self._run_tick()

    def die(self, *, host: bool = False) -> None:
        """End it without a word."""
        self._network.die(self.plug, host=host)

    def leave(self) -> None:
        """Say goodbye; the process ends a little later."""
        self.is_leaving = True
        self.node.leave(self.now())
        self._moved = True
        self.settle()
        self._world.after(0.3, self._say_goodbye)

    def _say_goodbye(self, _: object, __: object) -> None:
        if self.plug.dead:
            return
        if not self.plug.paused:
            self.node.say_goodbye(self.now())
            self._moved = True
            self.settle()
        self._world.after(0.5, self._end)

    def _end(self, _: object, __: object) -> None:
        if not self.plug.dead:
            self.die()
