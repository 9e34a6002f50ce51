from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.codec import Value, encode
from dagrad_bus.events import Arrival, Outgoing, Selection, View
from dagrad_bus.ids import JobId, NodeId, Step
from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.network import RECEIPT, VirtualNet, VirtualPort
from dagrad_bus.lab.virtual import VirtualTime
from dagrad_bus.settings import LinkSettings
from dagrad_bus.sim.sizes import DATA_HEAD
from dagrad_bus.wire import Kind

ELEMENTS = 1000
ANN, BEN, CAT = (NodeId(bytes([number]) * 16) for number in (1, 2, 3))
Program = Callable[["Group", VirtualPort], None]


class Group:
    """Some workers, each linked to all others; each runs a program of its own."""

    def __init__(self, costs: Costs, programs: dict[NodeId, Program], link: LinkSettings | None = None) -> None:
        self.time = VirtualTime()
        self.net = VirtualNet(self.time, costs, 0, link, frozenset())
        for node, program in programs.items():
            actor = self.time.spawn(node.hex()[:2], partial(self._run, program, node))
            port = self.net.port(node, node.hex()[:2], [peer for peer in programs if peer != node], actor)
            port.layout = Layout((Entry("w", (ELEMENTS,), "float32"),), (), 1)

    def _run(self, program: Program, node: NodeId) -> None:
        program(self, self.net.ports[node])

    def send(self, port: VirtualPort, job: int, count: int, *peers: NodeId, first: int = 0, value: float = 0.0) -> int:
        """Publish ``count`` elements from ``first`` on; return the bytes of the frame."""
        indices = np.arange(first, first + count, dtype=np.int64)
        values = np.full((count, 1), value, np.float32)
        port.publish(
            Outgoing(
                JobId(job), peers, Kind.STATE, Value.F32, Selection(indices, values), Step(job), 1.0, self.time.now()
            )
        )
        return len(encode(indices, values, None, total=ELEMENTS, allow=frozenset()).data) + DATA_HEAD


def idle(group: Group, port: VirtualPort) -> None:
    del port
    group.time.sleep(1000.0)


def is_ready(view: View, peer: NodeId) -> bool:
    return next(link.ready for link in view.links if link.peer == peer)


def test_a_frame_takes_the_time_of_the_card_and_of_the_flight() -> None:
    took: list[Arrival] = []
    size = [0]

    def ann(group: Group, port: VirtualPort) -> None:
        size[0] = group.send(port, 1, 100, BEN, value=0.5)
        group.time.sleep(20.0)

    def ben(group: Group, port: VirtualPort) -> None:
        group.time.sleep(10.0)
        took.extend(port.view().arrivals)

    Group(Costs(bandwidth=1000.0, latency=0.25), {ANN: ann, BEN: ben}).time.run()
    (arrival,) = took
    assert arrival.transit == pytest.approx(0.25 + size[0] / 1000.0)
    assert arrival.arrived_at == pytest.approx(arrival.transit)
    assert (arrival.peer, arrival.size) == (ANN, size[0])
    assert (arrival.selection.values == 0.5).all()


def test_one_card_sends_one_frame_after_the_other() -> None:
    took: dict[NodeId, float] = {}
    size = [0]

    def ann(group: Group, port: VirtualPort) -> None:
        size[0] = group.send(port, 1, 100, BEN, CAT)
        group.time.sleep(20.0)

    def listen(group: Group, port: VirtualPort) -> None:
        group.time.sleep(10.0)
        (arrival,) = port.view().arrivals
        took[port.node] = arrival.transit

    Group(Costs(bandwidth=1000.0, latency=0.0), {ANN: ann, BEN: listen, CAT: listen}).time.run()
    assert took == pytest.approx({BEN: size[0] / 1000.0, CAT: 2 * size[0] / 1000.0})


