"""Everything a worker keeps about one other worker it is connected to: both directions of a link, and what waits.

A contact is a *neighbour* (the graph joins us: a link is wanted), a *former* neighbour whose link is kept until the new
ones are up, an *explored* member (a link for a while), one that has a link to us and needs our answers, or a *probe*: a
few control messages, and it is closed again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Protocol

from dagrad_bus.bus.tally import Tally
from dagrad_bus.codec import Codec
from dagrad_bus.events import LinkState, Send
from dagrad_bus.ids import NodeId
from dagrad_bus.link import Action, InLink, OutLink
from dagrad_bus.settings import LinkSettings
from dagrad_bus.wire import Data, Hello, Message

NEVER = float("inf")
CONTROL_QUEUE = 256
"""Control messages waiting for a connection; the oldest goes first, all of them are repeated or timed."""


class Port(Protocol):
    """What a worker needs of a network: connections to send on, and a broadcast. Nothing here blocks."""

    inbox: str
    """Endpoint of our inbox, as told to others."""
    beat: str
    """Endpoint of our broadcasts, as told to others."""

    def connect(self, peer: NodeId, inbox: str, beat: str | None) -> None:
        """Open a connection, and listen to the broadcasts at ``beat``; a former connection to ``peer`` is replaced."""
        ...

    def listen(self, peer: NodeId, beat: str | None) -> None:
        """Listen to the broadcasts of a connected ``peer``, or no more."""
        ...

    def disconnect(self, peer: NodeId) -> None:
        """Close what is open towards ``peer``; what was sent before still goes out."""
        ...

    def address_of(self, peer: NodeId) -> str | None:
        """Return the inbox that is connected to, or None."""
        ...

    def send(self, peer: NodeId, message: Message) -> int:
        """Return the bytes taken; 0: not connected or no room, nothing was taken."""
        ...

    def broadcast(self, message: Message) -> int:
        """Return the bytes of one copy; who cannot take it misses it."""
        ...


class Contact:
    """One other worker.

    Args:
        peer: its id.
        hello: this worker's HELLO.
        settings: windows and times of the links.
        port: the network.
    """

    def __init__(self, peer: NodeId, hello: Hello, settings: LinkSettings, port: Port) -> None:
        self.peer = peer
        self.out = OutLink(peer, hello, settings)
        self.incoming: InLink | None = None
        self.codecs: frozenset[Codec] = frozenset()
        self.encoding = False
        """A frame for this link is being encoded: another one now would only wait behind it."""
        self.refusal = ""
        """Why the peer, or this worker, refuses the link; empty while nothing stands against it."""
        self.is_neighbour = False
        self.is_visitor = False
        """It looks at the run and is no member."""
        self.closing_at: float | None = None
        """A former neighbour: when its link ends at the latest."""
        self.explored_until = 0.0
        self.used_at = 0.0
        """When it was last needed for anything else."""
        self.sent_bytes = 0
        self.tally = Tally()
        self.connected = False
        self._hello = hello
        self._port = port
        self._control: deque[Message] = deque(maxlen=CONTROL_QUEUE)
        self._shown = LinkState(peer, ready=False, generation=self.out.generation)

    @property
    def has_link(self) -> bool:
        """Whether an outgoing link is wanted."""
        return self.is_neighbour or self.closing_at is not None or self.explored_until > 0

    @property
    def ready(self) -> bool:
        """Whether a frame handed over now would leave at once."""
        return self.out.ready and not self.encoding

    @property
    def has_changed(self) -> bool:
        """Whether the outgoing link is no longer as :attr:`state` last showed it."""
        shown, out = self._shown, self.out
        return shown.ready != (out.ready and not self.encoding) or shown.generation != out.generation

    @property
    def state(self) -> LinkState:
        """The outgoing link, for its owner; the same object until something about it changes."""
        if self.has_changed:
            self._shown = LinkState(self.peer, self.ready, self.out.generation)
        return self._shown

    def greet_as(self, hello: Hello) -> None:
        """Use another HELLO from now on: the worker's own address or epoch changed."""
        self._hello = hello
        self.out.greet_as(hello)

    def opened(self, now: float) -> list[Action]:
        """Take note of a finished handshake. The HELLO goes first: before it the peer does not know who speaks."""
        self.connected = True
        if not self.has_link:
            self._control.appendleft(replace(self._hello, wanted=False))
            return []
        actions = self.out.connected(now)
        self._control.extendleft(action.message for action in actions if isinstance(action, Send))
        return [action for action in actions if not isinstance(action, Send)]

    def want_link(self, now: float) -> list[Action]:
        """Begin a link on a connection that stands already."""
        return self.out.connected(now) if self.connected else []

    def drop_link(self) -> list[Action]:
        """End the outgoing link: what was on its way counts as lost, and nothing is owed any more."""
        self.is_neighbour, self.closing_at, self.explored_until = False, None, 0.0
        return self.out.broken()

    def broken(self) -> list[Action]:
        """Take note of a broken connection: control that waits was meant for it, frames on it are lost."""
        self.connected = False
        self._control.clear()
        return self.out.broken()

    def queue(self, message: Message) -> None:
        """Put a control message on its way; :meth:`pump` sends it."""
        self._control.append(message)

    @property
    def next_deadline(self) -> float:
        """When one of both directions has something to do by the clock; infinite: neither."""
        at = self.out.next_deadline()
        ack_at = self.incoming.next_deadline() if self.incoming is not None else None
        if at is None:
            return NEVER if ack_at is None else ack_at
        return at if ack_at is None or at <= ack_at else ack_at

    def tick(self, now: float) -> list[Action]:
        """Do what is due in both directions."""
        actions = self.out.tick(now)
        return [*actions, *self.incoming.tick(now)] if self.incoming is not None else actions

    @property
    def has_waiting(self) -> bool:
        """Whether something waits that :meth:`pump` might send."""
        return self.connected and (bool(self._control) or self.out.has_unsent)

    def pump(self, now: float) -> bool:
        """Send control messages, then chunks, until nothing waits or the network takes no more.

        Returns:
            Whether a chunk left, which may have made the link ready again.
        """
        if not self.has_waiting:
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
            self.tally.bytes_sent += len(chunk.payload)
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
        size = self._port.send(self.peer, message)
        self.sent_bytes += size
        return size > 0

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent, or nobody is there to take it."""
        return not self._control or not self.connected
