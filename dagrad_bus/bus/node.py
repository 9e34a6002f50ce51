"""One worker without its sockets, its clock and its threads: every rule of the bus, in one place that can be tested.

A message comes in, a core says what follows, the node does it: members, links, connections and the owner's view.
:class:`~dagrad_bus.bus.engine.Engine` drives it with ZeroMQ and real time, the simulator with a network of its own and
virtual time; both run these very lines.

A driver calls the methods below as things happen, :meth:`Node.flush` at the end of each burst (``on_moved`` says when
one began) and :meth:`Node.tick` at :attr:`Node.due`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from dagrad_bus.bus.admission import DAMAGE
from dagrad_bus.bus.affairs import Affairs
from dagrad_bus.bus.contact import NEVER, Contact, Port
from dagrad_bus.bus.contacts import Contacts
from dagrad_bus.bus.greeting import Greeting
from dagrad_bus.bus.identity import Identity, record_of
from dagrad_bus.bus.outlook import Outlook
from dagrad_bus.bus.reception import Reception
from dagrad_bus.errors import RemoteError
from dagrad_bus.events import Outcome, PeerNews, Send
from dagrad_bus.ids import JobId, NodeId
from dagrad_bus.link import Action, Assembled, LinkUp, Packed, Rejected, Settled
from dagrad_bus.mailbox import Mailbox
from dagrad_bus.membership import GraphMissing, GraphSource, MemberChanged, Membership, SpecChanged, no_graphs
from dagrad_bus.metrics import Metrics
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.wire import (
    Ack,
    Bye,
    ByeReason,
    CorruptPayload,
    Data,
    Error,
    ErrorCode,
    Gossip,
    Heartbeat,
    Hello,
    HelloOk,
    LinksReq,
    Message,
    PingReq,
    PingRes,
    Pong,
    PpDigest,
    PpRecords,
    StateRej,
    StateReq,
)

TIDY = 0.25
"""Seconds between two looks at which connections are still needed."""


class Node:
    """The worker. Times are monotonic seconds of the driver's clock.

    Args:
        identity: who it is.
        port: the network.
        mailbox: where accepted frames wait for the owner.
        decode: takes a whole frame; its verdict comes back by :meth:`verdict`, now or later.
        rng: the source of chance.
        now: seconds.
        graph_of: finds the document of a static graph by its digest.
        outlook: what the owner sees; made here if nobody looks at it before.
        metrics: likewise.
    """

    flushed: Mapping[NodeId, Contact] = MappingProxyType({})
    """Contacts for which anything was done in the burst that ended last."""
    _shown: Sequence[Contact] = ()
    """The links of which the owner sees the states."""

    def __init__(
        self,
        identity: Identity,
        port: Port,
        mailbox: Mailbox,
        decode: Callable[[Assembled], None],
        rng: np.random.Generator,
        now: float,
        graph_of: GraphSource = no_graphs,
        *,
        outlook: Outlook | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.identity = identity
        self.settings = identity.settings
        self.port = port
        self.mailbox = mailbox
        self.outlook = outlook if outlook is not None else Outlook()
        self.metrics = metrics if metrics is not None else Metrics()
        self.on_moved: Callable[[], None] = lambda: None  # called when something waits for flush()
        self.on_event: Callable[[MemberChanged | SpecChanged | GraphMissing | Rejected | LinkUp], None] = lambda event: (
            None
        )
        """Told what is rare enough for a log."""
        self.due = now
        """When :meth:`tick` has something to do."""
        self.lag = 0.0
        """How late the driver's loop is, in seconds; rides in heartbeats."""
        self.now = now
        """When the driver last called."""
        self.was_accepted = False
        """A peer has taken this process for what it says it is."""
        self.is_leaving = False
        self._decode = decode
        self._rng = rng
        self._graph_of = graph_of
        self.hello = identity.hello(port.inbox, port.beat)
        self.contacts = Contacts(self.hello, self.settings.link, port, self._locate, self.act)
        self._affairs = Affairs(self, rng)
        self.do = self._affairs.do
        self.greeting = Greeting(self)
        self._moved: dict[NodeId, Contact] = {}
        self._tidy_at = now
        self._enter(now)

    def _enter(self, now: float) -> None:
        """Begin a life under the present boot epoch."""
        identity, settings = self.identity, self.settings.beat
        self.hello = identity.hello(self.port.inbox, self.port.beat)
        me = record_of(self.hello)
        self.membership = Membership(
            me, identity.roster, identity.spec, settings, self._rng, now, self._graph_of, admits=identity.admits
        )
        self.reception = Reception(identity, self.hello, self.settings.link, self.mailbox.has_room)
        self.contacts.greet_as(self.hello)
        self.contacts.set_neighbours(self.membership.neighbours, now)

    def renew(self, known: int) -> None:
        """Take a boot epoch later than ``known``: the wall clock was set back, or an earlier life's file was lost."""
        self.identity = replace(self.identity, epoch=known + 1)
        self.metrics.count("epochs_renewed")
        for contact in self.contacts:
            self.act(contact, contact.out.broken())
        admission = self.reception.admission  # who spoke on a connection still does
        self._enter(self.now)
        self.reception.admission = admission
        for contact in self.contacts.linked:
            self.act(contact, contact.want_link(self.now))

    def _locate(self, peer: NodeId) -> tuple[str, str] | None:
        record = self.membership.record_of(peer)
        return (record.inbox, record.beat) if record is not None and record.inbox_port else None

    @property
    def self_id(self) -> NodeId:
        """This worker's id."""
        return self.identity.node

    @property
    def neighbours(self) -> tuple[NodeId, ...]:
        """Neighbours in the graph."""
        return self.membership.neighbours

    @property
    def by_peer(self) -> dict[NodeId, Contact]:
        """All contacts."""
        return self.contacts.by_peer

    # What arrives ----------------------------------------------------------------------------------------------

    def is_banned(self, routing: bytes, now: float) -> bool:
        """Whether a connection misbehaved so often that it is not even read."""
        return self.reception.admission.is_banned(routing, now)

    def malformed(self, routing: bytes, error: RemoteError, now: float) -> None:
        """Take note of a message of the inbox that makes no sense, or of a damaged payload."""
        self.now = now
        self.metrics.count(f"frames_dropped.{error.code}")
        self.reception.admission.strike(routing, now, DAMAGE if isinstance(error, CorruptPayload) else 1.0)
        if isinstance(error, CorruptPayload):
            for contact in self.contacts:
                incoming = contact.incoming
                if incoming is not None and (incoming.routing, incoming.edge) == (routing, error.edge):
                    self.act(contact, incoming.corrupt(error.seq, now))

    def received(self, routing: bytes, message: Message, now: float) -> None:
        """Take one message of the inbox."""
        self.now = now
        try:
            if isinstance(message, Hello):
                self.greeting.greeted(routing, message, now)
                return
            peer = self.reception.admission.peer_of(routing)
        except RemoteError as error:
            self.malformed(routing, error, now)
            return
        contact = self.by_peer.get(peer)
        if contact is None:
            contact = self.contacts.reach(peer, now)
        if not contact.is_visitor and (actions := self.membership.heard(peer, now)):
            self.do(actions)
        self._serve(contact, routing, message, now)

    def _serve(self, contact: Contact, routing: bytes, message: Message, now: float) -> None:
        """Hand a message of an admitted sender to whom it concerns."""
        peer = contact.peer
        contact.tally.heard(message, now)
        match message:
            case Data() | Ack():  # nearly all of them
                self.act(contact, self.reception.handle(contact, routing, message, now))
            case Pong() if message.edge:
                self.act(contact, contact.out.pong(message, now))
            case Gossip() | Pong() | PingReq() | PingRes() | PpDigest() | PpRecords():
                contact.used_at = now
                self.do(self.membership.receive(peer, message, now))
            case StateReq() | StateRej() | LinksReq():
                self._affairs.asked(contact, message)
            case Error(code=ErrorCode.STALE_EPOCH):
                self._affairs.superseded(message.epoch)
            case HelloOk():
                self.greeting.answered(contact, message, now)
            case _:
                self.act(contact, self.reception.handle(contact, routing, message, now))

    def beaten(self, peer: NodeId, message: Message, now: float) -> None:
        """Take one broadcast of ``peer``."""
        self.now = now
        if isinstance(message, Heartbeat):
            if message.node != peer:
                self.metrics.count("frames_dropped.spoofed")
                return
            self.outlook.news = {**self.outlook.news, peer: PeerNews(message.step, message.rate, message.sketch)}
        elif not isinstance(message, Gossip):
            self.metrics.count("frames_dropped.unexpected")
            return
        self.do(self.membership.receive(peer, message, now))
        self.due = min(self.due, self.membership.next_deadline())

    def connection(self, peer: NodeId, *, up: bool, now: float) -> None:
        """Take note of a connection made or broken."""
        self.now = now
        contact = self.by_peer.get(peer)
        if contact is None:
            return
        self.metrics.count("connections_made" if up else "connections_broken")
        self.act(contact, contact.opened(now) if up else contact.broken())
        if up and (contact.is_neighbour or not self.neighbours):  # without neighbours: just joining
            self.do(self.membership.watched(peer, now))

    def refused(self, peer: NodeId, now: float) -> None:
        """Take note that nobody listens where ``peer`` did."""
        self.now = now
        self.do(self.membership.refused(peer, now))

    def writable(self, peer: NodeId, now: float) -> None:
        """Take note that the connection to ``peer`` has room again."""
        self.now = now
        if (contact := self.by_peer.get(peer)) is not None:
            self.act(contact, [])

    # What the owner wants --------------------------------------------------------------------------------------

    def submit(self, peers: Sequence[NodeId], packed: Packed, now: float) -> None:
        """Send an encoded frame; each link gets exactly one outcome, now or later."""
        self.now = now
        for peer in peers:
            contact = self.by_peer.get(peer)
            if contact is None:
                self.settle(packed.job, peer)
                continue
            contact.encoding = False
            self.metrics.count("frames_sent")
            self.metrics.count("payload_bytes_sent", len(packed.payload))
            self.act(contact, contact.out.submit(packed, now))

    def settle(self, job: JobId, peer: NodeId) -> None:
        """Give a frame's outcome on a link that is gone: lost."""
        self.act(None, [Settled(Outcome(job, peer, accepted=False))])

    def verdict(self, frame: Assembled, code: int, now: float) -> None:
        """Give the decoder's word on a frame to the link it came through, unless that one has been replaced."""
        self.now = now
        contact = self.by_peer.get(frame.peer)
        if contact is not None and contact.incoming is not None and contact.incoming is frame.link:
            contact.tally.judged(code, now - frame.first_chunk_at + frame.head.queued_ms / 1000 + contact.out.srtt / 2)
            self.act(contact, contact.incoming.verdict(frame.seq, code, now))

    def drained(self, now: float) -> None:
        """Take note that the owner emptied the mailbox: credit that had stopped returns."""
        self.now = now
        for contact in self.contacts:
            if contact.incoming is not None:
                self.act(contact, contact.incoming.drained(now))

    def tell(self, peer: NodeId, message: StateReq | StateRej, now: float) -> bool:
        """Send a message about state transfer; False: there is no connection to ``peer``."""
        self.now = now
        contact = self.by_peer.get(peer)
        if contact is None or not contact.connected:
            return False
        contact.queue(message)
        self.act(contact, [])
        return True

    def rewire(self, spec: TopologySpec, now: float) -> None:
        """Publish a graph; it is in force here at once, elsewhere as soon as it is heard of."""
        self.now = now
        self.do(self.membership.propose(spec, now))

    def leave(self, now: float) -> None:
        """Tell everybody that this worker leaves on purpose; its links live on until :meth:`say_goodbye`."""
        self.now = now
        self.is_leaving = True
        self.do(self.membership.leave(now))

    def say_goodbye(self, now: float) -> None:
        """End all links; nothing is expected of this worker any more."""
        self.now = now
        for contact in self.contacts:
            contact.queue(Bye(reason=ByeReason.LEAVE))
            self.act(contact, [])

    # What follows ----------------------------------------------------------------------------------------------

    def act(self, contact: Contact | None, actions: Sequence[Action]) -> None:
        """Do what a link said; sends and the owner's view follow in :meth:`flush`."""
        for action in actions:
            match action:
                case Send():
                    if contact is None:
                        raise AssertionError("a message is always for somebody")
                    contact.queue(action.message)
                case Settled():
                    self.metrics.count("frames_accepted" if action.outcome.accepted else "frames_lost")
                    self.outlook.outcomes.append(action.outcome)
                    if contact is not None:
                        contact.tally.settled(accepted=action.outcome.accepted)
                case Assembled():
                    self._decode(action)
                case _:
                    self._affairs.note(action)
        if not self._moved:
            self.on_moved()
        if contact is not None:
            self._moved[contact.peer] = contact

    def flush(self, now: float) -> None:
        """End a burst: send what it left to be sent, show the owner what it changed."""
        self.now = now
        due, sent, is_shown = self.due, 0, self._shown is self.contacts.linked
        while self._moved:
            self.flushed = moved = self._moved
            self._moved = {}
            for contact in moved.values():
                before = contact.sent_bytes
                contact.pump(now)
                sent += contact.sent_bytes - before
                due = min(due, contact.next_deadline)
                if contact.has_changed and contact.has_link:
                    is_shown = False
        if sent:
            self.metrics.count("bytes_sent", sent)
        self.due = min(due, self.membership.next_deadline())
        if is_shown:
            self.outlook.tell()
        else:
            self.refresh()

    def refresh(self) -> None:
        """Show the owner the links as they are now."""
        self._shown = self.contacts.linked
        self.outlook.states = tuple([contact.state for contact in self._shown])
        self.outlook.tell()

    def tick(self, now: float) -> None:
        """Do whatever is due."""
        self.now = now
        due, late = NEVER, list[Contact]()
        for contact in self.by_peer.values():
            at = contact.next_deadline
            if at <= now or contact.has_waiting:
                late.append(contact)
            elif at < due:
                due = at
        for contact in late:
            self.act(contact, contact.tick(now))
        if now >= self.membership.next_deadline():
            self.do(self.membership.tick(now))
        self._affairs.beat(now)
        if now >= self._tidy_at:
            self._tidy_at = now + TIDY
            self.metrics.count("connections_reset", self.contacts.tidy(now))
        self.due = min(due, self._tidy_at, self._affairs.beat_at)  # flushing arms for whom anything was done
        self.flush(now)

    def lagged(self, lag: float, now: float) -> None:
        """Take note that the driver's loop was late: nobody is to be judged for that."""
        self.now = now
        self.do(self.membership.lagged(lag, now))
