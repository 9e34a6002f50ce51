"""Hooks fit every training loop: schedulers, scalers, closures, accumulation, compiled models, wrappers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dagrad_bus.attach.attachment import Attachment, attach
from dagrad_bus.attach.hooks import bare_optimizers
from dagrad_bus.errors import UsageError
from dagrad_bus.settings import ExchangeSettings, Settings

Ports = Callable[[int], list[Any]]
SETTINGS = Settings(exchange=ExchangeSettings(density=0.2))


def network() -> Any:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def loss_of(model: Any) -> Any:
    return model(torch.ones(3, 4)).square().sum()


def attached(model: nn.Module, optimizer: object, port: Any) -> Attachment:
    return attach(model, optimizer, port, settings=SETTINGS, clock=port.clock)


def test_parameter_groups_and_schedulers_stay_the_user_s(connected: Ports) -> None:
    port, _ = connected(2)
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.01}]
    optimizer = torch.optim.SGD(groups)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    attachment = attached(model, optimizer, port)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        scheduler.step()
    assert attachment.step_count == len(port.published) == 3
    assert [group["lr"] for group in optimizer.param_groups] == [0.1 / 8, 0.01 / 8]


def test_accumulated_gradients_give_one_exchange_a_step(connected: Ports) -> None:
    port, _ = connected(2)
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    attachment = attached(model, optimizer, port)
    for micro in range(8):
        loss_of(model).backward()
        if micro % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
    assert attachment.step_count == 2


def test_a_grad_scaler_skips_steps_and_hooks_alike(connected: Ports) -> None:
    port, _ = connected(2)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment = attached(model, optimizer, port)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for poison in (False, True, False):
        optimizer.zero_grad()
        scaler.scale(loss_of(model)).backward()
        if poison:
            assert model[0].weight.grad is not None
            model[0].weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
    assert attachment.step_count == 2
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_closures_are_evaluated_as_often_as_they_like_and_exchange_once(connected: Ports) -> None:
    port, _ = connected(2)
    model = network()
    optimizer: Any = torch.optim.LBFGS(model.parameters(), max_iter=5)
    attachment = attached(model, optimizer, port)
    calls = 0

    def closure() -> float:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return float(loss.detach())

    for _ in range(2):
        optimizer.step(closure)
    assert calls > 2 and attachment.step_count == 2


def test_a_compiled_model_trains_and_exchanges(connected: Ports) -> None:
    port, _ = connected(2)
    model = network()
    compiled: Any = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment = attached(compiled, optimizer, port)
    losses: list[float] = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = loss_of(compiled)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert attachment.step_count == 4 and losses[-1] < losses[0]


def test_two_optimizers_exchange_after_the_last_one(connected: Ports) -> None:
    port, _ = connected(2)
    model = network()
    first, last = (torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2))
    attachment = attached(model, [first, last], port)
    first.step()
    assert attachment.step_count == 0
    last.step()
    assert attachment.step_count == 1


class Wrapper(torch.optim.Optimizer):
    """Like AcceleratedOptimizer: an Optimizer that never ran ``Optimizer.__init__``."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


def test_wrappers_are_looked_through() -> None:
    inner = torch.optim.SGD(network().parameters(), lr=0.1)
    assert bare_optimizers(Wrapper(inner)) == [inner]


@pytest.mark.parametrize("given", [object(), [], 3])
def test_what_is_no_optimizer_is_refused(given: object) -> None:
    with pytest.raises(UsageError, match="optimizer"):
        bare_optimizers(given)


def test_closing_removes_the_hooks(connected: Ports) -> None:
    port, _ = connected(2)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attached(model, optimizer, port) as attachment:
        optimizer.step()
    optimizer.step()
    attachment.close()
    assert attachment.step_count == 1 and port.closed == 1


def test_a_saved_optimizer_knows_nothing_of_the_bus(connected: Ports) -> None:
    port, _ = connected(2)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    plain = torch.optim.AdamW(network().parameters())
    attached(model, optimizer, port)
    assert optimizer.state_dict().keys() == plain.state_dict().keys()