def test_one_card_hears_one_frame_after_the_other() -> None:
    took: list[float] = []
    size = [0]

    def send(group: Group, port: VirtualPort) -> None:
        size[0] = group.send(port, 1, 100, CAT)
        group.time.sleep(20.0)

    def cat(group: Group, port: VirtualPort) -> None:
        group.time.sleep(10.0)
        took.extend(arrival.transit for arrival in port.view().arrivals)

    Group(Costs(bandwidth=1000.0, latency=0.0), {ANN: send, BEN: send, CAT: cat}).time.run()
    assert took == pytest.approx([size[0] / 1000.0, 2 * size[0] / 1000.0])


def test_cards_send_and_hear_at_the_same_time() -> None:
    took: list[tuple[float, int]] = []

    def both(group: Group, port: VirtualPort) -> None:
        (peer,) = group.net.ports.keys() - {port.node}
        group.send(port, 1, 100, peer)
        group.time.sleep(10.0)
        took.extend((arrival.transit, arrival.size) for arrival in port.view().arrivals)

    Group(Costs(bandwidth=1000.0, latency=0.0), {ANN: both, BEN: both}).time.run()
    assert [transit for transit, _ in took] == pytest.approx([size / 1000.0 for _, size in took])
    assert len(took) == 2


def test_frames_of_a_link_keep_their_order_and_their_blocks() -> None:
    took: list[Arrival] = []

    def ann(group: Group, port: VirtualPort) -> None:
        group.send(port, 1, 10, BEN, value=1.0)
        group.send(port, 2, 10, BEN, first=5, value=2.0)
        group.time.sleep(5.0)

    def ben(group: Group, port: VirtualPort) -> None:
        group.time.sleep(2.0)
        took.extend(port.view().arrivals)

    Group(Costs(), {ANN: ann, BEN: ben}).time.run()
    assert [arrival.step for arrival in took] == [1, 2]
    assert [list(arrival.selection.indices) for arrival in took] == [list(range(10)), list(range(5, 15))]


def test_frames_of_a_link_keep_their_order_however_long_each_flies() -> None:
    took: list[int] = []

    def ann(group: Group, port: VirtualPort) -> None:
        for job in range(30):
            group.send(port, job, 1, BEN, first=job)
        group.time.sleep(1.0)

    def ben(group: Group, port: VirtualPort) -> None:
        group.time.sleep(1e6)
        took.extend(arrival.step for arrival in port.view().arrivals)

    Group(Costs(tail=1.0, tail_index=1.1), {ANN: ann, BEN: ben}).time.run()
    assert took == list(range(30))


def test_a_window_full_of_frames_in_flight_stops_a_sender_until_receipts_are_back() -> None:
    ready: list[bool] = []

    def ann(group: Group, port: VirtualPort) -> None:
        for job in range(3):
            ready.append(is_ready(port.view(), BEN))
            group.send(port, job, 10, BEN)
        ready.append(is_ready(port.view(), BEN))
        group.time.sleep(1.9)  # one flight there, one back, less a little
        ready.append(is_ready(port.view(), BEN))
        group.time.sleep(0.2)
        ready.append(is_ready(port.view(), BEN))

    Group(Costs(bandwidth=math.inf, latency=1.0), {ANN: ann, BEN: idle}, LinkSettings(window=3)).time.run()
    assert ready == [True, True, True, False, False, True]


def test_large_frames_get_a_smaller_window_but_always_one_of_two() -> None:
    ready: list[bool] = []

    def ann(group: Group, port: VirtualPort) -> None:
        for job in range(2):
            group.send(port, job, 500, BEN)
            ready.append(is_ready(port.view(), BEN))
        group.time.sleep(0.1)

    Group(Costs(latency=1.0), {ANN: ann, BEN: idle}, LinkSettings(window_bytes=100)).time.run()
    assert ready == [True, False]


