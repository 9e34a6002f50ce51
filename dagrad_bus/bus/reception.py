"""Who may speak, and which core a message is for. Pure: no socket, no clock of its own."""

from __future__ import annotations

from collections.abc import Callable

from dagrad_bus.bus.admission import Admission
from dagrad_bus.bus.contact import Contact
from dagrad_bus.bus.identity import Identity, codecs_of
from dagrad_bus.events import Send
from dagrad_bus.ids import NO_EDGE, NodeId, derive_edge_id
from dagrad_bus.link import Action, Dropped, InLink, Left, Rejected
from dagrad_bus.settings import LinkSettings
from dagrad_bus.wire import Ack, Bye, ByeReason, Data, Error, Hello, HelloOk, Message, Nack, NackCode, Ping, Pong


class Reception:
    """Turns messages of admitted peers into actions.

    Args:
        identity: who we are.
        hello: our HELLO, with the ports bound.
        settings: windows and limits of the links.
        has_room: whether the mailbox takes more of a peer.
    """

    def __init__(
        self, identity: Identity, hello: Hello, settings: LinkSettings, has_room: Callable[[NodeId], bool]
    ) -> None:
        self.admission = Admission()
        self._identity = identity
        self._hello = hello
        self._settings = settings
        self._has_room = has_room

    def greeted(self, contact: Contact, routing: bytes, message: Hello, now: float) -> list[Action]:
        """Take the HELLO of an admitted member: bind its connection and its link, and answer.

        Nothing the peer sent before this HELLO can still arrive on its new connection, so all of it is resolved.
        """
        incoming = self._incoming(contact, routing, message) if message.wanted else None
        if incoming is not None and message.edge == incoming.edge:
            incoming.ping(Ping(nonce=0, used=message.used, edge=incoming.edge), now)
        elif incoming is not None and not incoming.begin_anew():
            return []  # what is being decoded settles its numbers first; the sender says hello again
        contact.refusal = ""
        mine = self._hello
        answer = HelloOk(
            node=mine.node,
            job=mine.job,
            epoch=mine.epoch,
            incarnation=mine.incarnation,
            layout=mine.layout,
            host=mine.host,
            inbox_port=mine.inbox_port,
            beat_port=mine.beat_port,
            name=mine.name,
            max_frame=mine.max_frame,
            minor=mine.minor,
            chosen=min(mine.minor[1], message.minor[1]),
            capabilities=mine.capabilities,
            ack=incoming.info(now) if incoming is not None else None,
            edge=incoming.edge if incoming is not None else NO_EDGE,
        )
        return [Send(contact.peer, answer)]

    def _incoming(self, contact: Contact, routing: bytes, message: Hello) -> InLink:
        """Return the running link of these two processes, else a fresh one.

        A sender that begins anew (it had closed the connection) goes on behind the numbers used so far: within the life
        of an edge none is used twice, so a recorded frame is late for ever.
        """
        mine = self._identity
        edge = derive_edge_id(mine.node, mine.epoch, message.node, message.epoch)
        running = contact.incoming
        if running is not None and running.edge == edge:
            running.rebind(routing)
            return running
        contact.incoming = InLink(message.node, message.epoch, edge, routing, self._settings, self._has_room)
        return contact.incoming

    def handle(self, contact: Contact, routing: bytes, message: Message, now: float) -> list[Action]:
        """Take any other message of ``contact``."""
        out = contact.out
        match message:
            case Data():
                return self._data(contact, routing, message, now)
            case Ack() if message.edge == out.edge:
                return out.ack(message.info, now)
            case Nack() if message.edge == out.edge:
                return out.nack(message, now)
            case Ping():
                return self._ping(contact, routing, message, now)
            case Error():
                contact.refusal = message.text or f"error {message.code}"
                if contact.has_link:
                    return out.refused(message, now)
                return [Rejected(contact.peer, message.code, message.text)] if message.fatal else [Dropped("error")]
            case Pong():
                return out.pong(message, now)
            case Bye():
                return self._farewell(contact, message)
            case Ack() | Nack():
                return []  # about a link that has ended since: frames were on their way
            case _:
                return [Dropped("unexpected")]

    def _data(self, contact: Contact, routing: bytes, message: Data, now: float) -> list[Action]:
        incoming, out = contact.incoming, contact.out
        if incoming is None or incoming.edge != message.edge or incoming.routing != routing:
            return self._stray(contact, message)
        if message.ack is None or message.edge != out.edge:
            return incoming.data(message, now)
        return [*out.ack(message.ack, now), *incoming.data(message, now)]

    def _ping(self, contact: Contact, routing: bytes, message: Ping, now: float) -> list[Action]:
        if message.edge == NO_EDGE:
            return [Send(contact.peer, self._pong(message))]
        incoming = contact.incoming
        if incoming is None or incoming.edge != message.edge or incoming.routing != routing:
            return self._stray(contact, message)
        return [Send(contact.peer, self._pong(message)), *incoming.ping(message, now)]

    def _stray(self, contact: Contact, message: Data | Ping) -> list[Action]:
        nack = Nack(edge=message.edge, refused=message.seq, code=NackCode.BAD_EDGE)
        return [Dropped("bad_edge"), Send(contact.peer, nack)]

    def _pong(self, message: Ping) -> Pong:
        return Pong(nonce=message.nonce, epoch=self._identity.epoch, incarnation=0, edge=message.edge)

    def _farewell(self, contact: Contact, message: Bye) -> list[Action]:
        """Take a goodbye: of the member itself, or of its link to us."""
        epoch = contact.incoming.epoch if contact.incoming is not None else 0
        contact.incoming = None
        if message.reason == ByeReason.LEAVE:
            return [Left(contact.peer, epoch), *contact.out.broken()]
        return [Dropped("link_closed")]

    def answered(self, contact: Contact, message: HelloOk, now: float) -> list[Action]:
        """Take the answer to our HELLO, of an admitted member."""
        contact.codecs, contact.refusal = codecs_of(message), ""
        return contact.out.hello_ok(message, now) if contact.has_link else []
