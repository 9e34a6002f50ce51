"""Whole frames: decoded in order, put into the mailbox, and each with one verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import pytest

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.bus.coding import QUEUE
from dagrad_bus.bus.engine import Engine
from dagrad_bus.bus.framing import INLINE_BYTES, nack_code, pack_frame
from dagrad_bus.bus.identity import Identity
from dagrad_bus.bus.intake import Intake
from dagrad_bus.codec import Value
from dagrad_bus.errors import LayoutMismatch, MalformedFrame, NotFinite, RemoteError
from dagrad_bus.events import Outgoing, Selection, Send
from dagrad_bus.ids import EdgeId, JobId, NodeId, Step
from dagrad_bus.link import Action, Assembled, InLink
from dagrad_bus.mailbox import Mailbox
from dagrad_bus.metrics import Metrics
from dagrad_bus.settings import LinkSettings, Settings
from dagrad_bus.wire import CHUNK, Data, Kind, Nack, NackCode

Until = Callable[[Callable[[], object]], Awaitable[None]]
LAYOUT = Layout((Entry("x", (50_000,), "float32"),), (), 1)
LINK = LinkSettings(window=32)


@dataclass
class Desk:
    """What an intake needs of the bus."""

    loop: asyncio.AbstractEventLoop
    threads: ThreadPoolExecutor
    layout: Layout = LAYOUT
    acted: list[Action] = field(default_factory=list[Action])

    def __post_init__(self) -> None:
        self.identity = Identity(Settings(run="r", name="a", members=("a", "b"), key=b"k"), LAYOUT, 1)
        self.metrics = Metrics()
        self.mailbox = Mailbox(LINK)
        self.peer = next(node for node, name in self.identity.roster.items() if name == "b")
        self.node = self
        self.by_peer: dict[NodeId, object] = {}
        self.link = InLink(self.peer, 1, EdgeId(1), b"r", LINK, lambda peer: True)
        self.link.info(0.0)

    def verdict(self, frame: Assembled, code: int, now: float) -> None:
        """Take a verdict as a node does."""
        assert frame.link is self.link
        self.acted += self.link.verdict(frame.seq, code, now)

    def frame(self, seq: int, count: int, value: float = 1.0) -> Assembled:
        """Return a frame of ``count`` blocks as the link assembles it."""
        rows = np.full((count, 1), value, dtype=np.float32)
        selection = Selection(np.arange(count), rows)
        links: tuple[NodeId, ...] = ()
        outgoing = Outgoing(JobId(seq), links, Kind.STATE, Value.F32, selection, Step(seq), 1.0, 0.0)
        packed = pack_frame(outgoing, LAYOUT, frozenset())
        actions: Sequence[object] = []
        for ix in range(packed.chunks):
            part = packed.payload[ix * CHUNK : (ix + 1) * CHUNK]
            chunk = Data(EdgeId(1), seq, ix, packed.chunks, None if ix else packed.head, part)
            actions = self.link.data(chunk, 0.0)
        (whole,) = actions
        assert isinstance(whole, Assembled)
        return whole

    @property
    def codes(self) -> list[int]:
        """NACK codes answered."""
        return [a.message.code for a in self.acted if isinstance(a, Send) and isinstance(a.message, Nack)]


SMALL, LARGE = 10, INLINE_BYTES // 4 + 1


@pytest.mark.asyncio
async def test_a_small_frame_is_decided_at_once() -> None:
    with ThreadPoolExecutor(1) as threads:
        desk = Desk(asyncio.get_running_loop(), threads)
        Intake(cast(Engine, desk)).decode(desk.frame(1, SMALL))
    assert desk.mailbox.waiting(desk.peer) == 1
    assert desk.link.resolved == 1
    assert desk.metrics["frames_received"] == 1


@pytest.mark.asyncio
async def test_frames_of_a_link_keep_their_order_however_large(until: Until) -> None:
    with ThreadPoolExecutor(2) as threads:
        desk = Desk(asyncio.get_running_loop(), threads)
        intake = Intake(cast(Engine, desk))
        for seq, count in enumerate([SMALL, LARGE, SMALL, LARGE, SMALL], 1):
            intake.decode(desk.frame(seq, count))
        assert desk.mailbox.waiting(desk.peer) == 1  # the first; the small ones wait behind the large one
        async with asyncio.TaskGroup() as group:
            task = group.create_task(intake.run())
            await until(lambda: desk.mailbox.waiting(desk.peer) == 5)
            task.cancel()
    assert [int(arrival.step) for arrival in desk.mailbox.take()] == [1, 2, 3, 4, 5]
    assert (desk.link.resolved, desk.link.history) == (5, 0b11111)
    assert not any(intake._decoding.values())


@pytest.mark.asyncio
async def test_a_frame_that_is_refused_has_its_reason_and_no_place_in_the_mailbox() -> None:
    with ThreadPoolExecutor(1) as threads:
        desk = Desk(asyncio.get_running_loop(), threads)
        intake = Intake(cast(Engine, desk))
        intake.decode(desk.frame(1, SMALL, float("inf")))
        frame = desk.frame(2, SMALL)
        intake.decode(replace(frame, head=replace(frame.head, layout=bytes(8))))
        frame = desk.frame(3, SMALL)
        intake.decode(replace(frame, parts=(b"".join(frame.parts)[:-1],)))
    assert desk.codes == [NackCode.NOT_FINITE, NackCode.LAYOUT, NackCode.DECODE]
    assert desk.mailbox.waiting(desk.peer) == 0
    assert (desk.link.resolved, desk.link.history) == (3, 0)
    assert desk.metrics["frames_dropped.decode"] == 3


@pytest.mark.asyncio
async def test_what_finds_no_room_at_the_decoder_is_refused_in_its_turn(until: Until) -> None:
    with ThreadPoolExecutor(1) as threads:
        desk = Desk(asyncio.get_running_loop(), threads)
        intake = Intake(cast(Engine, desk))
        for seq in range(1, QUEUE + 3):
            desk.link.info(0.0)
            desk.link.credit = 1000
            intake.decode(desk.frame(seq, LARGE))
        assert desk.metrics["frames_dropped.overload"] == 2
        async with asyncio.TaskGroup() as group:
            task = group.create_task(intake.run())
            await until(lambda: desk.link.resolved == QUEUE + 2)
            task.cancel()
    assert desk.link.history & 0b111 == 0b100
    assert desk.codes == [NackCode.OVERLOAD] * 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LayoutMismatch("x"), NackCode.LAYOUT),
        (NotFinite("x"), NackCode.NOT_FINITE),
        (MalformedFrame("x"), NackCode.DECODE),
    ],
)
def test_why_a_frame_is_refused(error: RemoteError, code: NackCode) -> None:
    assert nack_code(error) == code
