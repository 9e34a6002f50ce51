"""A dense vector arrives whole and unchanged, whatever is refused, repeated or sent over a link that came up anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dagrad_bus.attach.dense import DenseIntake, DensePost
from dagrad_bus.attach.exchange import Exchange
from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.codec import Value
from dagrad_bus.events import Arrival, Selection
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.settings import ExchangeSettings
from dagrad_bus.wire import Kind

Ports = Callable[[int], list[Any]]
BLOCK, BLOCKS = 8, 5000
LAYOUT = Layout((Entry("x", (BLOCK * BLOCKS,), "float32"),), (), BLOCK)
SMALL = 65536
"""Bytes of a frame: the vector of 160 000 bytes makes three."""


def exchange_of(port: Any) -> Exchange:
    return Exchange(LAYOUT, ExchangeSettings(), port, frozenset({Kind.GRADIENT}), port.clock, SMALL)


def vector() -> Any:
    return np.random.default_rng(0).standard_normal((BLOCKS, BLOCK)).astype(np.float32)


def deliver(sender: Exchange, post: DensePost, receivers: list[Any], looks: int) -> list[list[Any]]:
    """Let the sender look so often; return the vectors that each receiver puts together."""
    intakes, whole = [DenseIntake(BLOCKS, BLOCK) for _ in receivers], [list[Any]() for _ in receivers]
    for _ in range(looks):
        post.heard(sender.take())
        post.pump()
        for port, intake, found in zip(receivers, intakes, whole, strict=True):
            found += [rows for arrival in port.view().arrivals if (rows := intake.put(arrival)) is not None]
    post.heard(sender.take())
    return whole


def test_a_vector_is_cut_into_frames_that_links_take_and_encoded_once_for_all(connected: Ports) -> None:
    port, *others = connected(3)
    rows = vector()
    sender = exchange_of(port)
    post = DensePost(sender, rows, Kind.GRADIENT, 7, [other.me for other in others])
    (first,), (second,) = deliver(sender, post, others, 3)
    assert np.array_equal(first, rows) and np.array_equal(second, rows)
    assert post.is_accepted and not post.unserved
    assert len(port.published) == 3 and all(len(frame.links) == 2 for frame in port.published)
    assert all(frame.selection.values.nbytes + 64 <= SMALL and frame.step == 7 for frame in port.published)


@pytest.mark.parametrize("fault", ["drops", "lies"])
def test_what_was_refused_goes_again_and_what_came_twice_counts_once(connected: Ports, fault: str) -> None:
    port, other = connected(2)
    setattr(port, fault, {0, 1, 3})
    rows = vector()
    sender = exchange_of(port)
    post = DensePost(sender, rows, Kind.GRADIENT, 1, [other.me])
    (whole, *_), *_ = deliver(sender, post, [other], 8)
    assert np.array_equal(whole, rows) and post.is_accepted and len(port.published) == 6


def test_a_link_that_came_up_anew_gets_all_of_it_again(connected: Ports) -> None:
    port, other = connected(2)
    rows = vector()
    sender = exchange_of(port)
    post = DensePost(sender, rows, Kind.GRADIENT, 1, [other.me])
    assert len(deliver(sender, post, [other], 3)[0]) == 1 and post.is_accepted
    port.generation = 2
    assert len(deliver(sender, post, [other], 4)[0]) == 1 and len(port.published) == 6


def test_without_ready_links_or_room_nothing_is_lost(connected: Ports) -> None:
    port, other = connected(2)
    sender = exchange_of(port)
    post = DensePost(sender, vector(), Kind.GRADIENT, 1, [other.me])
    port.ready = False
    assert deliver(sender, post, [other], 3) == [[]] and post.unserved == [other.me]
    port.ready, port.accepts = True, False
    assert deliver(sender, post, [other], 3) == [[]] and post.unserved == [other.me]
    post.drop(other.me)
    assert post.is_accepted


def part(peer: NodeId, step: int, start: int, stop: int) -> Arrival:
    rows = np.full((stop - start, BLOCK), step, np.float32)
    chosen = Selection(np.arange(start, stop), rows)
    return Arrival(peer, Kind.GRADIENT, Value.F32, chosen, Step(step), 1.0, 0.0, 0.0)


def test_a_part_of_another_step_ends_what_was_begun() -> None:
    intake, peer = DenseIntake(BLOCKS, BLOCK), NodeId(b"p" * 16)
    assert intake.put(part(peer, 1, 0, 3000)) is None
    assert intake.put(part(peer, 2, 3000, BLOCKS)) is None
    assert intake.put(part(NodeId(b"q" * 16), 2, 0, 3000)) is None  # another peer's is another vector
    whole = intake.put(part(peer, 2, 0, 3000))
    assert whole is not None and set(whole.reshape(-1).tolist()) == {2.0}
    assert intake.put(part(peer, 3, 0, 3000)) is None
    intake.forget(peer)
    assert intake.put(part(peer, 3, 3000, BLOCKS)) is None
