"""Connections come before others go, and what nothing needs is closed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.contact import Contact, Port
from dagrad_bus.bus.contacts import (
    EXPLORE_LIFE,
    LONGEST_OVERLAP,
    MOST_CONTACTS,
    MOST_EXPLORED,
    OVERLAP,
    PROBE_LIFE,
    Contacts,
)
from dagrad_bus.bus.identity import Identity
from dagrad_bus.ids import EdgeId, NodeId
from dagrad_bus.link import Action, InLink, State
from dagrad_bus.link.sender import UNANSWERED
from dagrad_bus.settings import LinkSettings, Settings
from dagrad_bus.wire import AckInfo, Bye, ByeReason, Hello, HelloOk, Message

LAYOUT = Layout((Entry("x", (8,), "float32"),), (), 1)
HELLO = Identity(Settings(run="r", name="a", members=("a", "b")), LAYOUT, 1).hello("tcp://h:1", "tcp://h:2")
LINK = LinkSettings()


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(16, "big"))


class Network:
    """Remembers what is open, and takes everything."""

    def __init__(self) -> None:
        self.open: dict[NodeId, str] = {}
        self.heard: dict[NodeId, str] = {}
        self.sent: list[tuple[NodeId, Message]] = []

    def connect(self, peer: NodeId, inbox: str, beat: str | None) -> None:
        self.disconnect(peer)
        self.open[peer] = inbox
        self.listen(peer, beat)

    def listen(self, peer: NodeId, beat: str | None) -> None:
        if beat:
            self.heard[peer] = beat
        else:
            self.heard.pop(peer, None)

    def disconnect(self, peer: NodeId) -> None:
        self.open.pop(peer, None)
        self.heard.pop(peer, None)

    def address_of(self, peer: NodeId) -> str | None:
        return self.open.get(peer)

    def send(self, peer: NodeId, message: Message) -> int:
        self.sent.append((peer, message))
        return 1


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def contacts(network: Network) -> Contacts:
    """Contacts of a worker who knows where everybody but number 99 is."""

    def locate(peer: NodeId) -> tuple[str, str] | None:
        return None if peer == node(99) else (f"in:{peer[-1]}", f"out:{peer[-1]}")

    def act(contact: Contact, actions: Sequence[Action]) -> None:
        """Nothing here depends on what follows."""

    return Contacts(HELLO, LINK, cast(Port, network), locate, act)


def bring_up(contact: Contact, now: float) -> None:
    contact.opened(now)
    fields = {name: getattr(HELLO, name) for name in ("job", "epoch", "incarnation", "layout", "host", "inbox_port")}
    ack = AckInfo(0, 0, 2)
    contact.out.hello_ok(
        HelloOk(contact.peer, **fields, beat_port=2, name="b", max_frame=1 << 20, ack=ack, edge=EdgeId(7)), now
    )
    assert contact.out.state is State.UP


def test_neighbours_are_connected_and_heard(contacts: Contacts, network: Network) -> None:
    contacts.set_neighbours([node(1), node(2)], 0.0)
    assert network.open == {node(1): "in:1", node(2): "in:2"}
    assert network.heard == {node(1): "out:1", node(2): "out:2"}
    assert [contact.peer for contact in contacts.linked] == [node(1), node(2)]


def test_one_whose_address_is_unknown_is_connected_once_it_is_told(contacts: Contacts, network: Network) -> None:
    contacts.set_neighbours([node(99)], 0.0)
    assert network.open == {}
    contact = contacts.reach(node(99), 1.0, ("in:x", "out:x"))
    assert network.open == {node(99): "in:x"}
    assert contact.is_neighbour
    assert contacts.reach(node(99), 2.0, ("in:y", "out:y")) is contact
    assert network.open == {node(99): "in:y"}  # it moved


def test_an_old_link_ends_when_the_new_ones_are_up(contacts: Contacts, network: Network) -> None:
    contacts.set_neighbours([node(1)], 0.0)
    bring_up(contacts.by_peer[node(1)], 0.0)
    contacts.set_neighbours([node(2)], 1.0)
    contacts.tidy(1.0 + OVERLAP + 0.1)
    former = contacts.by_peer[node(1)]
    assert former.has_link
    assert former.ready  # still takes frames
    bring_up(contacts.by_peer[node(2)], 2.0)
    contacts.tidy(2.1)
    assert not former.has_link
    assert node(1) not in network.heard
    former.pump(2.1)
    assert network.sent[-1] == (node(1), Bye(reason=ByeReason.REWIRED, edge=EdgeId(7)))
    contacts.tidy(2.1 + PROBE_LIFE + 1)
    assert node(1) not in contacts.by_peer
    assert node(1) not in network.open


def test_an_old_link_does_not_wait_for_ever(contacts: Contacts) -> None:
    contacts.set_neighbours([node(1)], 0.0)
    contacts.set_neighbours([node(2)], 1.0)  # which never comes up
    contacts.tidy(1.0 + LONGEST_OVERLAP - 0.1)
    assert contacts.by_peer[node(1)].has_link
    contacts.tidy(1.0 + LONGEST_OVERLAP)
    assert not contacts.by_peer[node(1)].has_link


def test_a_neighbour_that_comes_back_in_time_keeps_its_link(contacts: Contacts) -> None:
    contacts.set_neighbours([node(1)], 0.0)
    contact = contacts.by_peer[node(1)]
    bring_up(contact, 0.0)
    contacts.set_neighbours([node(2)], 1.0)
    contacts.set_neighbours([node(1), node(2)], 1.2)
    contacts.tidy(100.0)
    assert contact.is_neighbour
    assert contact.ready
    assert contact.out.generation == 1


def test_one_that_has_a_link_to_us_is_kept(contacts: Contacts) -> None:
    contact = contacts.reach(node(3), 0.0)
    contact.incoming = InLink(node(3), 1, EdgeId(1), b"r", LINK, lambda peer: True)
    contacts.tidy(100.0)
    assert node(3) in contacts.by_peer
    contact.incoming = None
    contacts.tidy(200.0)
    assert node(3) not in contacts.by_peer


def test_a_probe_says_hello_without_wanting_a_link(contacts: Contacts, network: Network) -> None:
    contact = contacts.reach(node(3), 0.0)
    contact.opened(0.0)
    contact.pump(0.0)
    ((_, hello),) = network.sent
    assert isinstance(hello, Hello)
    assert not hello.wanted
    assert network.heard == {}


def test_explored_members_have_a_link_for_a_while_and_are_few(contacts: Contacts) -> None:
    contacts.explore([node(number) for number in range(5)], 0.0)
    assert len(contacts.linked) == MOST_EXPLORED
    contacts.tidy(EXPLORE_LIFE - 1)
    assert len(contacts.linked) == MOST_EXPLORED
    contacts.tidy(EXPLORE_LIFE)
    assert contacts.linked == []


def test_connections_are_bounded(contacts: Contacts, network: Network) -> None:
    contacts.set_neighbours([node(1000)], 0.0)
    for number in range(2 * MOST_CONTACTS):
        contacts.reach(node(number), float(number))
    assert len(contacts.by_peer) <= MOST_CONTACTS
    assert len(network.open) <= MOST_CONTACTS
    assert node(1000) in contacts.by_peer


def test_a_link_without_any_progress_is_connected_anew(contacts: Contacts, network: Network) -> None:
    contacts.set_neighbours([node(1)], 0.0)
    contact = contacts.by_peer[node(1)]
    bring_up(contact, 0.0)
    contact.out.state = State.STALLED
    assert contacts.tidy(UNANSWERED) == 0
    network.open[node(1)] = "broken"
    assert contacts.tidy(UNANSWERED + 1) == 1
    assert network.open[node(1)] == "in:1"
    assert contact.out.state is State.DOWN


def test_a_connection_that_could_not_be_opened_is_tried_again(contacts: Contacts, network: Network) -> None:
    contacts.set_neighbours([node(1)], 0.0)
    network.disconnect(node(1))  # there was no descriptor for it
    contacts.tidy(1.0)
    assert network.open == {node(1): "in:1"}
    assert network.heard == {node(1): "out:1"}
