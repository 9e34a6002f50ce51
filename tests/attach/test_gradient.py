"""The gradient rule conserves mass: applied + buffer == local gradients + received mass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dagrad_bus.attach.attachment import Attachment, attach
from dagrad_bus.codec import Value
from dagrad_bus.errors import UsageError
from dagrad_bus.events import Arrival, Selection
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.settings import ExchangeSettings, Settings
from dagrad_bus.wire import Kind

Ports = Callable[[int], list[Any]]


def attached(model: nn.Module, port: Any, optimizer: torch.optim.Optimizer, **exchange: Any) -> Attachment:
    chosen = ExchangeSettings(rule="gradient", density=0.1, wire="f32", **exchange)
    return attach(model, optimizer, port, settings=Settings(exchange=chosen), clock=port.clock)


def residual(attachment: Attachment) -> Any:
    return attachment.state_dict().get("tensors", {})["residual"]


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]).clone()


def linear() -> Any:
    torch.manual_seed(1)
    return nn.Linear(20, 6, bias=False)


def received(port: Any, indices: list[int], values: list[float]) -> Arrival:
    selection = Selection(np.array(indices), np.array(values, np.float32)[:, None])
    return Arrival(NodeId(b"p" * 16), Kind.GRADIENT, Value.F32, selection, Step(1), 1.0, 0.0, port.now)


def test_what_is_applied_and_what_waits_is_what_came_in(connected: Ports) -> None:
    port, _ = connected(2)
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attachment = attached(model, port, optimizer, age_power=0.0)
    start = weights(model)
    came_in = torch.zeros(120)
    received_mass = torch.zeros(120)
    for step in range(8):
        gradient = torch.randn(6, 20)
        model.weight.grad = gradient.clone()
        came_in += gradient.reshape(-1)
        port.waiting.append(received(port, [step, 50 + step], [3.0, -4.0]))
        received_mass[step] += 3.0
        received_mass[50 + step] -= 4.0
        optimizer.step()
    applied = start - weights(model)
    torch.testing.assert_close(applied + residual(attachment), came_in + received_mass)
    sent = torch.zeros(120)
    for outgoing in port.published:
        assert outgoing.kind is Kind.GRADIENT and len(outgoing.selection.indices) == 12
        sent[outgoing.selection.indices] += torch.from_numpy(outgoing.selection.values[:, 0])
    torch.testing.assert_close(sent + received_mass, applied)  # what was received is not sent on


def test_an_old_frame_counts_less(connected: Ports) -> None:
    port, _ = connected(2)
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attached(model, port, optimizer, tau=1.0)
    for _ in range(3):
        model.weight.grad = torch.zeros(6, 20)
        optimizer.step()
    start = weights(model)
    model.weight.grad = torch.zeros(6, 20)
    port.waiting.append(received(port, [7], [8.0]))
    port.now += 0.02  # 0.03 s at the next reading, and 50 steps a second or so
    optimizer.step()
    moved = float((start - weights(model))[7])
    assert 0.0 < moved < 8.0


def test_a_closure_is_merged_once_a_step(connected: Ports) -> None:
    port, _ = connected(2)
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attached(model, port, optimizer)
    start = weights(model)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (model(torch.ones(2, 20)) * torch.arange(6.0)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert int((weights(model) != start).sum()) == 12
    assert len(port.published) == 1


def test_gradients_that_are_not_finite_do_not_stay_in_the_buffer(connected: Ports) -> None:
    port, _ = connected(2)
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attachment = attached(model, port, optimizer)
    model.weight.grad = torch.full((6, 20), torch.inf)
    optimizer.step()
    assert torch.isfinite(residual(attachment)).all() and torch.isfinite(weights(model)).all()


def test_a_fused_step_that_the_scaler_skips_neither_merges_nor_publishes(connected: Ports) -> None:
    port, _ = connected(2)
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    attachment = attached(model, port, optimizer)
    model.weight.grad = torch.ones(6, 20)
    optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]  # as GradScaler sets it
    optimizer.step()
    assert not port.published and not residual(attachment).any()


def test_scaled_gradients_are_merged_unscaled(connected: Ports) -> None:
    port, _ = connected(2)
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    attachment = attached(model, port, optimizer)
    model.weight.grad = torch.full((6, 20), 64.0)
    optimizer.grad_scale = torch.tensor(32.0)  # type: ignore[attr-defined]  # as GradScaler sets it
    optimizer.step()
    assert set(port.published[0].selection.values.reshape(-1).tolist()) == {2.0}
    assert {float(value) for value in model.weight.grad.view(-1)} == {0.0, 2.0}  # the fused kernel has unscaled them
    assert {float(value) for value in residual(attachment)} == {0.0, 2.0}


def test_several_optimizers_are_refused(connected: Ports) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    pair = [torch.optim.SGD(part.parameters(), lr=1.0) for part in model]
    with pytest.raises(UsageError, match="exactly one optimizer"):
        attach(model, pair, connected(2)[0], settings=Settings(exchange=ExchangeSettings(rule="gradient")))
