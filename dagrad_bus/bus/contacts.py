"""Whom a worker is connected to, and why: new connections are made before old ones are broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from dagrad_bus.bus.contact import Contact, Port
from dagrad_bus.ids import NodeId
from dagrad_bus.link import Action, State
from dagrad_bus.settings import LinkSettings
from dagrad_bus.wire import Bye, ByeReason, Hello

OVERLAP = 0.5
"""Seconds a former neighbour's link lives on at least: what was addressed to it is on its way."""
LONGEST_OVERLAP = 10.0
"""Seconds after which it ends, whether the new links are up or not."""
PROBE_LIFE = 10.0
"""Seconds an unused connection to a member that is no neighbour stays open."""
EXPLORE_LIFE = 60.0
"""Seconds a link to an explored member lives."""
MOST_EXPLORED = 2
MOST_CONTACTS = 256
"""Beyond this, connections that nothing needs are closed at once, the longest unused first."""

Act = Callable[[Contact, list[Action]], None]
Address = tuple[str, str]
"""Inbox and beat endpoints."""


class Contacts:
    """All contacts of one worker, and the rules by which they come and go.

    Args:
        hello: ours.
        settings: of the links.
        port: the network.
        locate: returns the endpoints of a member, or None while they are unknown.
        act: takes what follows for the link of a contact.
    """

    def __init__(
        self, hello: Hello, settings: LinkSettings, port: Port, locate: Callable[[NodeId], Address | None], act: Act
    ) -> None:
        self.by_peer: dict[NodeId, Contact] = {}
        self._hello = hello
        self._settings = settings
        self._port = port
        self._locate = locate
        self._act = act
        self._linked: list[Contact] | None = None
        """Kept until a link is wanted or no more: it is asked for after each burst."""
        self._generations: dict[NodeId, int] = {}
        """Of contacts that were closed: a link that comes back is never taken for the former one."""

    def __iter__(self) -> Iterator[Contact]:
        """Iterate over a copy: acting on a contact may remove others."""
        return iter(list(self.by_peer.values()))

    @property
    def linked(self) -> list[Contact]:
        """Contacts towards which a link is wanted, sorted by id; the same list until others are wanted. Read-only."""
        if self._linked is None:
            self._linked = sorted((c for c in self.by_peer.values() if c.has_link), key=lambda c: c.peer)
        return self._linked

    def greet_as(self, hello: Hello) -> None:
        """Use another HELLO from now on."""
        self._hello = hello
        for contact in self.by_peer.values():
            contact.greet_as(hello)

    def reach(self, peer: NodeId, now: float, address: Address | None = None) -> Contact:
        """Return the contact of ``peer``, connected or about to be wherever its address is known.

        Args:
            peer: whom.
            now: marks the contact as used.
            address: where it is, if the caller knows better than the member table.
        """
        contact = self.by_peer.get(peer)
        if contact is None:
            self._make_room(now)
            contact = self.by_peer[peer] = Contact(peer, self._hello, self._settings, self._port)
            contact.out.generation = self._generations.get(peer, 0)
        contact.used_at = now
        at = address or self._locate(peer)
        known = self._port.address_of(peer)
        if at is not None and (known is None or (address is not None and known != at[0])):
            self.connect(contact, at)
        return contact

    def connect(self, contact: Contact, address: Address) -> None:
        """Open a contact's connection, or open it anew."""
        self._act(contact, contact.broken())
        inbox, beat = address
        self._port.connect(contact.peer, inbox, beat if contact.is_neighbour else None)

    def _make_room(self, now: float) -> None:
        if len(self.by_peer) < MOST_CONTACTS:
            return
        idle = [c for c in self.by_peer.values() if not c.has_link]
        if idle:
            self.close(min(idle, key=lambda c: c.used_at), now)

    def set_neighbours(self, neighbours: Iterable[NodeId], now: float) -> None:
        """Open links to new neighbours; those to former ones end later, by :meth:`tidy`."""
        wanted = set(neighbours)
        for contact in self:
            if contact.is_neighbour and contact.peer not in wanted:
                contact.is_neighbour, contact.closing_at = False, now + LONGEST_OVERLAP
        for peer in sorted(wanted):
            known = self.by_peer.get(peer)
            if known is not None and known.is_neighbour:
                continue
            self._begin(self.reach(peer, now), now)

    def _begin(self, contact: Contact, now: float) -> None:
        had_link = contact.has_link
        contact.is_neighbour, contact.closing_at = True, None
        self._linked = None
        self.listen(contact)
        self._act(contact, [] if had_link else contact.want_link(now))

    def listen(self, contact: Contact) -> None:
        """Hear the broadcasts of a neighbour or explored member, now that it is known where they are."""
        address = self._locate(contact.peer)
        if (contact.is_neighbour or contact.explored_until) and address is not None:
            self._port.listen(contact.peer, address[1])

    def explore(self, peers: Iterable[NodeId], now: float) -> None:
        """Open links, for a while, to members that are no neighbours; more than two at a time are too many."""
        for peer in peers:
            explored = [c for c in self.by_peer.values() if c.explored_until]
            contact = self.by_peer.get(peer)
            if contact is not None and contact.has_link:
                contact.explored_until = now + EXPLORE_LIFE if contact.explored_until else 0.0
            elif len(explored) < MOST_EXPLORED:
                contact = self.reach(peer, now)
                contact.explored_until = now + EXPLORE_LIFE
                self._linked = None
                self.listen(contact)
                self._act(contact, contact.want_link(now))

    def tidy(self, now: float) -> int:
        """End links whose time is over, and connections that nothing needs.

        Returns:
            How many connections without any progress were made anew.
        """
        renewed = 0
        settled = any(c.closing_at is not None for c in self.by_peer.values()) and all(
            c.out.state in {State.UP, State.STALLED} for c in self.by_peer.values() if c.is_neighbour
        )
        for contact in self:
            if contact.closing_at is not None:
                overlapped = now >= contact.closing_at - LONGEST_OVERLAP + OVERLAP
                if now >= contact.closing_at or (settled and overlapped):
                    self._end_link(contact, now)
            elif contact.explored_until and now >= contact.explored_until:
                self._end_link(contact, now)
            elif not contact.has_link and contact.incoming is None and now - contact.used_at > PROBE_LIFE:
                self.close(contact, now)
            elif contact.has_link and self._port.address_of(contact.peer) is None:  # unknown then, or no descriptor
                self.reach(contact.peer, now)
            elif contact.out.is_dead(now) and (address := self._locate(contact.peer)) is not None:
                self.connect(contact, address)
                renewed += 1
        return renewed

    def _end_link(self, contact: Contact, now: float) -> None:
        edge = contact.out.edge
        self._drop(contact)
        contact.queue(Bye(reason=ByeReason.REWIRED, edge=edge))
        contact.used_at = now
        self._port.listen(contact.peer, None)
        self._act(contact, [])

    def _drop(self, contact: Contact) -> None:
        self._linked = None
        self._act(contact, contact.drop_link())

    def close(self, contact: Contact, now: float) -> None:
        """Close a contact's connection and forget it; its link, if there was one, ends without a word."""
        contact.pump(now)
        self._drop(contact)
        del self.by_peer[contact.peer]
        if contact.out.generation:  # visitors and probes had no link, and are without number
            self._generations[contact.peer] = contact.out.generation
        self._port.disconnect(contact.peer)
