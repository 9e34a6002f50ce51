"""CHOCO-SGD: step for step what a simulation of the algorithm gives; copies agree at both ends whatever is lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dagrad_bus.attach.attachment import Attachment, attach
from dagrad_bus.attach.choco import EARLY, SPARE, ChocoRule, consensus_step
from dagrad_bus.attach.exchange import Exchange
from dagrad_bus.attach.replica import Replica
from dagrad_bus.attach.rules import KINDS
from dagrad_bus.events import MemberEvent
from dagrad_bus.settings import ExchangeSettings, Settings

Ports = Callable[[int], list[Any]]
RATE = 0.1
PLAIN = ExchangeSettings(rule="choco", wire="f32", density=0.1)


def ring(ports: list[Any]) -> list[Any]:
    for at, port in enumerate(ports):
        port.peers = [ports[at - 1], ports[(at + 1) % len(ports)]]
    return ports


class Worker:
    """A rule, and a quadratic to descend by hand: the gradient is x - target."""

    def __init__(self, port: Any, model: nn.Module, target: NDArray[np.float32], **exchange: Any) -> None:
        self.port, self.model = port, model
        self.target = torch.from_numpy(target)
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        settings = Settings(exchange=replace(PLAIN, **exchange))
        self.attachment: Attachment = attach(model, optimizer, port, settings=settings, clock=port.clock)
        self.optimizer = optimizer

    @property
    def values(self) -> NDArray[np.float32]:
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()]).float().numpy().copy()

    def turn(self, *, trains: bool = True) -> None:
        (parameter,) = self.model.parameters()
        gradient = parameter.detach().reshape(-1) - self.target
        parameter.grad = (gradient if trains else torch.zeros_like(gradient)).view_as(parameter).to(parameter.dtype)
        self.optimizer.step()

    def tensor(self, name: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.attachment.state_dict().get("tensors", {})[name].numpy()
        return found

    def agrees_with(self, others: list[Worker]) -> bool:
        """Whether the public copy of this worker is the same at all others."""
        name = f"copy.{self.port.me.hex()}"
        return all(np.array_equal(other.tensor(name), self.tensor("anchor")) for other in others)


def crew(ports: list[Any], elements: int = 50, **exchange: Any) -> list[Worker]:
    targets = np.random.default_rng(5).standard_normal((len(ports), elements)).astype(np.float32)
    model = nn.Linear(elements, 1, bias=False)
    return [Worker(port, copy.deepcopy(model), t, **exchange) for port, t in zip(ports, targets, strict=True)]


@pytest.mark.parametrize(("shape", "density"), [("ring", 0.1), ("complete", 0.1), ("ring", 0.5), ("complete", 1.0)])
def test_workers_do_what_a_simulation_of_the_algorithm_does(connected: Ports, shape: str, density: float) -> None:
    ports = ring(connected(4)) if shape == "ring" else connected(4)
    workers = crew(ports, density=density, refresh=0.0)
    joined = [[ports.index(peer) for peer in port.peers] for port in ports]
    x = np.stack([worker.values for worker in workers])
    public = x.copy()
    gamma, count = np.float32(consensus_step(density)), round(density * 50)
    for _ in range(60):
        for i, worker in enumerate(workers):
            worker.turn()
            # CHOCO-SGD, algorithm 2, one worker after the other
            x[i] -= np.float32(RATE) * (x[i] - worker.target.numpy())
            chosen = np.argsort(-np.abs(x[i] - public[i]))[:count]
            public[i, chosen] = x[i, chosen]
            x[i] += gamma / (len(joined[i]) + 1) * sum(public[j] - public[i] for j in joined[i])
            np.testing.assert_allclose(worker.values, x[i], atol=2e-5)
            np.testing.assert_allclose(worker.tensor("anchor"), public[i], atol=2e-5)


@pytest.mark.parametrize("wire", ["f32", "f16", "bf16", "int8"])
def test_both_ends_of_a_link_have_the_same_copy_and_replicas_come_together(connected: Ports, wire: str) -> None:
    workers = crew(ring(connected(4)), wire=wire, block=1 if wire != "int8" else 8, density=0.2)
    for _ in range(40):
        for worker in workers:
            worker.turn()
    apart = np.ptp([worker.values for worker in workers], axis=0).max()
    for _ in range(200):
        for worker in workers:
            worker.turn(trains=False)
    for worker in workers:
        worker.turn(trains=False)
        worker.port.ready = False  # nothing is published in the last round
    for at in range(4):
        workers[at].turn(trains=False)
        workers[at - 1].turn(trains=False)
        workers[(at + 1) % 4].turn(trains=False)
        assert workers[at].agrees_with([workers[at - 1], workers[(at + 1) % 4]])
    assert np.ptp([worker.values for worker in workers], axis=0).max() < (0.1 if wire != "int8" else 0.3) * apart


def test_a_block_that_rounding_left_apart_is_not_sent_again(connected: Ports) -> None:
    workers = crew(connected(2), wire="bf16", density=1.0, refresh=0.0)
    workers[0].turn()
    assert len(workers[0].port.published[0].selection.indices) == 50
    (parameter,) = workers[0].model.parameters()
    workers[0].port.peers[0].waiting.clear()
    with torch.no_grad():
        parameter.view(-1).copy_(torch.from_numpy(workers[0].tensor("anchor")) * 1.0001)  # less than a bf16 can tell
        parameter.view(-1)[7] = 3.0
    workers[0].turn(trains=False)
    assert workers[0].port.published[1].selection.indices.tolist() == [7]


def test_lost_frames_are_made_good_for(connected: Ports) -> None:
    ports = connected(3)
    rng = np.random.default_rng(0)
    for port in ports:
        port.drops = set(rng.integers(0, 60, 20).tolist())
    workers = crew(ports)
    for _ in range(60):
        for worker in workers:
            worker.turn()
    assert not workers[0].agrees_with(workers[1:])
    for _ in range(60):
        for worker in workers:
            worker.turn(trains=False)
    workers[0].turn(trains=False)
    workers[0].port.ready = False
    for worker in workers[1:]:
        worker.turn(trains=False)
    assert workers[0].agrees_with(workers[1:])


def alone(port: Any, elements: int = 40, **exchange: Any) -> tuple[Replica, ChocoRule]:
    replica = Replica(nn.Linear(elements, 1, bias=False), [], 1)
    settings = replace(PLAIN, fanout=1, **exchange)
    return replica, ChocoRule(replica, Exchange(replica.layout, settings, port, KINDS["choco"], port.clock))


def known(rule: ChocoRule, port: Any) -> int:
    return int(torch.isfinite(rule.tensors()[f"copy.{port.me.hex()}"]).sum())


def test_frames_go_to_all_neighbours_and_the_step_is_scaled_by_the_density(connected: Ports) -> None:
    ports = connected(4)
    replica, rule = alone(ports[0])
    replica.flat += torch.randn(40)
    rule.after_step(1)
    assert len(ports[0].published[0].links) == 3 and len(ports[0].published[0].selection.indices) == 4
    assert consensus_step(1.0) == 0.65 and consensus_step(0.01) == pytest.approx(0.065)


def test_nothing_is_believed_of_a_peer_that_began_anew_or_came_late(connected: Ports) -> None:
    ports = connected(3)
    replica, rule = alone(ports[0])
    ports[0].peers = ports[1:2]
    rule.after_step(1)
    assert known(rule, ports[1]) == 40
    ports[0].events = [MemberEvent(ports[1].me, "x", "rejoined")]
    ports[0].peers = ports[1:]
    rule.after_step(EARLY + 1)
    assert known(rule, ports[1]) == known(rule, ports[2]) == 0
    before = replica.flat.clone()
    rule.after_step(EARLY + 2)
    assert torch.equal(replica.flat, before)  # what is not known does not pull
    sender, other = alone(ports[1], refresh=0.0)
    sender.flat[3] += 5.0
    other.after_step(1)
    rule.after_step(EARLY + 3)
    assert known(rule, ports[1]) == 1 and replica.flat[3] > before[3]


def test_copying_the_state_makes_it_public_and_forgets_the_others(connected: Ports) -> None:
    ports = connected(2)
    replica, rule = alone(ports[0])
    rule.after_step(1)
    replica.flat[:30] = 2.0
    rule.moved(np.arange(10), copied=False)
    assert not (rule.tensors()["anchor"] == 2.0).any() and known(rule, ports[1]) == 40
    rule.moved(np.arange(30), copied=True)
    assert (rule.tensors()["anchor"][:30] == 2.0).all() and known(rule, ports[1]) == 10
    rule.after_step(2)
    assert torch.equal(replica.flat[:30], torch.full((30,), 2.0))


def test_a_checkpoint_keeps_the_copies(connected: Ports) -> None:
    workers = crew(connected(3))
    for _ in range(10):
        for worker in workers:
            worker.turn()
    state = workers[0].attachment.state_dict()
    assert len(state.get("tensors", {})) == 3
    (fresh,) = crew(connected(1))
    fresh.attachment.load_state_dict(state)
    for name, tensor in state.get("tensors", {}).items():
        assert np.array_equal(fresh.tensor(name), tensor.numpy())
    state["tensors"] = {}
    fresh.attachment.load_state_dict(state)
    assert np.array_equal(fresh.tensor("anchor"), fresh.values)
    assert np.isnan(fresh.tensor(f"copy.{workers[1].port.me.hex()}")).all()


def test_copies_of_former_neighbours_are_dropped_in_the_end(connected: Ports) -> None:
    ports = connected(3 + SPARE + 3)
    _, rule = alone(ports[0])
    for at in range(1, len(ports)):
        ports[0].peers = ports[at : at + 1]
        rule.after_step(at)
    assert len(rule.tensors()) == 1 + 2 + SPARE and f"copy.{ports[-1].me.hex()}" in rule.tensors()


def test_values_that_are_not_finite_do_not_spread(connected: Ports) -> None:
    for wire, block in (("f32", 1), ("bf16", 1), ("f16", 1), ("int8", 8)):
        workers = crew(connected(2), wire=wire, block=block, density=0.3, refresh=0.5)
        with torch.no_grad():
            next(iter(workers[0].model.parameters()))[0, :3] = torch.nan
        for _ in range(30):
            for worker in workers:
                worker.turn()
        assert np.isfinite(workers[1].values).all() and np.isfinite(workers[0].tensor("anchor")).all()
