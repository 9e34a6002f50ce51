"""The table: what is kept incrementally is what one would compute anew; equal contents have equal digests."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.membership import Base, Table
from dagrad_bus.membership.records import bucket_of, fingerprint
from dagrad_bus.messages import BUCKETS, MemberState, Record
from dagrad_bus.topology.live import member_key

IDS = [derive_node_id("table", str(i)) for i in range(6)]
ROSTER = {node: f"w{i}" for i, node in enumerate(IDS[:4])}
RECORDS = st.builds(
    Record,
    node=st.sampled_from(IDS),
    epoch=st.integers(1, 2),
    incarnation=st.integers(0, 2),
    state=st.sampled_from(MemberState),
    name=st.sampled_from(["", "m"]),
)


def alive(node: NodeId, epoch: int = 1, incarnation: int = 0) -> Record:
    return Record(node, epoch, incarnation, MemberState.ALIVE, host="h", inbox_port=1, name="m")


def check_counts(table: Table) -> None:
    """Everything kept incrementally, computed anew."""
    buckets = [0] * BUCKETS
    view: list[NodeId] = []
    key = 0
    for node, record in table.items():
        known = table.known(node)
        assert known is not None
        buckets[bucket_of(node)] ^= fingerprint(record, known.is_behind)
        if record.state <= MemberState.SUSPECT:
            view.append(node)
            key ^= member_key(node)
    digest = 0
    for bucket in buckets:
        digest ^= bucket
    assert (table.buckets, table.digest, table.key) == (buckets, digest, key)
    assert (table.count, table.view(), len(table)) == (len(view), tuple(sorted(view)), len(list(table)))
    assert set(table.gone) == set(table) - set(view)
    assert sorted(node for b in range(BUCKETS) for node in table.in_bucket(b)) == sorted(table)
    assert {table.at(place) for place in range(table.places)} >= set(table)


@settings(max_examples=50)
@given(st.lists(RECORDS, max_size=12), st.booleans())
def test_incremental_is_the_same_as_anew(records: list[Record], forget: bool) -> None:
    table = Table(Base.expected(ROSTER), 0.0)
    check_counts(table)
    for at, record in enumerate(records):
        table.merge(record, float(at))
        check_counts(table)
    if forget:
        table.forget(5.0, 100.0)
        check_counts(table)


@settings(max_examples=50)
@given(st.lists(RECORDS, max_size=10))
def test_any_order_gives_one_table_and_one_digest(records: list[Record]) -> None:
    records = [record for record in records if record.node in ROSTER]
    tables = [Table(Base.expected(ROSTER), 0.0) for _ in range(3)]
    for table, order in zip(tables, (records, records[::-1], records + records), strict=True):
        for record in order:
            table.merge(record, 0.0)
    assert dict(tables[0]) == dict(tables[1]) == dict(tables[2])
    assert tables[0].digest == tables[1].digest == tables[2].digest
    assert tables[0].buckets == tables[1].buckets == tables[2].buckets


@settings(max_examples=50)
@given(RECORDS, st.lists(RECORDS, max_size=6))
def test_what_was_taken_once_is_no_news(record: Record, others: list[Record]) -> None:
    table = Table(Base.expected(ROSTER), 0.0)
    for one in [*others, record]:
        table.merge(one, 0.0)
    assert table.merge(record, 1.0) is None


def test_expected_members_count_and_stay_out_of_the_digest() -> None:
    table = Table(Base.expected(ROSTER), 0.0)
    assert table.digest == 0 and table.count == 4
    change = table.merge(Record(IDS[0], 1, 0, MemberState.ALIVE), 0.0)
    assert change is not None and change.rose and change.new.name == "w0"
    assert table.digest and table.count == 4


def test_a_new_address_alone_is_news_and_a_new_sketch_is_not() -> None:
    table = Table(Base.expected(ROSTER), 0.0)
    table.merge(Record(IDS[0], 1, 0, MemberState.ALIVE), 0.0)
    behind = table.digest
    change = table.merge(alive(IDS[0]), 0.0)
    assert change is not None and not change.rose and change.new.host == "h"
    assert table.digest != behind
    assert table.merge(replace(alive(IDS[0]), sketch=b"s" * 8, sketch_step=5), 0.0) is None
    assert table[IDS[0]].sketch == b"s" * 8
    table.merge(replace(alive(IDS[0]), sketch=b"t" * 8, sketch_step=4), 0.0)
    assert table[IDS[0]].sketch == b"s" * 8


def test_the_same_address_mends_an_outdated_one() -> None:
    table = Table(Base.expected(ROSTER), 0.0)
    table.merge(alive(IDS[0]), 0.0)
    whole = table.digest
    table.merge(Record(IDS[0], 1, 1, MemberState.ALIVE), 0.0)
    assert table.merge(alive(IDS[0], incarnation=1), 0.0) is not None
    known = table.known(IDS[0])
    assert known is not None and not known.is_behind and table.digest != whole


def test_a_buried_member_does_not_come_back_by_an_old_record() -> None:
    table = Table(Base.expected(ROSTER), 0.0)
    for node in (IDS[0], IDS[5]):
        table.merge(replace(alive(node), state=MemberState.DEAD), 10.0)
    table.forget(9.0, 100.0)
    assert IDS[0] in table
    table.forget(11.0, 100.0)
    assert IDS[0] not in table and IDS[5] not in table and table.digest == 0
    with pytest.raises(KeyError):
        table[IDS[0]]
    assert table.merge(replace(alive(IDS[0]), state=MemberState.DEAD), 12.0) is None
    assert table.merge(alive(IDS[0], epoch=2), 12.0) is not None
    table.forget(101.0, 200.0)
    assert table.merge(alive(IDS[5]), 102.0) is not None
    check_counts(table)


def test_tables_over_one_base_do_not_touch_it_or_each_other() -> None:
    base = Base([alive(node) for node in IDS[:4]])
    a, b = Table(base, 0.0), Table(base, 0.0)
    assert a.digest == b.digest != 0
    a.merge(replace(alive(IDS[0]), state=MemberState.DEAD), 0.0)
    a.merge(alive(IDS[5]), 0.0)
    assert b.digest == Table(base, 0.0).digest and IDS[5] not in b and b[IDS[0]].state is MemberState.ALIVE
    assert a.view() == tuple(sorted([*IDS[1:4], IDS[5]]))
    assert a.view() is a.view()


def test_a_base_may_hold_dead_members() -> None:
    base = Base([alive(IDS[0]), replace(alive(IDS[1]), state=MemberState.DEAD)])
    table = Table(base, 7.0)
    assert table.gone == {IDS[1]: 7.0} and table.count == 1
    check_counts(table)


def test_members_are_found_by_prefix() -> None:
    table = Table(Base.expected(ROSTER), 0.0)
    table.merge(alive(IDS[5]), 0.0)
    assert table.with_prefix(IDS[1][:8]) == IDS[1] and table.with_prefix(IDS[5][:8]) == IDS[5]
    assert table.with_prefix(b"") is None and table.with_prefix(IDS[4][:8]) is None
