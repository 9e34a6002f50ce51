"""QSGD gossip: rounding is unbiased and bounded, frames hold the model in one byte an element, replicas come together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dagrad_bus.attach.attachment import attach
from dagrad_bus.attach.exchange import Exchange
from dagrad_bus.attach.quantized import LEVELS, QuantizedRule, quantize
from dagrad_bus.attach.replica import Replica
from dagrad_bus.attach.rules import KINDS
from dagrad_bus.codec import Value, from_wire
from dagrad_bus.errors import UsageError
from dagrad_bus.events import PeerNews
from dagrad_bus.ids import Step
from dagrad_bus.settings import ExchangeSettings, Settings
from dagrad_bus.wire import Kind

Ports = Callable[[int], list[Any]]
DRAWS = 4000


def decoded(values: Any, rng: np.random.Generator) -> Any:
    levels, scales = quantize(values, rng)
    assert levels.dtype == np.int8 and scales.dtype == np.float32
    return from_wire(levels, scales, Value.INT8)


def test_rounding_is_unbiased_and_no_wilder_than_promised() -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((6, 64)).astype(np.float32) * np.array([[1e-3], [1], [50], [0], [1], [1]], np.float32)
    values[4] = 0.7  # all the largest
    values[5, 1:] *= 1e-4  # far below one level
    draws = np.stack([decoded(values, rng) for _ in range(DRAWS)]).astype(np.float64)
    scale = np.abs(values).max(1, keepdims=True) / LEVELS
    error = draws - values
    assert (np.abs(error.mean(0)) <= 5 * 0.5 * scale / np.sqrt(DRAWS) + 1e-6 * scale).all()
    assert (np.abs(error) <= scale * 1.001).all()
    assert ((error**2).sum(2).mean(0) <= 64 / 4 * scale[:, 0] ** 2 * 1.001).all()


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 3e38])
def test_values_at_the_ends_of_float32_stay_finite(size: float) -> None:
    values = np.full((2, 64), size, np.float32) * np.array([1, -1] * 32, np.float32)
    assert np.isfinite(np.asarray(decoded(values, np.random.default_rng(0)))).all()


def rule_of(port: Any, elements: int, max_frame: int = 8 << 20, **exchange: Any) -> tuple[Replica, QuantizedRule]:
    replica = Replica(nn.Linear(elements, 1, bias=False), [], exchange.pop("block", 64))
    settings = ExchangeSettings(rule="gossip-qsgd", **exchange)
    shared = Exchange(replica.layout, settings, port, KINDS["gossip-qsgd"], port.clock, max_frame)
    return replica, QuantizedRule(replica, shared, port.me.hex())


def test_a_frame_holds_all_blocks_for_one_neighbour_or_as_many_as_are_asked_for(connected: Ports) -> None:
    port, *others = connected(4)
    _, rule = rule_of(port, 1000)
    for step in range(1, 31):
        rule.after_step(step)
    frames = port.published
    assert {frame.value_type for frame in frames} == {Value.INT8} and {frame.kind for frame in frames} == {Kind.STATE}
    assert all(frame.selection.values.shape == (16, 64) and len(frame.links) == 1 for frame in frames)
    assert {frame.links for frame in frames} == {(other.me,) for other in others}
    _, wide = rule_of(port, 1000, fanout=2, interval=5)
    for step in range(1, 11):
        wide.after_step(step)
    assert [len(frame.links) for frame in frames[30:]] == [2, 2] and not wide.tensors()


def test_a_receiver_goes_to_the_mean_of_its_own_values_and_those_that_came(connected: Ports) -> None:
    ports = connected(3)
    made = [rule_of(port, 64) for port in ports]
    for (replica, _), value in zip(made, (0.0, 3.0, 9.0), strict=True):
        replica.flat.fill_(value)
    ports[0].peers = []
    ports[1].peers = ports[2].peers = ports[:1]
    for _, rule in (made[1], made[2]):
        rule.after_step(1)
    made[0][1].after_step(1)
    torch.testing.assert_close(made[0][0].flat, torch.full((64,), 4.0))


def test_a_model_over_one_frame_travels_a_part_a_step(connected: Ports) -> None:
    ports = connected(2)
    made = [rule_of(port, 200_000, 65536) for port in ports]
    for step in range(1, 61):
        for _, rule in made:
            rule.after_step(step)
    parts = [frame.selection.indices for frame in ports[0].published]
    assert max(len(part) for part in parts) * (64 + 4) < 65536
    assert len(np.unique(np.concatenate(parts[:4]))) == made[0][0].layout.blocks == 3125
    assert (made[0][0].flat - made[1][0].flat).abs().max() < 1e-4


def test_blocks_that_are_not_finite_are_left_out(connected: Ports) -> None:
    port, _ = connected(2)
    replica, rule = rule_of(port, 1000)
    replica.flat[70] = torch.inf
    rule.after_step(1)
    assert port.published[0].selection.indices.tolist() == [0, *range(2, 16)]
    replica.flat[:] = torch.nan
    rule.after_step(2)
    assert len(port.published) == 1 and port.metrics["blocks_poisoned"] == 17


def test_replicas_come_together_and_workers_round_independently(connected: Ports) -> None:
    ports = connected(4)
    models = [nn.Linear(30, 9) for _ in ports]
    optimizers: list[torch.optim.Optimizer] = []
    for at, (port, model) in enumerate(zip(ports, models, strict=True)):
        optimizers.append(torch.optim.SGD(model.parameters(), lr=0.0))
        settings = Settings(name=f"w{at}", exchange=ExchangeSettings(rule="gossip-qsgd", seed=4))
        attach(model, optimizers[-1], port, settings=settings, clock=port.clock)
        port.news = {other.me: PeerNews(Step(1), 1.0) for other in port.peers}
    for _ in range(60):
        for optimizer in optimizers:
            optimizer.step()
    final = torch.stack([model.weight.detach().reshape(-1) for model in models])
    assert (final - final.mean(0)).abs().max() < 0.01  # of values up to 0.18: three levels
    errors = [frame.selection.values.astype(float).reshape(-1)[:250] for port in ports for frame in port.published[-1:]]
    assert not np.array_equal(errors[0], errors[1])


def test_a_scale_for_each_element_is_refused(connected: Ports) -> None:
    with pytest.raises(UsageError, match="set block to 64 or more"):
        rule_of(connected(2)[0], 100, block=32)
