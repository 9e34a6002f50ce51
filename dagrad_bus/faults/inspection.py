"""A look inside a running bus: members, neighbours, links, as plain data for JSON."""

from __future__ import annotations

from typing import Any

from dagrad_bus.handoff import BusThread
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.settings import Settings


def bus_state(bus: BusThread, settings: Settings) -> dict[str, object]:
    """Return what the bus of this process knows, by worker name.

    Read from another thread than the loop's: each value is whole, all of them together need not be of one moment.
    """
    engine: Any = bus._bus
    node = engine.node
    membership = node.membership
    names = {derive_node_id(settings.run, name): name for name in settings.members}

    def name(peer: NodeId) -> str:
        return names.get(peer) or str(membership.name_of(peer))

    contacts = {name(peer): contact for peer, contact in dict(node.by_peer).items()}
    incoming = [contact.incoming for contact in contacts.values() if contact.incoming is not None]
    return {
        "epoch": node.identity.epoch,
        "neighbours": [name(peer) for peer in node.neighbours],
        "links": {name(link.peer): [link.ready, link.generation] for link in engine.outlook.states},
        "out": {peer: contact.out.state.value for peer, contact in contacts.items()},
        "assembly": sum(link.assembly_bytes for link in incoming),
        "mailbox": {peer: engine.mailbox.waiting(contact.peer) for peer, contact in contacts.items()},
        "srtt": max((contact.out.srtt for contact in contacts.values()), default=0.0),
        **_members(membership),
    }


def _members(membership: Any) -> dict[str, object]:
    table = dict(membership.table)
    return {
        "members": {membership.name_of(peer): record.state.name for peer, record in table.items()},
        "expected": [membership.name_of(peer) for peer in table if membership.is_expected(peer)],
        "incarnations": {membership.name_of(peer): record.incarnation for peer, record in table.items()},
        "epochs": {membership.name_of(peer): record.epoch for peer, record in table.items()},
        "digest": membership.digest,
        "health": membership.health,
        "spec": membership.spec.version,
    }
