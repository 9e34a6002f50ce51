"""Who may speak, and which core a message is for. Pure: no socket, no clock of its own."""

from __future__ import annotations

from collections.abc import Callable

from dagrad_bus.bus.admission import Admission
from dagrad_bus.bus.identity import Identity, codecs_of
from dagrad_bus.bus.neighbour import Neighbour
from dagrad_bus.errors import RemoteError
from dagrad_bus.events import Send
from dagrad_bus.ids import NodeId, derive_edge_id
from dagrad_bus.link import Action, Dropped, InLink, Left
from dagrad_bus.settings import LinkSettings
from dagrad_bus.wire import Ack, Bye, Data, Error, Hello, HelloOk, Message, Nack, NackCode, Ping, Pong


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

    def greeted(self, neighbour: Neighbour, routing: bytes, message: Hello, now: float) -> list[Action]:
        """Take the HELLO of an admitted neighbour: bind its connection and its link, and answer.

        Nothing the peer sent before this HELLO can still arrive on its new connection, so all of it is resolved.
        """
        incoming = self._incoming(neighbour, routing, message)
        if message.edge == incoming.edge:
            incoming.ping(Ping(nonce=0, used=message.used, edge=incoming.edge), now)
        neighbour.refusal = ""
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
            ack=incoming.info(now),
            edge=incoming.edge,
        )
        return [Send(neighbour.peer, answer)]

    def _incoming(self, neighbour: Neighbour, routing: bytes, message: Hello) -> InLink:
        """Return the running link if the sender means it, else a fresh one."""
        mine = self._identity
        edge = derive_edge_id(mine.node, mine.epoch, message.node, message.epoch)
        running = neighbour.incoming
        if running is not None and running.edge == edge == message.edge:
            running.rebind(routing)
            return running
        neighbour.incoming = InLink(message.node, message.epoch, edge, routing, self._settings, self._has_room)
        return neighbour.incoming

    def handle(self, neighbour: Neighbour, routing: bytes, message: Message, now: float) -> list[Action]:
        """Take any other message of ``neighbour``."""
        out = neighbour.out
        match message:
            case Data() | Ping():
                return self._from_link(neighbour, routing, message, now)
            case Ack() if message.edge == out.edge:
                return out.ack(message.info, now)
            case Nack() if message.edge == out.edge:
                return out.nack(message, now)
            case HelloOk():
                return self._answered(neighbour, message, now)
            case Error():
                neighbour.refusal = message.text or f"error {message.code}"
                return out.refused(message, now)
            case Pong():
                return out.pong(message, now)
            case Bye():
                return [Left(neighbour.peer), *out.broken()]
            case _:
                return [Dropped("unexpected")]

    def _from_link(self, neighbour: Neighbour, routing: bytes, message: Data | Ping, now: float) -> list[Action]:
        incoming, out = neighbour.incoming, neighbour.out
        if incoming is None or incoming.edge != message.edge or incoming.routing != routing:
            nack = Nack(edge=message.edge, refused=message.seq, code=NackCode.BAD_EDGE)
            return [Dropped("bad_edge"), Send(neighbour.peer, nack)]
        if isinstance(message, Ping):
            pong = Pong(nonce=message.nonce, epoch=self._identity.epoch, incarnation=0)
            return [Send(neighbour.peer, pong), *incoming.ping(message, now)]
        rode = out.ack(message.ack, now) if message.ack is not None and message.edge == out.edge else []
        return [*rode, *incoming.data(message, now)]

    def _answered(self, neighbour: Neighbour, message: HelloOk, now: float) -> list[Action]:
        try:
            self._identity.admit(message)
        except RemoteError as error:
            return [Dropped(error.code)]
        neighbour.codecs = codecs_of(message)
        return neighbour.out.hello_ok(message, now)
