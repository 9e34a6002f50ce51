"""Which tensors of a model are exchanged, and who owns them.

A slot is one tensor of the layout with every place (module, attribute) that refers to it: tied weights are one slot
with several places. Names do not carry the prefix of ``torch.compile``, so compiled and plain replicas agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from dagrad_bus.errors import UsageError

INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One attribute of one module that refers to a tensor."""

    module: nn.Module
    attribute: str
    tensor: Tensor
    """The tensor object found there: tied places may hold different objects over the same memory."""

    def is_kept(self) -> bool:
        """Whether the module still holds that very object."""
        held = (self.module._parameters.get(self.attribute), self.module._buffers.get(self.attribute))
        return any(tensor is self.tensor for tensor in held)


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """One tensor of the layout."""

    name: str
    tensor: Tensor
    dtype: torch.dtype
    device: torch.device
    places: list[Place]

    def is_in_place(self) -> bool:
        """Whether every module that held the tensor at attach still does."""
        return all(place.is_kept() for place in self.places)

    def repoint(self, memory: Tensor) -> None:
        """Let all places use ``memory``, which holds the same values already."""
        for place in self.places:
            place.tensor.data = memory


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside the wrapper of ``torch.compile``."""
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    return model


def collect(model: nn.Module) -> tuple[list[Slot], list[Slot]]:
    """Return the floating slots (trainable parameters, then buffers) and the integer ones, each in model order.

    Raises:
        UsageError: a tensor that cannot be exchanged, by name and with what to do.
    """
    slots: dict[tuple[object, ...], Slot] = {}
    for name, module, attribute, tensor in [*_parameters(model), *_buffers(model)]:
        _check_kind(name, tensor)
        # Parameters are tied by object or memory. Distinct empty tensors share the address 0.
        memory = tensor.data_ptr() or id(tensor)
        key = (memory, tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)
        slot = slots.setdefault(key, Slot(name, tensor, tensor.dtype, tensor.device, []))
        slot.places.append(Place(module, attribute, tensor))
    kept = [slot for slot in slots.values() if slot.tensor.numel()]
    _check_apart(kept)
    floating = [slot for slot in kept if slot.dtype.is_floating_point]
    if not any(slot.tensor.requires_grad for slot in floating):
        raise UsageError("the model has no trainable parameters: nothing to exchange (are all of them frozen?)")
    return floating, [slot for slot in kept if not slot.dtype.is_floating_point]


def _modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [*cast("Iterator[tuple[str, nn.Module]]", model.named_modules(remove_duplicate=False))]


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    for prefix, module in _modules(model):
        for attribute, tensor in module._parameters.items():
            if tensor is not None and tensor.requires_grad:
                yield _name(prefix, attribute), module, attribute, tensor


def _buffers(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    for prefix, module in _modules(model):
        for attribute, tensor in module._buffers.items():
            if tensor is None or attribute in module._non_persistent_buffers_set:
                continue
            if tensor.dtype in INTEGERS or (tensor.is_floating_point() and _is_finite(tensor)):
                yield _name(prefix, attribute), module, attribute, tensor


def _is_finite(tensor: Tensor) -> bool:
    """Whether a buffer holds numbers to average; masks of infinities do not."""
    return tensor.device.type != "meta" and bool(torch.isfinite(tensor).all())


def _name(prefix: str, attribute: str) -> str:
    parts = [part for part in prefix.split(".") if part and part != "_orig_mod"]
    return ".".join([*parts, attribute])


def _check_kind(name: str, tensor: Tensor) -> None:
    if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
        raise UsageError(f"{name} has no shape yet: run one forward pass before attaching")
    if "DTensor" in (type(tensor).__name__, type(tensor.data).__name__):
        raise UsageError(f"{name} is sharded (DTensor): attach replicas that each hold the whole model, not FSDP or TP")
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise UsageError(f"{name} is {tensor.layout}: make it dense, or freeze it (requires_grad = False)")
    if tensor.is_complex():
        raise UsageError(f"{name} is complex: keep it as a real tensor (torch.view_as_real) or freeze it")
    if tensor.device.type == "meta":
        raise UsageError(f"{name} is on the meta device: materialise the model (to_empty) before attaching")


def _check_apart(slots: list[Slot]) -> None:
    """Refuse tensors that overlap without being the same: they would be mixed twice."""
    spans = sorted((str(slot.device), slot.tensor.data_ptr(), _end(slot.tensor), slot.name) for slot in slots)
    for (device, _, end, first), (other, start, _, second) in pairwise(spans):
        if device == other and start < end:
            raise UsageError(f"{first} and {second} overlap in memory: clone one of them, or freeze it")


def _end(tensor: Tensor) -> int:
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (reach + 1) * tensor.element_size()
