"""Merging is a lattice: in whatever order records come, as often as they come, the outcome is one."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.records import (
    Known,
    accusation,
    fingerprint,
    known_from,
    merge,
    outward,
    pieces,
    short,
    softened,
)
from dagrad_bus.messages import MAX_RECORDS, MemberState, Record
from dagrad_bus.wire import Gossip, fit_records, pack

M = NodeId(b"m" * 16)
RECORDS = st.builds(
    Record,
    node=st.just(M),
    epoch=st.integers(0, 2),
    incarnation=st.integers(0, 2),
    state=st.sampled_from(MemberState),
    accuser=st.sampled_from([b"", b"a", b"b"]),
    host=st.sampled_from(["h1", "h2"]),
    name=st.sampled_from(["", "m"]),
    sketch=st.sampled_from([b"", b"s" * 8, b"t" * 8]),
    sketch_step=st.integers(0, 2),
).map(lambda record: record if record.name else replace(record, host=""))
KNOWN = RECORDS.map(known_from)
FULL = Record(M, 3, 1, MemberState.ALIVE, host="h", inbox_port=1, beat_port=2, name="m")


@settings(max_examples=50)
@given(KNOWN, KNOWN, KNOWN)
def test_merge_is_commutative_associative_idempotent(a: Known, b: Known, c: Known) -> None:
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) is a
    assert merge(merge(a, b), b) == merge(a, b)


@settings(max_examples=50)
@given(KNOWN, KNOWN)
def test_the_standing_never_falls(a: Known, b: Known) -> None:
    assert merge(a, b).record.order == max(a.record.order, b.record.order)


@settings(max_examples=30)
@given(st.lists(KNOWN, min_size=1, max_size=5).flatmap(lambda one: st.tuples(st.just(one), st.permutations(one))))
def test_any_order_gives_the_same(orders: tuple[list[Known], list[Known]]) -> None:
    assert reduce(merge, orders[0]) == reduce(merge, orders[1])


def test_a_short_record_leaves_the_address_and_makes_it_outdated() -> None:
    later = merge(known_from(FULL), known_from(Record(M, 3, 2, MemberState.ALIVE)))
    assert later.record.host == "h" and later.record.incarnation == 2
    assert later.is_behind and outward(later) == short(later.record)
    mended = merge(later, known_from(replace(FULL, incarnation=2, host="h2")))
    assert not mended.is_behind and mended.record.host == "h2" and outward(mended) is mended.record


def test_fingerprints_tell_states_and_outdated_addresses_apart() -> None:
    suspect = replace(FULL, state=MemberState.SUSPECT)
    prints = [fingerprint(FULL, False), fingerprint(FULL, True), fingerprint(suspect, False)]
    assert len(set(prints)) == 3 and all(0 < one < 1 << 64 for one in prints)
    assert fingerprint(replace(FULL, host="h2", sketch=b"s", accuser=b"a"), False) == prints[0]
    assert fingerprint(replace(FULL, epoch=0), False) == 0


def test_accusing_and_softening() -> None:
    word = accusation(FULL, MemberState.DEAD, NodeId(b"n" * 16))
    assert word == Record(M, 3, 1, MemberState.DEAD, b"n" * 8)
    assert softened(word).state is MemberState.SUSPECT
    assert softened(FULL) == FULL


def test_pieces_fit_into_messages() -> None:
    assert pieces([]) == []
    large = [replace(FULL, epoch=i + 1, host="x" * 64, name="ü" * 16, public_key=b"k" * 32) for i in range(60)]
    for records in (large, [FULL] * 60, large[:3]):
        lots = pieces(records)
        assert [record for lot in lots for record in lot] == records
        for lot in lots:
            assert len(lot) <= MAX_RECORDS
            assert pack(Gossip(lot))
    assert pieces(large[:3]) == fit_records(large[:3])