def test_a_receiver_that_takes_nothing_stops_a_sender_until_it_does() -> None:
    ready: list[bool] = []

    def ann(group: Group, port: VirtualPort) -> None:
        for job in range(4):
            ready.append(is_ready(port.view(), BEN))
            group.send(port, job, 10, BEN)
            group.time.sleep(1.0)
        ready.append(is_ready(port.view(), BEN))
        group.time.sleep(10.0)
        ready.append(is_ready(port.view(), BEN))

    def ben(group: Group, port: VirtualPort) -> None:
        group.time.sleep(10.0)
        assert len(port.view().arrivals) == 4
        group.time.sleep(10.0)

    Group(Costs(), {ANN: ann, BEN: ben}, LinkSettings(mailbox_frames=4)).time.run()
    assert ready == [True, True, True, True, False, True]


def test_every_frame_is_answered_for_and_its_bytes_are_counted() -> None:
    said: list[tuple[int, NodeId, bool]] = []
    seen: dict[str, int] = {}

    def ann(group: Group, port: VirtualPort) -> None:
        seen["size"] = group.send(port, 5, 100, BEN, CAT)
        seen["load"] = port.take_load()
        seen["again"] = port.take_load()
        group.time.sleep(1.0)
        said.extend((outcome.job, outcome.peer, outcome.accepted) for outcome in port.view().outcomes)
        seen["sent"] = port.sent_bytes

    Group(Costs(), {ANN: ann, BEN: idle, CAT: idle}).time.run()
    assert sorted(said) == [(5, BEN, True), (5, CAT, True)]
    assert seen["sent"] == 2 * (seen["size"] + RECEIPT)
    assert (seen["load"], seen["again"]) == (2 * seen["size"], 0)


def test_a_frame_on_its_way_to_a_link_that_is_gone_is_told_lost() -> None:
    said: list[bool] = []

    def ann(group: Group, port: VirtualPort) -> None:
        group.send(port, 1, 10, BEN)
        group.net.relink({ANN: (CAT,), CAT: (ANN,)})
        group.send(port, 2, 10, BEN)
        group.time.sleep(5.0)
        said.extend(outcome.accepted for outcome in port.view().outcomes)

    def ben(group: Group, port: VirtualPort) -> None:
        group.time.sleep(4.0)
        assert port.view() == View(())

    Group(Costs(latency=1.0), {ANN: ann, BEN: ben, CAT: idle}).time.run()
    assert said == [False, False]


def test_a_link_that_comes_back_has_a_new_generation_and_all_its_credit() -> None:
    seen: list[tuple[int, bool]] = []

    def ann(group: Group, port: VirtualPort) -> None:
        for wanted in ((BEN,), (), (BEN,)):
            port.relink(wanted)
            seen.extend((link.generation, link.ready) for link in port.view().links)
            if wanted:
                group.send(port, 1, 10, BEN)
        group.time.sleep(5.0)  # the receipt of the old generation frees nothing of the new one
        seen.extend((link.generation, link.ready) for link in port.view().links)
        assert port._links[BEN].frames == 0

    Group(Costs(latency=1.0), {ANN: ann, BEN: idle}, LinkSettings(window=1)).time.run()
    assert seen == [(1, True), (2, True), (2, True)]


def test_who_waits_is_woken_by_an_arrival() -> None:
    woken: list[float] = []

    def ann(group: Group, port: VirtualPort) -> None:
        group.time.sleep(0.5)
        group.send(port, 1, 10, BEN)
        group.time.sleep(1.0)

    def ben(group: Group, port: VirtualPort) -> None:
        port.wait(0.001)
        woken.append(group.time.now())
        port.wait(0.001)  # something waits: no time passes
        woken.append(group.time.now())

    Group(Costs(bandwidth=math.inf, latency=0.2), {ANN: ann, BEN: ben}).time.run()
    assert woken == pytest.approx([0.7, 0.7])


def test_who_leaves_is_no_link_of_anybody() -> None:
    left: list[int] = []

    def ann(group: Group, port: VirtualPort) -> None:
        del group
        port.close()

    def ben(group: Group, port: VirtualPort) -> None:
        group.time.sleep(1.0)
        left.append(len(port.view().links))

    Group(Costs(), {ANN: ann, BEN: ben}).time.run()
    assert left == [0]
