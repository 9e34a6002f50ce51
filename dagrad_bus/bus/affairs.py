"""What membership decides, carried out: broadcasts, messages, connections, events; and the heartbeat."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dagrad_bus.bus.contact import Contact
from dagrad_bus.bus.link_reports import answer
from dagrad_bus.errors import UsageError
from dagrad_bus.events import MemberEvent, PeerNews
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.link import Dropped, Left, LinkUp, Rejected, Stalled
from dagrad_bus.membership import (
    Action,
    Flood,
    GraphMissing,
    Healed,
    MemberChanged,
    NeighboursChanged,
    SpecChanged,
    Superseded,
    Tell,
)
from dagrad_bus.wire import Gossip, LinksReq, MemberState, StateRej, StateReq

if TYPE_CHECKING:
    from dagrad_bus.bus.node import Node

TRAINING, WEDGED, LEAVING, SYNCING = 1, 2, 4, 8
"""States in a heartbeat."""
JITTER = 0.1
"""Heartbeats come this share early or late, so that those of many workers spread."""
SLOW_STEPS = 10
"""A training thread that took no step for as long as this many of its steps may be stuck."""
_GONE = {"dead", "left"}


class Affairs:
    """The membership side of one node."""

    def __init__(self, node: Node, rng: np.random.Generator) -> None:
        self._node = node
        self._rng = rng
        self._healed: set[NodeId] = set()
        self.beat_at = node.now
        """When the next heartbeat is due."""

    def do(self, actions: Iterable[Action]) -> None:
        """Carry out what the membership core says."""
        node = self._node
        for action in actions:
            match action:
                case Flood(message=message):
                    node.metrics.count("gossip_sent", len(message.records))
                    node.metrics.count("bytes_sent", node.port.broadcast(message))
                case Tell(peer=peer, message=message):
                    contact = node.contacts.reach(peer, node.now)
                    contact.queue(message)
                    node.act(contact, [])
                case NeighboursChanged():
                    node.metrics.count("neighbours_changed")
                    node.contacts.set_neighbours(action.neighbours, node.now)
                    kept = {*action.neighbours}
                    node.outlook.news = {peer: news for peer, news in node.outlook.news.items() if peer in kept}
                    node.act(None, [])
                case MemberChanged():
                    self._changed(action)
                case _:
                    self._rare(action)

    def asked(self, contact: Contact, message: StateReq | StateRej | LinksReq) -> None:
        """Pass on what concerns the owner, and tell of the links who wants to know."""
        node = self._node
        match message:
            case StateReq():
                node.outlook.requests.append((contact.peer, message))
                node.outlook.tell()
            case StateRej():
                node.outlook.rejections.append((contact.peer, message))
                node.outlook.tell()
            case LinksReq():
                contact.used_at = node.now
                for part in answer(contact, message, node.contacts, node.mailbox.waiting, node.now):
                    contact.queue(part)
                node.act(contact, [])

    def note(self, action: LinkUp | Left | Rejected | Stalled | Dropped) -> None:
        """Count what a link said that needs nothing else done, and pass on what is rare."""
        node = self._node
        match action:
            case Rejected():
                node.on_event(action)
                node.greeting.judge_refusals()
            case LinkUp():
                node.was_accepted = True
                node.metrics.count("links_up")
                node.on_event(action)
                self.link_is_up(action.peer)
            case Stalled():
                node.metrics.count("link_stalled")
            case Left():
                self.said_goodbye(action.peer, action.epoch)
            case Dropped():
                node.metrics.count(f"frames_dropped.{action.reason}")

    def _rare(self, action: SpecChanged | GraphMissing | Healed | Superseded) -> None:
        """Take what is rarer still."""
        node = self._node
        match action:
            case SpecChanged(spec=spec):
                node.metrics.count("rewired")
                node.metrics.gauge("spec_version", spec.version)
                why = f"version {spec.version}: {spec.kind}"
                node.outlook.events.append(MemberEvent(node.self_id, node.settings.name, "rewired", why))
                node.on_event(action)
            case GraphMissing():
                node.metrics.count("graphs_missing")
                node.on_event(action)
            case Healed(members=members):
                node.metrics.count("partitions_healed")
                why = f"apart for {action.outage:.0f} s"
                for peer in members:
                    node.outlook.events.append(MemberEvent(peer, node.membership.name_of(peer), "healed", why))
                self._healed.update(members)
                for peer in members:
                    self.link_is_up(peer)
            case Superseded(epoch=epoch):
                self.superseded(epoch)

    def _changed(self, change: MemberChanged) -> None:
        node = self._node
        node.metrics.count(f"members_changed.{change.new}")
        node.on_event(change)
        peer = change.node
        state = node.membership.state_of(peer)
        if state is not None:
            node.outlook.members = {**node.outlook.members, change.name: state.name.lower()}
        node.outlook.events.append(MemberEvent(peer, change.name, change.new, change.why))
        if peer == node.self_id:
            node.outlook.rejoined += change.new == "rejoined"
        elif change.new in _GONE:
            contact = node.by_peer.get(peer)
            if contact is not None:
                node.contacts.close(contact, node.now)
            node.outlook.news = {known: news for known, news in node.outlook.news.items() if known != peer}
            self._healed.discard(peer)
        node.outlook.tell()

    def link_is_up(self, peer: NodeId) -> None:
        """Tell the owner of a link to a member that a partition had cut off, as soon as it takes frames."""
        contact = self._node.by_peer.get(peer)
        if peer in self._healed and contact is not None and contact.out.edge and contact.is_neighbour:
            self._healed.discard(peer)
            self._node.outlook.healed.append(peer)

    def said_goodbye(self, peer: NodeId, epoch: int) -> None:
        """Take a member's own goodbye for the news that this life of it has ended; 0: nobody knows which one it was."""
        node = self._node
        node.metrics.count("peers_left")
        record = node.membership.record_of(peer)
        if record is not None and epoch in {0, record.epoch}:
            news = Gossip(records=(replace(record, state=MemberState.LEFT, accuser=b""),))
            self.do(node.membership.receive(peer, news, node.now))

    def superseded(self, epoch: int) -> None:
        """Take note that a later process of this worker's name is known.

        At the start it was an earlier life under a clock that was ahead: take a later epoch. Afterwards it is another
        process that runs under the same name: this one must not go on.
        """
        node = self._node
        if epoch < node.identity.epoch:
            return
        if not node.was_accepted:
            node.renew(epoch)
        elif node.outlook.failure is None:
            name = node.settings.name
            node.outlook.failure = UsageError(f"another process runs as {name!r}: give each worker its own name")

    def beat(self, now: float) -> None:
        """Send a heartbeat if one is due."""
        if now < self.beat_at:
            return
        node = self._node
        interval = node.settings.beat.interval
        self.beat_at = now + interval * (1 + JITTER * (2 * float(self._rng.random()) - 1))
        self._look_around()
        step, rate, at = node.outlook.progress
        progress = max(0.0, now - at) if at else 0.0
        message = node.membership.heartbeat(
            now,
            state=self._state(progress, rate),
            step=step,
            rate=rate,
            progress_ms=round(progress * 1000),
            lag_ms=round(node.lag * 1000),
        )
        listeners = sum(contact.is_neighbour for contact in node.contacts)
        node.metrics.count("bytes_sent", node.port.broadcast(message) * listeners)

    def _look_around(self) -> None:
        """Forget what former neighbours said last; keep what is known of all members for an owner that explores them."""
        node = self._node
        linked = {contact.peer for contact in node.contacts.linked}
        if node.outlook.news.keys() - linked:  # heard until their link ended
            node.outlook.news = {peer: news for peer, news in node.outlook.news.items() if peer in linked}
        if not node.settings.exchange.explore:
            return
        others: dict[NodeId, PeerNews] = {}
        for peer in node.membership.view:
            record = node.membership.record_of(peer)
            if record is not None and record.epoch and peer not in node.outlook.news and peer != node.self_id:
                others[peer] = PeerNews(Step(record.sketch_step), 0.0, record.sketch)
        node.outlook.others = others

    def _state(self, progress: float, rate: float) -> int:
        node = self._node
        patience = max(node.settings.beat.wedged, SLOW_STEPS / rate if rate > 0 else 0.0)
        return (
            (WEDGED if progress > patience else TRAINING)
            | (LEAVING if node.is_leaving else 0)
            | (SYNCING if node.outlook.is_syncing else 0)
        )
