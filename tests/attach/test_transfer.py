"""State transfer between replicas: a copy is exact, giving away disturbs nothing, mixing meets half-way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from dagrad_bus.attach.attachment import Attachment, attach
from dagrad_bus.bus.framing import pack_frame
from dagrad_bus.events import Outgoing, PeerNews
from dagrad_bus.ids import EdgeId, Step
from dagrad_bus.settings import ExchangeSettings, LinkSettings, Settings
from dagrad_bus.sweep import GAP, NO_DONOR
from dagrad_bus.wire import CHUNK, Data, Kind, StateReq, pack

Ports = Callable[[int], list[Any]]
NEVER = 10**9


@dataclass
class Worker:
    """A replica with its port; its steps train nothing unless told otherwise."""

    port: Any
    model: Any
    attachment: Attachment
    optimizer: torch.optim.Optimizer

    @property
    def transfer(self) -> Any:
        parts = self.attachment._parts
        assert parts is not None
        return parts.transfer

    def counter(self, name: str) -> int:
        return int(self.port.metrics.snapshot()["counters"].get(name, 0))  # type: ignore[no-any-return,unused-ignore]

    def swept(self) -> list[Outgoing]:
        return [outgoing for outgoing in self.port.published if outgoing.kind is Kind.SWEEP]


def worker(port: Any, seed: int, dtype: torch.dtype = torch.float32, **exchange: Any) -> Worker:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(200, 250), nn.BatchNorm1d(250), nn.Linear(250, 4)).to(dtype)
    model(torch.randn(8, 200, dtype=dtype))  # the statistics move, and count
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    settings = Settings(
        exchange=replace(ExchangeSettings(density=0.02, block=64, wire="f32"), **exchange),
        link=LinkSettings(max_frame=1 << 16),
    )
    return Worker(port, model, attach(model, optimizer, port, settings=settings, clock=port.clock), optimizer)


def flat(model: Any) -> Any:
    return torch.cat([value.detach().double().reshape(-1) for value in model.state_dict().values()])


def same(one: Worker, other: Worker) -> bool:
    return torch.equal(flat(one.model), flat(other.model))


def advance(workers: list[Worker], steps: int) -> None:
    for _ in range(steps):
        for one in workers:
            one.optimizer.step()


def started_at(one: Worker, step: int) -> None:
    one.attachment.load_state_dict({"version": 1, "step": step})


def passing(workers: list[Worker]) -> Callable[[float], None]:
    """Return a way for a waiting worker to pass the time: the others go on."""

    def pause(seconds: float) -> None:
        advance(workers, 1)

    return pause


def late(ports: list[Any], donors: int = 2, **options: Any) -> tuple[list[Worker], Worker]:
    """Return donors that have trained alone for long, and one that has just started with another state."""
    givers = [worker(port, 1, **options) for port in ports[:donors]]
    for giver in givers:  # nobody else is there yet
        started_at(giver, 10 * GAP)
        for _ in range(5):
            giver.model(torch.full((8, 200), 0.5, dtype=giver.model[0].weight.dtype))
    joiner = worker(ports[donors], 2, **options)
    joiner.port.news = {giver.port.me: PeerNews(Step(10 * GAP), 0.0) for giver in givers}
    joiner.transfer.pause = passing(givers)
    return givers, joiner


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_joiner_equals_its_donors_bit_for_bit(connected: Ports, dtype: torch.dtype) -> None:
    donors, joiner = late(connected(3), dtype=dtype)
    if dtype == torch.float64:  # what travels is float32
        for one in donors:
            one.model.load_state_dict({k: v.float().to(v.dtype) for k, v in one.model.state_dict().items()})
    assert not same(joiner, donors[0])
    joiner.optimizer.step()
    assert same(joiner, donors[0]) and same(donors[0], donors[1])
    assert joiner.model[1].num_batches_tracked == 6
    assert joiner.attachment.step_count >= 10 * GAP and not joiner.attachment.is_syncing
    assert joiner.port.syncing == [True, False]
    assert joiner.counter("sweeps_done") == 1 and joiner.counter("blocks_swept") == joiner.transfer._total
    assert all(giver.swept() for giver in donors)  # both were asked
    assert not joiner.swept()


def test_the_anchor_is_copied_too(connected: Ports) -> None:
    donors, joiner = late(connected(3))
    joiner.optimizer.step()
    parts = joiner.attachment._parts
    assert parts is not None
    assert torch.equal(parts.rule.tensors()["anchor"], parts.replica.flat)
    joiner.optimizer.step()
    assert joiner.counter("sweeps_done") == 1  # once is enough
    assert same(joiner, donors[0])


def test_no_step_is_trained_while_copying_and_nothing_is_published(connected: Ports) -> None:
    donors, joiner = late(connected(3))
    seen: list[int] = []

    def pause(seconds: float) -> None:
        assert joiner.attachment.is_syncing
        seen.append(joiner.attachment.step_count)
        advance(donors, 1)

    joiner.port.published.clear()
    joiner.transfer.pause = pause
    joiner.optimizer.step()
    assert len(seen) > 2 and set(seen) == {1} and not joiner.port.published


def test_giving_away_touches_neither_anchor_nor_book_and_ordinary_frames_go_on(connected: Ports) -> None:
    ports = connected(2)
    donors, joiner = late(ports, donors=1)
    (donor,) = donors
    parts = donor.attachment._parts
    assert parts is not None

    def pause(seconds: float) -> None:
        with torch.no_grad():
            donor.model[0].weight.add_(0.01)  # training goes on
        anchor, dirty = parts.rule.tensors()["anchor"].clone(), parts.exchange._book.dirty_count
        before = len(donor.port.published)
        donor.optimizer.step()
        sent = donor.port.published[before:]
        if sent and all(outgoing.kind is Kind.SWEEP for outgoing in sent):
            assert torch.equal(anchor, parts.rule.tensors()["anchor"])
            assert parts.exchange._book.dirty_count == dirty

    joiner.transfer.pause = pause
    donor.port.published.clear()
    joiner.optimizer.step()
    kinds = [outgoing.kind for outgoing in donor.port.published]
    assert kinds.count(Kind.SWEEP) >= 3
    for one, after in pairwise(kinds):
        assert one is Kind.STATE or after is Kind.STATE  # they take turns
    assert joiner.counter("sweeps_done") == 1


def test_a_donor_that_dies_midway_is_replaced(connected: Ports) -> None:
    ports = connected(3)
    donors, joiner = late(ports)
    turns = 0

    def pause(seconds: float) -> None:
        nonlocal turns
        turns += 1
        if turns == 4:
            assert 0 < joiner.transfer._copy.missing < joiner.transfer._total
            joiner.port.peers = [donors[1].port]
            donors[0].port.peers, donors[0].port.ready = [], False
        advance(donors[1:] if turns > 4 else donors, 1)

    joiner.transfer.pause = pause
    joiner.optimizer.step()
    assert turns > 4 and same(joiner, donors[1])


def test_lost_frames_are_sent_again(connected: Ports) -> None:
    donors, joiner = late(connected(3))
    turns = 0

    def pause(seconds: float) -> None:
        nonlocal turns
        turns += 1
        donors[0].port.delivers = donors[1].port.delivers = turns % 3 == 0
        advance(donors, 1)

    joiner.transfer.pause = pause
    joiner.optimizer.step()
    assert same(joiner, donors[0])


def test_without_a_donor_the_own_state_stands(connected: Ports) -> None:
    donors, joiner = late(connected(3))
    before = flat(joiner.model).clone()
    joiner.transfer.pause = passing([])  # the donors never step
    began = joiner.port.now
    joiner.optimizer.step()
    assert joiner.port.now - began >= NO_DONOR
    assert joiner.counter("sweep_fallback") == 1 and torch.equal(flat(joiner.model), before)
    assert joiner.attachment.step_count == 1
    joiner.optimizer.step()
    assert joiner.counter("sweep_fallback") == 1
    assert donors[0].port.requests


def test_a_common_start_copies_nothing_not_even_the_slowest(connected: Ports) -> None:
    ports = connected(3)
    workers = [worker(port, i, interval=20) for i, port in enumerate(ports)]
    advance(workers[:2], 20)
    advance(workers, 1)  # all have heard one another
    advance(workers[:2], 2 * GAP)
    advance(workers, 20)
    slow = worker(connected(2)[0], 3)
    slow.port.now += 100.0
    slow.port.news = {slow.port.peers[0].me: PeerNews(Step(1000), 10.0)}
    slow.optimizer.step()
    for one in (*workers[:2], slow):
        assert not one.port.syncing and not one.counter("sweeps_done") + one.counter("sweep_fallback")


def test_a_restored_worker_that_is_behind_copies(connected: Ports) -> None:
    ports = connected(3)
    donors, joiner = late(ports)
    state = joiner.attachment.state_dict()
    joiner.optimizer.step()
    assert joiner.counter("sweeps_done") == 1
    joiner.attachment.load_state_dict(state)
    assert joiner.attachment.step_count == 0
    joiner.port.news = dict(joiner.port.news)
    joiner.optimizer.step()
    assert joiner.counter("sweeps_done") == 2 and same(joiner, donors[0])


@pytest.mark.parametrize("slept", [True, False])
def test_who_comes_back_copies_only_after_it_stood_still(connected: Ports, slept: bool) -> None:
    donors, joiner = late(connected(3))
    joiner.port.news = {peer: PeerNews(Step(1), 0.0) for peer in joiner.port.news}
    for giver in donors:
        giver.port.ready = False  # so that nothing else says how far they are
    advance([joiner], 3)
    assert not joiner.port.syncing
    joiner.port.now += 20.0 if slept else 0.0
    joiner.port.rejoined = True
    joiner.optimizer.step()
    for giver in donors:
        giver.port.ready = True
    joiner.port.news = {giver.port.me: PeerNews(Step(10 * GAP), 0.0) for giver in donors}
    joiner.optimizer.step()
    assert not joiner.port.syncing  # old news may still be under way
    joiner.port.now += 3.0
    joiner.optimizer.step()
    assert joiner.port.syncing == ([True, False] if slept else [])


def test_a_healed_peer_is_met_half_way_without_stopping(connected: Ports) -> None:
    ports = connected(2)
    one, other = worker(ports[0], 1, interval=NEVER), worker(ports[1], 2, interval=NEVER)
    other.model[1].num_batches_tracked.fill_(9)
    mine, theirs = flat(one.model).clone(), flat(other.model).clone()
    one.port.healed = [other.port.me]
    steps = 0
    while not one.counter("sweeps_done"):
        advance([one, other], 1)
        steps += 1
    assert one.attachment.step_count == steps > 3 and not one.port.syncing
    wanted = (mine + theirs) / 2
    counter = (mine != mine.round()) | (theirs != theirs.round())  # all but the integer buffer
    assert torch.allclose(flat(one.model)[counter], wanted[counter], atol=1e-6)
    assert one.model[1].num_batches_tracked == 9
    assert torch.equal(flat(other.model), theirs)
    parts = one.attachment._parts
    assert parts is not None and not torch.equal(parts.rule.tensors()["anchor"], parts.replica.flat)  # to be passed on


def test_a_rule_that_sums_does_not_meet_half_way(staffed: Callable[[list[str]], list[Any]]) -> None:
    a, b = staffed(["a", "b"])
    torch.manual_seed(0)
    model = nn.Linear(200, 4)
    settings = Settings(name="b", members=("a", "b"), exchange=ExchangeSettings(rule="async-ps"))
    one = Worker(b, model, attach(model, None, b, settings=settings, clock=b.clock), torch.optim.SGD([model.weight]))
    b.healed = [a.me]
    one.attachment.exchange()
    assert not one.transfer._healed and not a.requests


def test_both_sides_of_a_partition_end_near_each_other(connected: Ports) -> None:
    ports = connected(2)
    one, other = worker(ports[0], 1), worker(ports[1], 2)
    before = (flat(one.model) - flat(other.model)).norm()
    one.port.healed, other.port.healed = [other.port.me], [one.port.me]
    while not (one.counter("sweeps_done") and other.counter("sweeps_done")):
        advance([one, other], 1)
    assert (flat(one.model) - flat(other.model)).norm() < 0.3 * before


def test_healed_peers_are_taken_one_at_a_time_and_one_that_stood_still_not_at_all(connected: Ports) -> None:
    ports = connected(4)
    workers = [worker(port, i, interval=NEVER) for i, port in enumerate(ports)]
    one, *others = workers
    beat = {peer.port.me: PeerNews(Step(100), 10.0) for peer in others}
    started_at(one, 100)
    one.port.news = beat
    advance([one], 1)
    one.port.now += 20.0
    one.port.news = {peer.port.me: PeerNews(Step(300), 10.0) for peer in others}
    one.port.news[others[2].port.me] = PeerNews(Step(101), 10.0)
    advance([one], 1)
    one.port.healed = [peer.port.me for peer in others]
    for _ in range(40):
        advance([one], 1)
        assert sum(bool(peer.transfer._out.waiting() or peer.port.requests) for peer in others) <= 1
        advance(others, 1)
    assert one.counter("sweeps_done") == 2 and not others[2].swept()


def test_a_healed_peer_without_a_link_is_passed_over_after_a_while(connected: Ports) -> None:
    ports = connected(2)
    one = worker(ports[0], 1)
    absent, one.port.peers = one.port.peers, []
    one.port.healed = [absent[0].me]
    advance([one], 2)
    assert one.transfer._healed
    one.port.now += 100.0
    advance([one], 1)
    assert not one.transfer._healed and not one.counter("sweeps_done")


def test_sync_copies_when_asked_to(connected: Ports) -> None:
    ports = connected(2)
    one, other = worker(ports[0], 1), worker(ports[1], 2)
    advance([one, other], 3)
    one.transfer.pause = passing([other])
    assert one.attachment.sync() and same(one, other)
    one.transfer.pause = passing([])
    began = one.port.now
    assert not one.attachment.sync(timeout=2.0) and 2.0 <= one.port.now - began < 3.0


def test_who_copies_gives_nothing_away(connected: Ports) -> None:
    donors, joiner = late(connected(3))
    asked = False

    def pause(seconds: float) -> None:
        nonlocal asked
        if not asked:
            asked = donors[0].port.tell(joiner.port.me, StateReq(1, ((0, 1),)))
        advance(donors, 1)

    joiner.transfer.pause = pause
    joiner.optimizer.step()
    assert asked and not joiner.swept() and joiner.counter("sweeps_refused") == 1


def test_a_diverged_donor_refuses(connected: Ports) -> None:
    donors, joiner = late(connected(3))
    with torch.no_grad():
        donors[0].model[0].weight[3, 3] = torch.nan
    joiner.transfer.pause = passing(donors)
    joiner.optimizer.step()
    assert donors[0].counter("sweeps_refused") and torch.isfinite(flat(joiner.model)).all()
    assert same(joiner, donors[1])


def test_what_must_stop_the_program_is_raised_from_the_wait(connected: Ports) -> None:
    _, joiner = late(connected(3))

    def pause(seconds: float) -> None:
        joiner.port.error = RuntimeError("the bus is dead")

    joiner.transfer.pause = pause
    with pytest.raises(RuntimeError, match="dead"):
        joiner.optimizer.step()
    assert joiner.port.syncing == [True, False] and not joiner.attachment.is_syncing


def test_the_gradient_rule_copies_the_same_state_and_forgets_its_own_mass(connected: Ports) -> None:
    donors, joiner = late(connected(3), rule="gradient")
    for parameter in joiner.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    joiner.optimizer.step()
    parts = joiner.attachment._parts
    assert parts is not None
    assert same(joiner, donors[0]) and not parts.rule.tensors()["residual"].any()


def test_the_local_rule_takes_no_part(connected: Ports) -> None:
    joiner = worker(connected(2)[0], 1, rule="local")
    joiner.port.news = {peer.me: PeerNews(Step(10 * GAP), 0.0) for peer in joiner.port.peers}
    advance([joiner], 3)
    assert not joiner.port.syncing and not joiner.attachment.sync() and not joiner.attachment.is_syncing


@pytest.mark.slow
def test_a_model_of_100_mb_costs_its_size_and_less_than_one_percent(connected: Ports) -> None:
    ports = connected(3)

    def large(port: Any, seed: int) -> Worker:
        torch.manual_seed(seed)
        model = nn.Linear(5000, 5000)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        settings = Settings(exchange=ExchangeSettings(interval=NEVER))
        return Worker(port, model, attach(model, optimizer, port, settings=settings, clock=port.clock), optimizer)

    donors, joiner = [large(ports[0], 1), large(ports[1], 1)], large(ports[2], 2)
    for donor in donors:
        started_at(donor, 10 * GAP)
    joiner.port.news = {donor.port.me: PeerNews(Step(10 * GAP), 0.0) for donor in donors}
    joiner.transfer.pause = passing(donors)
    joiner.optimizer.step()
    assert same(joiner, donors[0])
    parts = joiner.attachment._parts
    assert parts is not None
    layout, total = parts.replica.layout, 0
    for outgoing in [outgoing for donor in donors for outgoing in donor.swept()]:
        packed = pack_frame(outgoing, layout, frozenset())
        chunks = range(0, len(packed.payload), CHUNK)
        for ix, at in enumerate(chunks):
            part, head = packed.payload[at : at + CHUNK], packed.head if not ix else None
            total += sum(len(one) for one in pack(Data(EdgeId(1), 1, ix, len(chunks), head, part)))
    assert 4 * layout.size <= total < 1.01 * 4 * layout.size
