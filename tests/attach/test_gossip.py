"""Dense gossip in pairs: the sum of the replicas stays, replicas stay averages, a connected graph agrees on the mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dagrad_bus.attach.attachment import attach
from dagrad_bus.attach.exchange import Exchange
from dagrad_bus.attach.gossip import PairRule
from dagrad_bus.attach.replica import Replica
from dagrad_bus.attach.rules import KINDS
from dagrad_bus.codec import Value
from dagrad_bus.events import MemberEvent, PeerNews
from dagrad_bus.ids import Step
from dagrad_bus.settings import ExchangeSettings, RuleName, Settings
from dagrad_bus.wire import Kind

Ports = Callable[[int], list[Any]]


class Worker:
    """A replica of one vector, its rule, and what is withheld of its mail."""

    def __init__(self, port: Any, values: Tensor, max_frame: int = 8 << 20) -> None:
        self.port = port
        model = nn.Linear(len(values), 1, bias=False)
        self.replica = Replica(model, [], block=8)
        self.replica.flat[: len(values)] = values
        settings = ExchangeSettings(rule="gossip-dense")
        self.exchange = Exchange(self.replica.layout, settings, port, KINDS["gossip-dense"], port.clock, max_frame)
        self.rule = PairRule(self.replica, self.exchange, port.me.hex())
        self.mail: list[Any] = []
        self.step = 0

    @property
    def values(self) -> Tensor:
        return self.replica.flat[: self.replica.layout.size]

    def turn(self, own: Tensor | None = None) -> None:
        """One local step and its boundary."""
        if own is not None:
            self.values.add_(own)
        self.step += 1
        self.exchange.tick()
        self.rule.after_step(self.step)

    def withhold(self) -> None:
        """Keep what has arrived away from the worker."""
        self.mail += self.port.waiting
        self.port.waiting = []

    def deliver(self) -> None:
        """Hand over what was withheld."""
        self.port.waiting = self.mail + self.port.waiting
        self.mail = []

    def ask_nobody(self) -> None:
        self.exchange.settings = replace(self.exchange.settings, interval=10**9)

    def counter(self, name: str) -> int:
        return int(self.port.metrics[name])


def ring(ports: list[Any]) -> list[Any]:
    for at, port in enumerate(ports):
        port.peers = [ports[at - 1], ports[(at + 1) % len(ports)]]
    return ports


def drain(workers: list[Worker]) -> None:
    """Let all exchanges end."""
    for worker in workers:
        worker.deliver()
        worker.ask_nobody()
    for _ in range(12):
        for worker in workers:
            worker.turn()


def test_two_workers_meet_at_their_mean(connected: Ports) -> None:
    workers = [Worker(port, torch.full((20,), 10.0 * at)) for at, port in enumerate(connected(2))]
    for _ in range(2):
        for worker in workers:
            worker.turn()
    drain(workers)
    assert all(torch.equal(worker.values, torch.full((20,), 5.0)) for worker in workers)
    frames = [frame for worker in workers for frame in worker.port.published]
    assert all(frame.value_type is Value.F32 and len(frame.selection.indices) == 3 for frame in frames)
    assert {frame.kind for frame in frames} == {Kind.STATE, Kind.GRADIENT}


@pytest.mark.parametrize("fault", ["none", "drops", "lies"])
@pytest.mark.parametrize("shape", ["ring", "complete"])
def test_the_sum_of_the_replicas_is_what_all_began_with_and_learned(connected: Ports, shape: str, fault: str) -> None:
    rng = np.random.default_rng(1)
    ports = ring(connected(5)) if shape == "ring" else connected(5)
    workers = [Worker(port, torch.randn(40)) for port in ports]
    for port in ports if fault != "none" else ():
        setattr(port, fault, set(rng.integers(0, 400, 120).tolist()))
    total = torch.stack([worker.values for worker in workers]).sum(0)
    for _ in range(400):
        worker = workers[int(rng.integers(5))]
        worker.deliver() if rng.random() < 0.6 else worker.withhold()
        own = torch.randn(40)
        total += own
        worker.turn(own)
    drain(workers)
    torch.testing.assert_close(torch.stack([worker.values for worker in workers]).sum(0), total, rtol=0, atol=1e-4)
    assert sum(worker.counter("averagings") for worker in workers) > 80
    assert not sum(worker.counter("averagings_lost") for worker in workers)
    assert (sum(worker.counter("frames_dropped.repeated") for worker in workers) > 0) == (fault == "lies")


@pytest.mark.parametrize("seed", range(4))
def test_without_local_steps_each_replica_stays_an_average_and_all_come_to_the_mean(
    connected: Ports, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = torch.eye(6)  # worker i begins as the i-th unit vector, so its values are its weights of all
    workers = [Worker(port, weights[at]) for at, port in enumerate(ring(connected(6)))]
    for _ in range(900):
        worker = workers[int(rng.integers(6))]
        worker.deliver() if rng.random() < 0.5 else worker.withhold()
        worker.turn()
        assert worker.values.min() > -1e-6 and worker.values.max() < 1 + 1e-6
    drain(workers)
    final = torch.stack([worker.values for worker in workers])
    torch.testing.assert_close(final.sum(0), torch.ones(6))
    torch.testing.assert_close(final.sum(1), torch.ones(6))
    assert (final - 1 / 6).abs().max() < 0.01


def test_two_that_ask_each_other_at_once_take_the_questions_as_answers(connected: Ports) -> None:
    one, other = (Worker(port, torch.full((9,), 10.0 * at)) for at, port in enumerate(connected(2)))
    one.turn()
    other.withhold()
    other.turn(torch.ones(9))  # it has not heard of the question, and asks
    other.deliver()
    for _ in range(2):
        one.ask_nobody()
        other.ask_nobody()
        one.turn(torch.ones(9))
        other.turn()
    assert torch.equal(one.values, torch.full((9,), 7.5)) and torch.equal(other.values, torch.full((9,), 5.5))
    assert one.counter("averagings") == other.counter("averagings") == 1
    assert {frame.kind for frame in (*one.port.published, *other.port.published)} == {Kind.STATE}


def test_a_question_that_waits_beside_an_older_one_is_answered_too(connected: Ports) -> None:
    one, other = (Worker(port, torch.full((9,), 8.0 * at)) for at, port in enumerate(connected(2)))
    one.turn()
    other.withhold()
    other.turn()  # both have asked
    one.turn()  # takes that for its answer, and asks again; the other one, slower, finds both of its questions
    assert [frame.kind for frame in one.port.published] == [Kind.STATE] * 2
    drain([other, one])
    assert torch.equal(one.values, torch.full((9,), 4.0)) and torch.equal(other.values, torch.full((9,), 4.0))
    assert (one.counter("averagings"), other.counter("averagings")) == (2, 1)
    assert one.rule._question is None and other.rule._question is None


def test_a_large_model_is_cut_into_frames(connected: Ports) -> None:
    workers = [Worker(port, torch.full((40000,), 8.0 * at), 65536) for at, port in enumerate(connected(2))]
    for _ in range(12):
        for worker in workers:
            worker.turn()
    drain(workers)
    assert all(torch.equal(worker.values, torch.full((40000,), 4.0)) for worker in workers)
    assert max(len(frame.selection.indices) for frame in workers[0].port.published) * 32 <= 65536


def test_who_waits_asks_nobody_else_until_the_asked_one_is_gone(connected: Ports) -> None:
    ports = connected(3)
    worker = Worker(ports[0], torch.ones(9))
    for _ in range(5):
        worker.turn()
    assert len(ports[0].published) == 1
    (asked,) = ports[0].published[0].links
    ports[0].events = [MemberEvent(asked, "x", "dead")]
    ports[0].peers = [peer for peer in ports[0].peers if peer.me != asked]
    worker.turn()
    assert len(ports[0].published) == 2 and ports[0].published[1].links != (asked,)
    assert worker.counter("averagings_lost") == 1
    ports[0].peers = []
    ports[0].now += 10.0  # the link is away for long
    worker.turn()
    assert worker.counter("averagings_lost") == 2
    ports[0].peers = ports[1:2]
    worker.turn()
    ports[0].now += 100.0  # the link is there, but nobody answers
    worker.turn()
    assert worker.counter("averagings_lost") == 3 and len(ports[0].published) == 4


def test_an_answer_to_a_replica_that_was_replaced_is_not_added(connected: Ports) -> None:
    workers = [Worker(port, torch.full((9,), 10.0 * at)) for at, port in enumerate(connected(2))]
    workers[0].turn()
    workers[1].ask_nobody()
    workers[1].turn()
    workers[0].values.fill_(7.0)
    workers[0].rule.moved(np.arange(2), copied=True)
    workers[0].rule.absorb(1)
    workers[0].ask_nobody()
    workers[0].turn()
    assert torch.equal(workers[0].values, torch.full((9,), 7.0)) and not workers[0].rule.tensors()
    workers[0].exchange.settings = replace(workers[0].exchange.settings, interval=1)
    for _ in range(2):
        for worker in workers:
            worker.turn()
    assert torch.equal(workers[0].values, torch.full((9,), 6.0))  # 7 and 5


def test_values_that_are_not_finite_are_not_sent(connected: Ports) -> None:
    workers = [Worker(port, torch.full((9,), 10.0 * at)) for at, port in enumerate(connected(2))]
    workers[0].values[3] = torch.nan
    for _ in range(6):
        for worker in workers:
            worker.turn()
    assert torch.isfinite(workers[1].values).all() and workers[0].counter("blocks_poisoned") > 0
    assert {frame.kind for frame in workers[0].port.published} == {Kind.GRADIENT}


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("rule", ["gossip-dense", "gossip-qsgd"])
def test_whoever_may_be_far_behind_sends_no_replica_for_a_moment(connected: Ports, rule: RuleName, heard: bool) -> None:
    ports = connected(3)
    model = nn.Linear(30, 9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    settings = Settings(exchange=ExchangeSettings(rule=rule))
    attach(model, optimizer, ports[0], settings=settings, clock=ports[0].clock)
    optimizer.step()
    assert not ports[0].published  # nobody has been heard yet
    if heard:
        ports[0].news = {port.me: PeerNews(Step(9), 100.0) for port in ports[1:]}
    else:
        ports[0].now += 2.0
    optimizer.step()
    assert len(ports[0].published) == 1


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.float64, 1e-6), (torch.bfloat16, 5e-3)])
def test_attached_models_of_any_dtype_meet(connected: Ports, dtype: torch.dtype, near: float) -> None:
    ports = connected(3)
    models = [nn.Linear(30, 9).to(dtype) for _ in ports]
    optimizers: list[torch.optim.Optimizer] = []
    for port, model in zip(ports, models, strict=True):
        optimizers.append(torch.optim.SGD(model.parameters(), lr=0.0))
        settings = Settings(name=port.me.hex()[:8], exchange=ExchangeSettings(rule="gossip-dense"))
        attach(model, optimizers[-1], port, settings=settings, clock=port.clock)
        port.news = {other.me: PeerNews(Step(1), 1.0) for other in port.peers}
    mean = torch.stack([model.weight.detach().double() for model in models]).mean(0)
    for _ in range(60):
        for optimizer in optimizers:
            optimizer.step()
    for model in models:
        torch.testing.assert_close(model.weight.detach().double(), mean, rtol=0, atol=near)
    assert ports[0].published[0].selection.values.shape == (5, 64)  # a block is a bucket, whatever the model's size
