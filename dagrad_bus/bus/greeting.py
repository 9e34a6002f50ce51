"""Hellos: who is let in, who is told why not, and whose earlier life is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrad_bus.bus.contact import Contact
from dagrad_bus.bus.identity import record_of
from dagrad_bus.errors import LayoutMismatch, RemoteError, VersionMismatch
from dagrad_bus.events import Send
from dagrad_bus.link import Dropped
from dagrad_bus.wire import Error, ErrorCode, Hello, HelloOk

if TYPE_CHECKING:
    from dagrad_bus.bus.node import Node

JOINERS, MOST_JOINERS = 5.0, 5
"""Members nobody knew that are let in, each second and at once: a flood of them would take every neighbour's place."""


class Greeting:
    """Takes the greetings that one node gets."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._places, self._counted_at = float(MOST_JOINERS), node.now

    def greeted(self, routing: bytes, message: Hello, now: float) -> None:
        """Take a HELLO.

        Raises:
            RemoteError: its sender is not let in.
        """
        try:
            self._node.identity.admit(message)
        except (LayoutMismatch, VersionMismatch) as error:
            self._refuse(message, error, now)
            raise
        if not message.is_visitor and (self._is_stale(message, now) or self._must_wait(message, now)):
            return
        self._node.reception.admission.bind(routing, message.node)
        record = record_of(message)
        contact = self._node.contacts.reach(message.node, now, (record.inbox, record.beat))
        contact.is_visitor = message.is_visitor
        if not message.is_visitor:
            self._node.do(self._node.membership.greeted(record, now))
            self._node.contacts.listen(contact)
        self._node.act(contact, self._node.reception.greeted(contact, routing, message, now))

    def _refuse(self, message: Hello, error: RemoteError, now: float) -> None:
        """Tell a member that it cannot be talked to, and why."""
        record = record_of(message)
        contact = self._node.contacts.reach(message.node, now, (record.inbox, record.beat))
        contact.refusal = str(error)
        self._node.act(contact, [Send(contact.peer, self._node.identity.refusal(error))])
        self.judge_refusals()

    def _must_wait(self, message: Hello, now: float) -> bool:
        """Whether too many unknown members came lately; one that is honest says hello again."""
        if self._node.membership.record_of(message.node) is not None:
            return False
        self._places = min(MOST_JOINERS, self._places + (now - self._counted_at) * JOINERS)
        self._counted_at = now
        if self._places < 1:
            self._node.metrics.count("frames_dropped.joining")
            return True
        self._places -= 1
        return False

    def _is_stale(self, message: Hello, now: float) -> bool:
        """Whether a later process of this name is known: a wall clock was set back, or two run under one name."""
        known = self._node.membership.record_of(message.node)
        if known is None or message.epoch >= known.epoch:
            return False
        self._node.metrics.count("frames_dropped.stale_epoch")
        contact = self._node.by_peer.get(message.node)
        if contact is None or not contact.connected:
            record = record_of(message)
            contact = self._node.contacts.reach(message.node, now, (record.inbox, record.beat))
            contact.queue(Error(code=ErrorCode.STALE_EPOCH, text="a later process is known", epoch=known.epoch))
            self._node.act(contact, [])
        return True

    def answered(self, contact: Contact, message: HelloOk, now: float) -> None:
        """Take the answer to our own HELLO."""
        try:
            self._node.identity.admit(message)
        except RemoteError as error:
            self._node.act(contact, [Dropped(error.code)])
            return
        self._node.do(self._node.membership.greeted(record_of(message), now))
        self._node.contacts.listen(contact)
        self._node.act(contact, self._node.reception.answered(contact, message, now))

    def judge_refusals(self) -> None:
        """A worker whose neighbours all train another model is the one that is wrong: its owner must hear of it.

        One that is just joining has no neighbours yet: then those count that it turned to.
        """
        node = self._node
        is_outside = not node.neighbours and not node.was_accepted and node.settings.joins
        asked = list(node.contacts) if is_outside else node.contacts.linked
        refusals = [contact.refusal for contact in asked]
        if refusals and all(refusals) and self._node.outlook.failure is None:
            self._node.outlook.failure = LayoutMismatch(f"no neighbour trains the same model: {refusals[0]}")
