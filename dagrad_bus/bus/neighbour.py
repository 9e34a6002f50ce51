"""Everything the bus keeps about one neighbour: both directions of its link and what waits to be sent."""

from __future__ import annotations

from collections import deque

from dagrad_bus.codec import Codec
from dagrad_bus.events import LinkState, Send
from dagrad_bus.ids import NodeId
from dagrad_bus.link import Action, InLink, OutLink
from dagrad_bus.rendezvous import Address
from dagrad_bus.settings import LinkSettings
from dagrad_bus.transport import Transport
from dagrad_bus.wire import Data, Hello, Message, pack

CONTROL_QUEUE = 256
"""Control messages waiting for a connection; the oldest goes first, all of them are repeated or timed."""


class Neighbour:
    """One neighbour.

    Args:
        peer: its id.
        name: its name, for people.
        hello: this worker's HELLO.
        settings: windows and times of the links.
        transport: sockets.
    """

    def __init__(self, peer: NodeId, name: str, hello: Hello, settings: LinkSettings, transport: Transport) -> None:
        self.peer = peer
        self.name = name
        self.out = OutLink(peer, hello, settings)
        self.incoming: InLink | None = None
        self.address: Address | None = None
        self.codecs: frozenset[Codec] = frozenset()
        self.encoding = False
        """A frame for this link is being encoded: another one now would only wait behind it."""
        self.decoding = 0
        """Frames of this link with the decoder thread; while there are any, all go there, so their order holds."""
        self.refusal = ""
        """Why the peer, or this worker, refuses the link; empty while nothing stands against it."""
        self.sent_bytes = 0
        self._transport = transport
        self._connected = False
        self._control: deque[Message] = deque(maxlen=CONTROL_QUEUE)
        self._shown = LinkState(peer, ready=False, generation=self.out.generation)

    @property
    def ready(self) -> bool:
        """Whether a frame handed over now would leave at once."""
        return self.out.ready and not self.encoding

    @property
    def has_changed(self) -> bool:
        """Whether the outgoing link is no longer as :attr:`state` last showed it."""
        return self._shown.ready != self.ready or self._shown.generation != self.out.generation

    @property
    def state(self) -> LinkState:
        """The outgoing link, for its owner; the same object until something about it changes."""
        if self.has_changed:
            self._shown = LinkState(self.peer, self.ready, self.out.generation)
        return self._shown

    def connected(self, now: float) -> list[Action]:
        """Take note of a finished handshake. The HELLO goes first: before it the peer does not know who speaks."""
        self._connected = True
        actions = self.out.connected(now)
        self._control.extendleft(action.message for action in actions if isinstance(action, Send))
        return [action for action in actions if not isinstance(action, Send)]

    def broken(self) -> list[Action]:
        """Take note of a broken connection: control that waits was meant for it, frames on it are lost."""
        self._connected = False
        self._control.clear()
        return self.out.broken()

    def queue(self, message: Message) -> None:
        """Put a control message on its way; :meth:`pump` sends it."""
        self._control.append(message)

    def pump(self, now: float) -> bool:
        """Send control messages, then chunks, until nothing waits or libzmq takes no more.

        Returns:
            Whether a chunk left, which may have made the link ready again.
        """
        if not self._connected:
            return False
        while self._control:
            if not self._send(self._control[0]):
                return False
            self._control.popleft()
        moved = False
        while (chunk := self._next_chunk(now)) is not None:
            if not self._send(chunk):
                break
            self.out.chunk_sent(now)
            moved = True
            if chunk.ack is not None and self.incoming is not None:
                self.incoming.ack_sent()
        return moved

    def _next_chunk(self, now: float) -> Data | None:
        if not self.out.has_unsent:
            return None
        ack = self.incoming.riding_ack(now) if self.incoming is not None else None
        return self.out.next_chunk(now, ack)

    def _send(self, message: Message) -> bool:
        parts = pack(message)
        if not self._transport.send(self.peer, parts):
            return False
        self.sent_bytes += sum(map(len, parts))
        return True

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent, or nobody is there to take it."""
        return not self._control or not self._connected
