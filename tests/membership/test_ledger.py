"""What follows from a record: one test a rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dagrad_bus.ids import NodeId, Step, derive_node_id
from dagrad_bus.membership import Base, Flood, Healed, MemberChanged, Superseded, Table, Tell
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.ledger import MAX_MEMBERS, Ledger, Source, state_word
from dagrad_bus.membership.watch import Watch
from dagrad_bus.messages import Gossip, Heartbeat, MemberState, Record
from dagrad_bus.settings import BeatSettings

IDS = [derive_node_id("ledger", str(i)) for i in range(8)]
ME, M, A, B, C = IDS[:5]
STRANGER = derive_node_id("ledger", "stranger")
NAMES = {node: f"w{i}" for i, node in enumerate(IDS)}
SUSPECT, DEAD, LEFT = MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT


def alive(node: NodeId, epoch: int = 1, incarnation: int = 0) -> Record:
    return Record(node, epoch, incarnation, MemberState.ALIVE, host="h", inbox_port=1, name=NAMES.get(node, "s"))


def word(state: MemberState, node: NodeId = M, accuser: NodeId = A, incarnation: int = 0) -> Record:
    return Record(node, 1, incarnation, state, accuser[:8])


def start(*, known: bool = True, admits: bool = True) -> Ledger:
    base = Base([alive(node) for node in IDS]) if known else Base.expected(NAMES)
    context = Context(alive(ME), BeatSettings(), np.random.default_rng(0))
    ledger = Ledger(context, Table(base, 0.0), lambda record: admits)
    ledger.publish(alive(ME), 0.0)
    drain(ledger, 0.0)
    return ledger


def bury(ledger: Ledger, node: NodeId, now: float) -> None:
    """Have a member suspected, and two seconds later declared dead by others."""
    ledger.learn(word(SUSPECT, node=node), Source.FLOOD, A, now - 2.0)
    ledger.learn(word(DEAD, node=node), Source.FLOOD, A, now)
    assert ledger.table[node].state is DEAD


def drain(ledger: Ledger, now: float) -> tuple[list[tuple[str, str]], list[Record], list[NodeId]]:
    """Return changes (old, new), records flooded, and who was told something."""
    ledger.rumours.flush(now)
    out, ledger.context.out = ledger.context.out, []
    changes = [(action.old, action.new) for action in out if isinstance(action, MemberChanged)]
    floods = [record for action in out if isinstance(action, Flood) for record in action.message.records]
    return changes, floods, [action.peer for action in out if isinstance(action, Tell)]


def test_an_expected_member_becomes_alive_and_is_announced_once() -> None:
    ledger = start(known=False)
    assert ledger.learn(alive(M), Source.SELF, M, 1.0)
    assert drain(ledger, 1.0) == ([("expected", "alive")], [alive(M)], [])
    assert not ledger.learn(alive(M), Source.FLOOD, A, 1.0)
    assert drain(ledger, 2.0) == ([], [], [])


def test_a_stranger_enters_if_it_has_a_name_and_is_admitted() -> None:
    assert start().learn(alive(STRANGER), Source.FLOOD, A, 1.0)
    assert not start(admits=False).learn(alive(STRANGER), Source.FLOOD, A, 1.0)
    assert not start().learn(Record(STRANGER, 1, 0, MemberState.ALIVE), Source.FLOOD, A, 1.0)
    assert not start().learn(replace(alive(STRANGER), epoch=0), Source.FLOOD, A, 1.0)


def test_there_is_room_for_ten_thousand() -> None:
    ledger = start()
    for i in range(MAX_MEMBERS + 50):
        ledger.learn(alive(NodeId(i.to_bytes(16, "little"))), Source.FLOOD, A, 1.0)
    assert len(ledger.table) == MAX_MEMBERS


def test_an_accusation_is_flooded_and_told_and_after_8_s_it_is_death() -> None:
    ledger = start()
    assert ledger.accuse(M, 1.0, "silent")
    assert drain(ledger, 1.0) == ([("alive", "suspect")], [word(SUSPECT, accuser=ME)], [M])
    ledger.judge(8.9)
    assert drain(ledger, 8.9)[0] == []
    ledger.judge(9.1)
    assert drain(ledger, 9.1) == ([("suspect", "dead")], [word(DEAD, accuser=ME)], [])
    assert not ledger.accuse(M, 10.0, "silent")


def test_two_more_accusers_shorten_it_to_2_s_and_are_passed_on() -> None:
    ledger = start()
    ledger.accuse(M, 1.0, "silent")
    drain(ledger, 1.0)
    ledger.learn(word(SUSPECT, accuser=A), Source.FLOOD, A, 1.1)
    ledger.learn(word(SUSPECT, accuser=A), Source.FLOOD, B, 1.1)
    ledger.learn(word(SUSPECT, accuser=B), Source.FLOOD, B, 1.2)
    ledger.learn(word(SUSPECT, accuser=C), Source.FLOOD, B, 1.2)
    assert drain(ledger, 1.2)[1] == [word(SUSPECT, accuser=A), word(SUSPECT, accuser=B)]
    ledger.judge(3.1)
    assert drain(ledger, 3.1)[0] == [("suspect", "dead")]


def test_bad_own_health_gives_more_time() -> None:
    ledger = start()
    ledger.context.health.worsen(1, 0.0)
    ledger.accuse(M, 1.0, "silent")
    ledger.judge(16.9)
    assert ledger.table[M].state is SUSPECT
    ledger.judge(17.1)
    assert ledger.table[M].state is DEAD


def test_a_higher_incarnation_refutes() -> None:
    ledger = start()
    ledger.learn(word(SUSPECT), Source.FLOOD, A, 1.0)
    drain(ledger, 1.0)
    ledger.learn(alive(M, incarnation=1), Source.FLOOD, A, 2.0)
    assert drain(ledger, 2.0) == ([("suspect", "alive")], [alive(M, incarnation=1)], [A])
    ledger.judge(30.0)
    ledger.learn(word(DEAD), Source.FLOOD, A, 31.0)
    assert ledger.table[M].state is MemberState.ALIVE


def test_a_death_by_flood_is_believed_unless_the_member_was_heard_just_now() -> None:
    ledger = start()
    bury(ledger, M, 3.0)
    ledger = start()
    ledger.learn(word(SUSPECT), Source.FLOOD, A, 1.0)
    ledger.heard(M, 2.0)
    drain(ledger, 2.0)
    ledger.learn(word(DEAD), Source.FLOOD, A, 3.1)
    assert ledger.table[M].state is SUSPECT
    assert drain(ledger, 3.1)[2] == [M]


def test_a_death_out_of_the_blue_leaves_the_shortest_time_to_refute() -> None:
    for source, deadline in ((Source.FLOOD, 3.0), (Source.SYNC, 9.0)):
        ledger = start()
        ledger.learn(word(DEAD), source, A, 1.0)
        assert ledger.table[M].state is SUSPECT
        assert drain(ledger, 1.0)[2] == [M]
        ledger.learn(word(DEAD), source, B, 1.1)
        assert ledger.table[M].state is SUSPECT
        assert ledger.suspicions.due == pytest.approx(deadline)
        ledger.learn(word(DEAD), source, B, 2.6)  # others have heard nothing meanwhile
        assert ledger.table[M].state is DEAD


def test_a_watched_member_heard_just_now_is_not_dead_either() -> None:
    ledger = start()
    watch = ledger.context.watches[M] = Watch(M, BeatSettings(), 0.0)
    ledger.learn(word(SUSPECT), Source.FLOOD, A, 1.0)
    watch.heard(2.5)
    ledger.learn(word(DEAD), Source.FLOOD, A, 3.9)
    assert ledger.table[M].state is SUSPECT
    ledger.learn(word(DEAD), Source.FLOOD, A, 4.1)
    assert ledger.table[M].state is DEAD


def test_a_death_by_comparison_is_a_suspicion_of_whom_one_believes_in() -> None:
    ledger = start()
    ledger.learn(word(DEAD), Source.SYNC, A, 1.0)
    assert ledger.table[M].state is SUSPECT
    ledger = start(known=False)
    ledger.learn(replace(alive(M), state=DEAD), Source.SYNC, A, 1.0)
    assert ledger.table[M].state is DEAD  # never heard of: the others know better


def test_life_gives_a_suspect_the_whole_time_again_and_lets_it_know() -> None:
    ledger = start()
    ledger.learn(word(SUSPECT), Source.FLOOD, A, 1.0)
    drain(ledger, 1.0)
    ledger.heard(M, 8.0)
    assert drain(ledger, 8.0)[2] == [M]
    ledger.heard(M, 8.1)
    assert drain(ledger, 8.1)[2] == []  # told within the last second
    ledger.judge(15.9)
    assert ledger.table[M].state is SUSPECT
    ledger.vouched(M, B, 15.9)
    assert drain(ledger, 15.9)[2] == [B]  # it is told of the suspicion, and brings the answer
    ledger.judge(20.0)
    assert ledger.table[M].state is SUSPECT
    ledger.judge(24.0)
    assert ledger.table[M].state is DEAD


def test_the_dead_that_speak_are_told_and_come_back_as_healed() -> None:
    ledger = start()
    bury(ledger, M, 1.0)
    drain(ledger, 1.0)
    ledger.heard(M, 50.0)
    assert drain(ledger, 50.0)[2] == [M]
    ledger.learn(alive(M, incarnation=1), Source.SELF, M, 51.0)
    assert drain(ledger, 51.0)[0] == [("dead", "rejoined")]
    assert ledger.context.agenda["healed"] == 52.0
    ledger.report_healed(52.0)
    assert ledger.context.out == [Healed((M,), 50.0)]


def test_another_process_of_that_name_is_no_healing() -> None:
    ledger = start()
    bury(ledger, M, 1.0)
    ledger.learn(alive(M, epoch=2), Source.SELF, M, 51.0)
    assert drain(ledger, 51.0)[0] == [("alive", "suspect"), ("suspect", "dead"), ("dead", "rejoined")]
    ledger.report_healed(60.0)
    assert ledger.context.out == []


def test_healed_members_are_gathered_for_a_second_and_at_most_five() -> None:
    ledger = start()
    others = IDS[1:]
    for node in others:
        bury(ledger, node, 1.0)
    for i, node in enumerate(others):
        ledger.learn(alive(node, incarnation=1), Source.SELF, node, 10.0 + 0.9 * i)
    assert ledger.context.agenda["healed"] == 15.0


@pytest.mark.parametrize(("state", "new"), [(SUSPECT, "alive"), (DEAD, "rejoined"), (LEFT, "rejoined")])
def test_what_is_said_of_this_worker_is_refuted(state: MemberState, new: str) -> None:
    ledger = start()
    ledger.learn(word(state, node=ME, incarnation=4), Source.FLOOD, A, 1.0)
    assert ledger.context.me.incarnation == 5 and ledger.context.health.score == 1
    changes, floods, told = drain(ledger, 1.0)
    assert changes == [(state.name.lower(), new)] and told == [A]
    assert floods == [replace(alive(ME), incarnation=5)]
    ledger.learn(word(state, node=ME, incarnation=4), Source.FLOOD, B, 1.0)
    assert ledger.context.me.incarnation == 5


def test_a_death_of_this_worker_is_refuted_to_every_neighbour() -> None:
    ledger = start()
    for node in (A, B):
        ledger.context.watches[node] = Watch(node, BeatSettings(), 0.0)
    ledger.learn(word(DEAD, node=ME), Source.FLOOD, C, 1.0)
    assert set(drain(ledger, 1.0)[2]) == {A, B, C}


def test_a_later_process_of_this_name_is_reported_once() -> None:
    ledger = start()
    for _ in range(2):
        ledger.learn(alive(ME, epoch=7), Source.FLOOD, A, 1.0)
    assert ledger.context.out == [Superseded(7)]


def test_the_last_incarnation_cannot_be_raised() -> None:
    ledger = start()
    ledger.learn(word(SUSPECT, node=ME, incarnation=(1 << 32) - 1), Source.FLOOD, A, 1.0)
    assert ledger.context.me.incarnation == 0


def test_who_leaves_neither_accuses_nor_refutes() -> None:
    ledger = start()
    ledger.context.is_leaving = True
    assert not ledger.accuse(M, 1.0, "silent")
    ledger.learn(word(DEAD, node=ME), Source.FLOOD, A, 1.0)
    assert ledger.context.out == []


def test_whoever_never_came_is_suspected_at_home_and_its_death_is_passed_on() -> None:
    ledger = start(known=False)
    ledger.learn(alive(A), Source.SELF, A, 1.0)
    drain(ledger, 1.0)
    ledger.expire(120.0)
    ledger.judge(129.0)
    changes, floods, told = drain(ledger, 129.0)
    missing = len(IDS) - 2
    assert changes == [("expected", "suspect")] * missing + [("suspect", "dead")] * missing
    assert {record.order for record in floods} == {(0, 0, DEAD)} and len(floods) == missing and told == []
    assert state_word(ledger.table[M]) == "dead"
    other = start(known=False)  # another worker, started later
    assert other.table.digest != ledger.table.digest
    for record in floods:
        assert other.learn(record, Source.SYNC, B, 10.0)
    assert other.table[M].state is DEAD and other.table.key != start(known=False).table.key
    assert drain(other, 10.0)[0] == [("expected", "dead")] * missing
    ledger.learn(alive(M), Source.SELF, M, 200.0)
    assert drain(ledger, 200.0)[0] == [("dead", "joined")]


def test_the_messengers_of_an_accusation_get_the_answer() -> None:
    ledger = start()
    ledger.context.watches[C] = Watch(C, BeatSettings(), 0.0)
    for peer in (A, B, C):  # C listens to this worker anyway
        ledger.learn(word(SUSPECT), Source.FLOOD, peer, 1.0)
    assert drain(ledger, 1.0)[2] == [M]
    ledger.learn(alive(M, incarnation=1), Source.SELF, M, 1.2)
    assert drain(ledger, 1.2)[2] == [A, B]
    ledger.learn(word(SUSPECT), Source.FLOOD, IDS[6], 2.0)  # one who has not heard of it
    assert drain(ledger, 2.0)[2] == [IDS[6]]


def test_whoever_brings_what_an_unheard_member_says_is_told_of_own_suspects() -> None:
    ledger = start()
    ledger.accuse(B, 1.0, "silent")
    drain(ledger, 1.0)
    ledger.learn(word(SUSPECT, node=ME, accuser=B), Source.FLOOD, C, 1.5)
    ledger.rumours.flush(1.5)
    told = [a.message for a in ledger.context.out if isinstance(a, Tell) and a.peer == C]
    assert isinstance(told[0], Gossip)
    heard = [(record.node, record.state, record.incarnation) for record in told[0].records]
    assert heard == [(ME, MemberState.ALIVE, 1), (B, SUSPECT, 0)]
    assert ledger.context.relays_at(2.0) == [C]
    drain(ledger, 2.0)
    ledger.learn(word(SUSPECT, node=ME, accuser=B), Source.FLOOD, A, 2.0)  # the same again, another messenger
    assert ledger.context.me.incarnation == 1 and drain(ledger, 2.0)[2] == [A]


def test_of_many_only_some_tell_the_accused() -> None:
    many = [NodeId(i.to_bytes(16, "little")) for i in range(320)]
    told = 0
    for seed in range(200):
        context = Context(alive(ME), BeatSettings(), np.random.default_rng(seed))
        base = Base([Record(node, 1, 0, MemberState.ALIVE, name="n") for node in many])
        ledger = Ledger(context, Table(base, 0.0), lambda record: True)
        ledger.learn(word(SUSPECT, node=many[0]), Source.FLOOD, A, 1.0)
        told += drain(ledger, 1.0)[2] == [many[0]]
    assert 8 <= told <= 35  # about 32 of 320


def test_memories_are_bounded() -> None:
    ledger = start()
    for i in range(5000):
        ledger.heard(NodeId(i.to_bytes(16, "little")), 1.0)
    assert len(ledger._lately) <= 512 and len(ledger._told) <= 512


def test_what_a_former_neighbour_said_is_kept() -> None:
    ledger = start()
    watch = Watch(M, BeatSettings(), 0.0)
    watch.heard(5.0)
    watch.beat = Heartbeat(M, 1, 0, 1, Step(9), 1.0, sketch=b"s" * 8)
    ledger.keep(M, watch)
    assert ledger.heard_lately(M, 5.5) and ledger.table[M].sketch == b"s" * 8
