"""Frames wait in order, room is what was put less what was taken, newer blocks of a link supersede older ones."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrad_bus.codec import Value
from dagrad_bus.events import Arrival, Selection
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.mailbox import Mailbox, coalesce
from dagrad_bus.settings import LinkSettings
from dagrad_bus.wire import Kind

A, B = NodeId(b"a" * 16), NodeId(b"b" * 16)


def arrival(
    peer: NodeId, indices: list[int], value: float = 0.0, block: int = 1, value_type: Value = Value.BF16
) -> Arrival:
    rows = np.full((len(indices), block), value, dtype=np.float32)
    chosen = Selection(np.array(indices, dtype=np.int64), rows)
    return Arrival(peer, Kind.STATE, value_type, chosen, Step(int(value)), 1.0, 0.0, 0.0)


def test_frames_come_out_in_the_order_they_went_in() -> None:
    box = Mailbox(LinkSettings())
    frames = [arrival(peer, [0], value) for value, peer in enumerate([A, B, A])]
    for frame in frames:
        box.put(frame)
    assert box.take_one() is frames[0]
    assert box.take() == (frames[1], frames[2])
    assert box.take() == ()
    assert box.take_one() is None


def test_room_is_counted_by_link() -> None:
    box = Mailbox(LinkSettings(mailbox_frames=2))
    for _ in range(2):
        assert box.has_room(A)
        box.put(arrival(A, [0]))
    assert (box.has_room(A), box.has_room(B), box.waiting(A)) == (False, True, 2)
    box.take_one()
    assert box.has_room(A)


def test_room_is_counted_in_bytes_of_all_links() -> None:
    box = Mailbox(LinkSettings(mailbox_bytes=100))
    box.put(arrival(A, [0], block=32))
    assert not box.has_room(B)
    box.take()
    assert box.has_room(B)


def test_one_writer_and_one_reader_lose_nothing() -> None:
    box, total = Mailbox(LinkSettings()), 20_000
    frames = [arrival(A, [0], value) for value in range(100)]

    def write() -> None:
        for number in range(total):
            box.put(frames[number % 100])

    former = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        writer = threading.Thread(target=write)
        writer.start()
        seen: list[Arrival] = []
        while len(seen) < total and (writer.is_alive() or box.waiting(A)):
            seen.extend(box.take())
        writer.join()
    finally:
        sys.setswitchinterval(former)
    assert len(seen) == total
    assert all(frame is frames[n % 100] for n, frame in enumerate(seen))
    assert box.waiting(A) == 0


def test_frames_of_one_each_are_left_alone() -> None:
    frames = [arrival(A, [0, 1]), arrival(B, [0, 1])]
    left, superseded = coalesce(frames)
    assert left == tuple(frames)
    assert superseded == 0


def test_an_emptied_frame_vanishes() -> None:
    left, superseded = coalesce([arrival(A, [1, 2], 1), arrival(A, [0, 1, 2], 2)])
    assert [int(frame.step) for frame in left] == [2]
    assert superseded == 2


def test_the_value_type_does_not_matter() -> None:
    left, superseded = coalesce([arrival(A, [1], 1, value_type=Value.F16), arrival(A, [1], 2, value_type=Value.BF16)])
    assert [int(frame.step) for frame in left] == [2]
    assert superseded == 1


frame_lists = st.lists(st.tuples(st.sampled_from([A, B]), st.sets(st.integers(0, 9), min_size=1)), max_size=8)


@given(frame_lists)
def test_every_block_of_a_link_is_left_once_in_its_newest_version(given_frames: list[tuple[NodeId, set[int]]]) -> None:
    frames = [arrival(peer, sorted(blocks), float(n)) for n, (peer, blocks) in enumerate(given_frames)]
    left, superseded = coalesce(frames)
    newest = {(f.peer, int(i)): int(f.step) for f in frames for i in f.selection.indices}
    pairs = [((f.peer, int(i)), int(f.step)) for f in left for i in f.selection.indices]
    assert dict(pairs) == newest
    assert len(pairs) == len(newest)
    assert superseded == sum(len(blocks) for _, blocks in given_frames) - len(newest)
    assert [f.step for f in left] == sorted(f.step for f in left)
    for frame in left:
        assert len(frame.selection.values) == len(frame.selection.indices) > 0
        assert (frame.selection.values == float(frame.step)).all()


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_coalesce(count: int) -> None:
    frames = [arrival(A, [0])] * count
    assert coalesce(frames) == (tuple(frames), 0)


def test_frames_of_a_state_transfer_are_never_coalesced() -> None:
    sweep = replace(arrival(A, [0, 1], 1.0), kind=Kind.SWEEP)
    older, newer = arrival(A, [0, 1], 2.0), arrival(A, [1, 2], 3.0)
    kept, superseded = coalesce([older, sweep, newer, sweep])
    assert superseded == 1 and len(kept) == 4 and kept[1] is kept[3] is sweep
    assert kept[0].selection.indices.tolist() == [0] and kept[2] is newer
    assert coalesce([sweep, sweep, newer]) == ((sweep, sweep, newer), 0)
