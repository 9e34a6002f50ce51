"""What cannot be exchanged is refused by name; every place that refers to a tensor is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dagrad_bus.attach.collect import collect, unwrapped
from dagrad_bus.errors import UsageError


def network() -> Any:
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))


def lazy() -> Any:
    return nn.Sequential(nn.LazyLinear(3))


def complex_() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64))


def meta() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2, device="meta"))


def overlapping() -> Any:
    model: Any = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    model[1].weight.data = model[0].weight.data[1:3]
    return model


def frozen() -> Any:
    return network().requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    ("make", "says"),
    [(lazy, "forward pass"), (complex_, "complex"), (meta, "meta"), (overlapping, "overlap"), (frozen, "frozen")],
)
def test_what_cannot_be_exchanged_is_refused_with_what_to_do(make: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        collect(make())


def test_a_module_used_twice_is_one_slot_with_several_places() -> None:
    layer = nn.Linear(3, 3)
    floating, integers = collect(nn.Sequential(layer, nn.Tanh(), layer))
    assert [slot.name for slot in floating] == ["0.weight", "0.bias"] and not integers
    assert all(slot.is_in_place() for slot in floating)


def test_the_wrapper_of_torch_compile_is_looked_through() -> None:
    model = network()
    compiled: Any = torch.compile(model, backend="eager")
    assert unwrapped(compiled) is model


def test_sparse_parameters_are_refused() -> None:
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.eye(2).to_sparse())
    with pytest.raises(UsageError, match="make it dense"):
        collect(model)
