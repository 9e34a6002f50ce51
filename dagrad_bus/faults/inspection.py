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
    names = {derive_node_id(settings.run, name): name for name in settings.members}
    node = getattr(engine, "node", engine)
    membership = getattr(node, "membership", None)
    found: dict[str, object] = {
        "neighbours": [_name(names, membership, peer) for peer in node.neighbours],
        "links": {_name(names, membership, link.peer): [link.ready, link.generation] for link in engine.states},
        "out": {},
        "epoch": node.identity.epoch,
        "members": {},
    }
    found["out"] = {
        _name(names, membership, peer): contact.out.state.value for peer, contact in dict(node.by_peer).items()
    }
    found["assembly"] = sum(
        contact.incoming.assembly_bytes for contact in dict(node.by_peer).values() if contact.incoming is not None
    )
    trips = [contact.out.srtt for contact in dict(node.by_peer).values()]
    found["srtt"] = max(trips, default=0.0)
    found["mailbox"] = {_name(names, membership, peer): engine.mailbox.waiting(peer) for peer in dict(node.by_peer)}
    if membership is not None:
        found |= _members(membership)
    return found


def _members(membership: Any) -> dict[str, object]:
    table = dict(membership.table)
    return {
        "members": {membership.name_of(peer): membership.state_of(peer).name for peer in table},
        "expected": [membership.name_of(peer) for peer in table if membership.is_expected(peer)],
        "incarnations": {membership.name_of(peer): record.incarnation for peer, record in table.items()},
        "digest": membership.digest,
        "health": membership.health,
        "spec": membership.spec.version,
    }


def _name(names: dict[NodeId, str], membership: Any, peer: NodeId) -> str:
    if peer in names or membership is None:
        return names.get(peer, peer.hex())
    return str(membership.name_of(peer))
