"""What membership decides is carried out, and told to the owner."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dagrad_bus.bus.affairs import LEAVING, SYNCING, TRAINING, WEDGED
from dagrad_bus.bus.contacts import LONGEST_OVERLAP
from dagrad_bus.ids import Step
from dagrad_bus.membership import Healed, MemberChanged, Superseded
from dagrad_bus.wire import Bye, ByeReason, Gossip, Heartbeat, MemberState


def beats_of(node: Any) -> list[Heartbeat]:
    """Let ``node`` speak to a list from now on."""
    said: list[Heartbeat] = []
    broadcast = node.port.broadcast

    def note(message: Any) -> int:
        if isinstance(message, Heartbeat):
            said.append(message)
        return int(broadcast(message))

    node.port.broadcast = note
    return said


def test_heartbeats_tell_progress_and_state(hub: Any) -> None:
    a, _ = hub.start_all(2)
    said = beats_of(a)
    hub.run(1.5)
    assert said[-1].state == TRAINING
    a.outlook.progress = (Step(7), 2.0, hub.now)
    a.outlook.is_syncing = True
    hub.run(1.5)
    assert (said[-1].step, said[-1].rate) == (7, 2.0)
    assert said[-1].state == TRAINING | SYNCING
    a.outlook.is_syncing = False
    hub.run(a.settings.beat.wedged)
    assert said[-1].state == WEDGED
    assert said[-1].progress_ms > 60_000
    a.leave(hub.now)
    a._affairs.beat_at = 0.0
    a.tick(hub.now)
    assert said[-1].state & LEAVING


def test_heartbeats_come_about_once_a_second(hub: Any) -> None:
    a, _ = hub.start_all(2)
    said = beats_of(a)
    hub.run(20.0)
    assert 18 <= len(said) <= 23


def test_a_slow_model_is_not_taken_for_stuck(hub: Any) -> None:
    a, _ = hub.start_all(2)
    said = beats_of(a)
    a.outlook.progress = (Step(3), 1 / 30, hub.now)  # a step takes half a minute
    hub.run(200.0)
    assert {beat.state for beat in said} == {TRAINING}


def test_news_of_neighbours_reach_the_owner_and_end_with_them(hub: Any) -> None:
    a, b, c = hub.start_all(3)
    b.outlook.progress = (Step(11), 4.0, hub.now)
    hub.run(3.0)
    assert a.outlook.news[b.self_id].step == 11
    assert a.outlook.members == {"w1": "alive", "w2": "alive"}
    hub.lines[b.port.inbox].dead = True
    a.refused(b.self_id, hub.now)
    hub.run(15.0)
    assert a.outlook.members["w1"] == "dead"
    assert a.outlook.news.keys() == {c.self_id}


def test_news_of_former_neighbours_end_with_their_links(hub: Any) -> None:
    (a, *_) = hub.start_all(12)
    hub.run(4.0)
    a.rewire(replace(a.membership.spec, version=1, author=a.self_id, epoch=3), hub.now)
    hub.run(LONGEST_OVERLAP + 3.0)
    assert a.outlook.news.keys() == set(a.neighbours)


def test_a_goodbye_is_taken_for_leaving(hub: Any) -> None:
    a, b, _ = hub.start_all(3)
    hub.run(2.0)
    contact = b.by_peer[a.self_id]
    contact.queue(Bye(reason=ByeReason.LEAVE))
    b.act(contact, [])
    hub.run(0.1)
    assert a.metrics["peers_left"] == 1
    assert "left" in [event.kind for event in a.outlook.events if event.peer == b.self_id]
    hub.run(3.0)
    assert a.membership.state_of(b.self_id) is MemberState.ALIVE  # it was not true: b is there, and says so


def test_a_late_goodbye_says_nothing_of_the_next_life(hub: Any) -> None:
    a, b, c, _ = hub.start_all(4)
    hub.run(3.0)
    reborn = replace(a.membership.record_of(b.self_id), epoch=99)
    a.do(a.membership.receive(c.self_id, Gossip(records=(reborn,)), hub.now))
    routing = a.by_peer[b.self_id].incoming.routing
    a.received(routing, Bye(reason=ByeReason.LEAVE), hub.now)
    assert a.membership.state_of(b.self_id) is MemberState.ALIVE


def test_a_healed_neighbour_is_handed_over_once_its_link_is_up(hub: Any) -> None:
    a, b, _ = hub.start_all(3)
    hub.run(2.0)
    a.do([Healed((b.self_id,), 60.0)])
    assert list(a.outlook.healed) == [b.self_id]
    a.connection(b.self_id, up=False, now=hub.now)
    contact = a.by_peer[b.self_id]
    contact.out.edge = 0
    a.do([Healed((b.self_id,), 60.0)])
    assert len(a.outlook.healed) == 1  # not yet
    a.connection(b.self_id, up=True, now=hub.now)
    hub.run(1.0)
    assert list(a.outlook.healed) == [b.self_id] * 2


def test_being_taken_back_is_told(hub: Any) -> None:
    a, _ = hub.start_all(2)
    a.do([MemberChanged(a.self_id, "w0", "dead", "rejoined", "refuted")])
    assert a.outlook.rejoined


def test_a_word_about_an_earlier_life_changes_nothing(hub: Any) -> None:
    (a,) = [hub.start("w0", ("w0", "w1"), epoch=9).node]
    a.do([Superseded(8)])
    assert a.identity.epoch == 9
    a.do([Superseded(9)])
    assert a.identity.epoch == 10


def test_members_that_are_explored_are_known_to_the_owner(hub: Any) -> None:
    nodes = hub.start_all(9)
    a = nodes[0]
    settings = a.settings
    a.settings = replace(settings, exchange=replace(settings.exchange, explore=1))
    hub.run(5.0)
    others = {node.self_id for node in nodes} - {a.self_id, *a.neighbours}
    assert a.outlook.others.keys() == others
