from __future__ import annotations

from dagrad_bus.ids import NodeId
from dagrad_bus.messages import Gossip, MemberState, Ping, Record
from dagrad_bus.sim.sizes import size_of
from dagrad_bus.wire import pack

NODE = NodeId(b"n" * 16)


def record(place: int) -> Record:
    return Record(
        NodeId(bytes([place]) * 16),
        1_700_000_000_000_000_000,
        0,
        MemberState.ALIVE,
        b"",
        "10.0.0.1",
        9000,
        9001,
        "w000",
    )


def test_sizes_are_those_of_packed_messages() -> None:
    for message in (Ping(1), Gossip((record(1),)), Gossip(tuple(record(place) for place in range(5)))):
        assert abs(size_of(message) - sum(map(len, pack(message)))) <= 10


def test_more_records_weigh_more() -> None:
    assert size_of(Gossip(tuple(record(place) for place in range(9)))) > size_of(Gossip((record(1),))) + 400
