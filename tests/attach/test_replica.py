"""The flat vector and the model are one, whatever the model looks like; what cannot be exchanged is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dagrad_bus.attach.replica import Replica, round_stochastically
from dagrad_bus.errors import UsageError


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 6, bias=False)
        self.decode = nn.Linear(6, 6)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        decoded: Tensor = self.decode(torch.relu(self.encode(x)))
        return decoded


def network() -> Any:
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))


def replica_of(model: nn.Module, block: int = 1) -> Replica:
    return Replica(model, [torch.optim.SGD(model.parameters(), lr=0.1)], block)


def test_a_float32_model_becomes_a_view_with_the_same_values_and_objects() -> None:
    model = network()
    before, objects = copy.deepcopy(model.state_dict()), list(model.parameters())
    replica = replica_of(model, 8)
    assert replica.is_view and "flat view" in replica.describe()
    assert all(old is new for old, new in zip(objects, model.parameters(), strict=True))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    replica.flat[0] = 42.0
    assert model[0].weight[0, 0].item() == 42.0


def test_the_layout_holds_parameters_then_buffers_and_integers_apart() -> None:
    layout = replica_of(network(), 64).layout
    assert [entry.name for entry in layout.entries] == [
        "0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias", "1.running_mean", "1.running_var",
    ]  # fmt: skip
    assert [entry.name for entry in layout.integers] == ["1.num_batches_tracked"]


def test_what_lies_beyond_the_last_element_stays_zero() -> None:
    replica = replica_of(network(), 64)
    replica.flat.fill_(1.0)
    replica.written([np.arange(replica.layout.blocks)])
    assert replica.flat[: replica.layout.size].all() and not replica.flat[replica.layout.size :].any()


def test_frozen_parameters_are_outside() -> None:
    model = network()
    model[0].weight.requires_grad = False
    names = [entry.name for entry in replica_of(model).layout.entries]
    assert "0.weight" not in names and "0.bias" in names


def test_tied_weights_stand_once_and_stay_tied() -> None:
    model = Tied()
    replica = replica_of(model)
    assert replica.layout.size == 36 + 6
    replica.flat.fill_(2.0)
    assert model.encode.weight is model.decode.weight and model.decode.weight[0, 0].item() == 2.0


def test_tied_by_memory_only_is_tied_too() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight.data = model[0].weight.data
    replica = replica_of(model)
    assert replica.layout.size == 16
    replica.flat.fill_(3.0)
    assert model[0].weight[0, 0].item() == model[1].weight[0, 0].item() == 3.0


def test_compiled_and_plain_models_have_one_layout() -> None:
    plain, compiled = network(), torch.compile(network(), backend="eager")
    assert isinstance(compiled, nn.Module)
    assert replica_of(plain).layout.digest == replica_of(compiled).layout.digest


def test_masks_of_infinities_and_unsaved_buffers_are_outside() -> None:
    model = network()
    model.register_buffer("mask", torch.full((4,), -torch.inf))
    model.register_buffer("cache", torch.zeros(4), persistent=False)
    names = [entry.name for entry in replica_of(model).layout.entries]
    assert not {"mask", "cache"} & set(names)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_gathered_and_written_back(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    replica = replica_of(model, 8)
    assert not replica.is_view and "gathered" in replica.describe()
    untouched = model[0].weight.detach().clone()
    touched = np.array([replica.layout.blocks - 1])  # the running variance
    replica.flat[-8:] = 0.5
    replica.written([touched])
    assert (model[1].running_var[-1] == 0.5).item()
    assert torch.equal(model[0].weight, untouched)
    replica.refresh()
    assert torch.equal(replica.flat[: untouched.numel()], untouched.float().reshape(-1))


def test_float64_values_that_were_not_mixed_keep_all_their_digits() -> None:
    model = network().double()
    before = model[0].weight.detach().clone()
    replica = replica_of(model, 1)
    replica.refresh()
    replica.flat[3] = 7.0
    replica.written([np.array([3])])
    before.view(-1)[3] = 7.0
    assert torch.equal(model[0].weight, before)


def test_channels_last_weights_are_gathered_in_the_order_of_their_indices() -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 3))
    model.to(memory_format=torch.channels_last)
    before = model[0].weight.detach().clone(memory_format=torch.contiguous_format)
    replica = replica_of(model, 1)
    assert not replica.is_view
    assert torch.equal(replica.flat[: before.numel()], before.reshape(-1))
    replica.flat[5] = 9.0
    replica.written([np.array([5])])
    before.view(-1)[5] = 9.0
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stochastic_rounding_keeps_the_mean_and_exact_values(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    value = torch.full((20_000,), 1.0 + 1e-4)
    rounded = round_stochastically(value, dtype, generator)
    assert torch.equal(rounded, rounded.to(dtype).float())
    assert rounded.double().mean().item() == pytest.approx(1.0 + 1e-4, abs=1e-4)
    assert len({float(value) for value in rounded}) == 2
    exact = torch.randn(5000).to(dtype).float()
    exact[:4] = torch.tensor([0.0, -0.0, torch.finfo(dtype).max, torch.finfo(dtype).min])
    assert torch.equal(round_stochastically(exact, dtype, generator), exact)


def moved(model: nn.Module) -> None:
    model.double()


def assigned(model: nn.Module) -> None:
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)


def replaced(model: nn.Module) -> None:
    assert isinstance(model, nn.Sequential)
    model[0].weight = nn.Parameter(torch.zeros(7, 5))


def repointed(model: nn.Module) -> None:
    next(model.parameters()).data = torch.zeros(7, 5)


@pytest.mark.parametrize("change", [moved, assigned, replaced, repointed])
def test_a_model_that_no_longer_holds_the_attached_tensors_is_noticed(change: Callable[[nn.Module], None]) -> None:
    model = network()
    replica = replica_of(model)
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    model.to("cpu")
    replica.check()
    change(model)
    with pytest.raises(UsageError, match="attach again"):
        replica.check()


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(UsageError, match="none of the model's"):
        Replica(network(), [torch.optim.SGD(network().parameters(), lr=0.1)])


def test_integers_are_read_and_set_and_what_does_not_fit_is_left() -> None:
    model = network()
    model.register_buffer("small", torch.tensor([1, 2], dtype=torch.int8))
    replica = replica_of(model)
    np.testing.assert_array_equal(np.sort(replica.integers()), [0, 1, 2])
    replica.set_integers(np.where(replica.integers() == 0, 99, 1000))
    assert sorted(replica.integers().tolist()) == [1, 2, 99]


def test_an_optimizer_with_state_goes_on_unchanged() -> None:
    def train(attach_at: int) -> list[Tensor]:
        torch.manual_seed(3)
        model: Any = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for step in range(6):
            if step == attach_at:
                Replica(model, [optimizer])
            optimizer.zero_grad()
            model(torch.ones(2, 5)).square().sum().backward()
            optimizer.step()
        return [parameter.detach() for parameter in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(train(3), train(99), strict=True))


def test_buffers_stand_behind_all_parameters_and_gradients_are_seen() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    replica = Replica(model, [])
    assert replica.trainable == sum(parameter.numel() for parameter in model.parameters()) == replica.layout.size - 8
    assert not replica.has_gradients()
    model[2].weight.grad = torch.zeros(2, 4)
    assert replica.has_gradients()
