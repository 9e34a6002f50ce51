from __future__ import annotations

from dagrad_bus.bus.contact import Port
from dagrad_bus.ids import NodeId
from dagrad_bus.sim.network import Network
from dagrad_bus.sim.world import World

A, B = NodeId(b"a" * 16), NodeId(b"b" * 16)


def test_a_plug_is_the_port_of_a_node() -> None:
    port: Port = Network(World(0)).plug_in(A, "a", 0x010203, 9000)
    assert (port.inbox, port.beat) == ("tcp://10.1.2.3:9000", "tcp://10.1.2.3:9001")
    assert port.address_of(B) is None


def test_each_socket_has_its_own_routing_id_that_names_its_owner() -> None:
    network = Network(World(0))
    plug = network.plug_in(A, "a", 1, 9000)
    plug.connect(B, "tcp://10.0.0.2:9000", None)
    first = plug.dialers[B].routing
    plug.connect(B, "tcp://10.0.0.2:9000", None)
    assert plug.dialers[B].routing != first
    assert first[1:17] == A


def test_listening_where_one_listens_already_changes_nothing() -> None:
    plug = Network(World(0)).plug_in(A, "a", 1, 9000)
    plug.listen(B, "tcp://10.0.0.2:9001")
    ear = plug.ears[B]
    plug.listen(B, "tcp://10.0.0.2:9001")
    assert plug.ears[B] is ear and not ear.closed
    plug.listen(B, None)
    assert ear.closed and not plug.ears
