"""One flat float32 vector over everything a model exchanges.

``view``: where all tensors are contiguous float32 on one device, their memory *is* the flat vector: ``param.data`` and
``buffer.data`` are pointed into it. Parameter objects stay the same, so optimizers with state, schedulers and hooks
notice nothing, and neither mixing nor selection copies a model.

``gathered``: in all other cases (bfloat16, float16, float64, channels-last, shared memory, cuDNN recurrent layers) the
vector is a float32 copy, refreshed at each step boundary; touched elements are written back. Into 16-bit tensors they
are rounded stochastically, as a mix below half a unit in the last place would otherwise vanish.

Order: trainable parameters, then persistent finite floating buffers, each in the model's own order; tied tensors
once, under their first name. Integer buffers form a vector of their own. The rest of the last block is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from dagrad_bus.attach.collect import Slot, collect, unwrapped
from dagrad_bus.blocks import Entry, Layout, choose_block
from dagrad_bus.errors import UsageError

Indices = NDArray[np.int64]
ALIGNED = 4
"""Elements: kernels of accelerators want tensors to begin at 16 bytes."""


class Replica:
    """The exchanged part of a model as one vector.

    Args:
        model: the model; wrappers of ``torch.compile`` are looked through.
        optimizers: the optimizers that step it; at least one of their parameters belongs to the model.
        block: elements a block, 0 to choose by size.
        seed: of the stochastic rounding.

    Raises:
        UsageError: nothing to exchange, or a tensor that cannot be exchanged; the message says what to do.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], block: int = 0, seed: int = 0) -> None:
        model = unwrapped(model)
        self._floating, self._integer = collect(model)
        _check_optimizers(self._floating, optimizers)
        entries = tuple(_entry(slot) for slot in self._floating)
        size = sum(entry.size for entry in entries)
        self.trainable = sum(slot.tensor.numel() for slot in self._floating if slot.tensor.requires_grad)
        """Elements of parameters; they stand before those of buffers."""
        integers = tuple(_entry(slot) for slot in self._integer)
        self.layout = Layout(entries, integers, block or choose_block(size), size - self.trainable)
        self.device = self._floating[0].tensor.device
        self._offsets = np.cumsum([0, *(entry.size for entry in entries)])
        self.flat = torch.zeros(self.layout.blocks * self.layout.block, dtype=torch.float32, device=self.device)
        """float32[nB * B], the values; what lies beyond ``layout.size`` is zero."""
        self._parts = [
            self.flat[start:stop].view(slot.tensor.shape)
            for slot, start, stop in zip(self._floating, self._offsets[:-1], self._offsets[1:], strict=True)
        ]
        self.is_view = _can_view(model, self._floating, self._offsets)
        self._generator = torch.Generator(device=self.device).manual_seed(seed)
        with torch.no_grad():
            _copy_all(self._parts, self._floating)
            if self.is_view:
                for slot, part in zip(self._floating, self._parts, strict=True):
                    slot.repoint(part)
        self._expected = [slot.tensor.data_ptr() for slot in self._floating]

    def describe(self) -> str:
        """Return one line for the log."""
        how = "flat view, no copy" if self.is_view else "gathered into a float32 copy"
        rounded = any(slot.dtype in _DIGITS for slot in self._floating)
        return f"{self.layout.describe()}, {how}{', 16-bit values rounded stochastically' if rounded else ''}"

    def check(self) -> None:
        """Make sure that the model still holds the tensors that were attached.

        Raises:
            UsageError: it was moved, cast or given other tensors since.
        """
        for slot, expected in zip(self._floating, self._expected, strict=True):
            tensor = slot.tensor
            moved = self.is_view and tensor.data_ptr() != expected
            if moved or tensor.device != slot.device or tensor.dtype != slot.dtype or not slot.is_in_place():
                raise UsageError(
                    f"{slot.name} is no longer the tensor that was attached (model.to(), .half(), "
                    "load_state_dict(assign=True) or a replaced parameter): close the attachment and attach again"
                )

    def refresh(self) -> None:
        """Bring the vector up to date with the model; nothing to do for a view."""
        if not self.is_view:
            _copy_all(self._parts, self._floating)

    def written(self, touched: Sequence[Indices]) -> None:
        """Bring the model up to date after the blocks ``touched`` (one array a frame) of the vector were changed."""
        self.flat[self.layout.size :] = 0  # a peer's padding is not ours
        if self.is_view or not touched:
            return
        blocks = np.unique(np.concatenate(touched))
        width = self.layout.block
        elements = (blocks[:, None] * width + np.arange(width)).reshape(-1)
        bounds = np.searchsorted(elements, self._offsets)
        for slot, offset, low, high in zip(self._floating, self._offsets, bounds[:-1], bounds[1:], strict=False):
            if low < high:
                where = torch.from_numpy(elements[low:high]).to(self.device)
                self._write_slot(slot, where, where - int(offset))

    def _write_slot(self, slot: Slot, where: Tensor, inside: Tensor) -> None:
        values = self.flat[where]
        if slot.dtype in _DIGITS:
            values = round_stochastically(values, slot.dtype, self._generator)
            self.flat[where] = values
        target = slot.tensor.detach()
        flat = target.reshape(-1)
        flat[inside.to(slot.device)] = values.to(slot.device, slot.dtype)
        if flat.data_ptr() != target.data_ptr():  # the reshape had to copy
            target.copy_(flat.view(target.shape))

    def has_gradients(self) -> bool:
        """Say whether any parameter has a gradient."""
        return any(slot.tensor.grad is not None for slot in self._floating)

    def gradients(self, out: Tensor, scale: float) -> None:
        """Add ``scale`` times every gradient to ``out``, float32[nB * B]; missing gradients count as zero."""
        for slot, start, stop in zip(self._floating, self._offsets[:-1], self._offsets[1:], strict=True):
            if slot.tensor.grad is not None:
                grad = slot.tensor.grad.detach().to(self.device, torch.float32)
                out[start:stop].add_(grad.reshape(-1), alpha=scale)

    def set_gradients(self, values: Tensor, scale: float) -> None:
        """Replace every parameter's gradient by ``scale`` times its part of ``values``, float32[nB * B].

        A parameter without gradient stays without one where its part is all zero: optimizers skip it.
        """
        for slot, start, stop in zip(self._floating, self._offsets[:-1], self._offsets[1:], strict=True):
            if not slot.tensor.requires_grad:
                continue
            part = values[start:stop].view(slot.tensor.shape)
            if slot.tensor.grad is not None:
                slot.tensor.grad.copy_(part).mul_(scale)
            elif bool(part.any()):
                slot.tensor.grad = (part * scale).to(slot.device, slot.dtype)

    def integers(self) -> NDArray[np.int64]:
        """Return a copy of all integer buffers, int64[M]."""
        if not self._integer:
            return np.empty(0, np.int64)
        parts = [slot.tensor.detach().reshape(-1).to("cpu", torch.int64) for slot in self._integer]
        return cast("NDArray[np.int64]", torch.cat(parts).numpy())

    def set_integers(self, values: NDArray[np.int64]) -> None:
        """Set all integer buffers; what a buffer's dtype cannot hold is left as it was."""
        start = 0
        for slot in self._integer:
            stop = start + slot.tensor.numel()
            part, limits = values[start:stop], torch.iinfo(slot.dtype)
            if len(part) and limits.min <= part.min() and part.max() <= limits.max:
                slot.tensor.copy_(torch.from_numpy(part).view(slot.tensor.shape))
            start = stop

    def rounding_state(self) -> Tensor:
        """Return the state of the stochastic rounding, for a checkpoint."""
        return self._generator.get_state()

    def set_rounding_state(self, state: Tensor) -> None:
        """Restore the state of the stochastic rounding."""
        self._generator.set_state(state)


_DIGITS = {torch.bfloat16: (8, -126), torch.float16: (11, -24)}
"""Significant bits, and the exponent of the least step that is rounded to."""


def round_stochastically(values: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Round float32 ``values`` to neighbours in ``dtype``, up or down with the chance that keeps the mean.

    Values that ``dtype`` holds exactly stay as they are; the largest finite number bounds the result.

    Returns:
        float32, exactly representable in ``dtype``.
    """
    digits, least = _DIGITS[dtype]
    _, exponent = torch.frexp(values)
    step = torch.ldexp(torch.ones_like(values), (exponent - digits).clamp_(min=least))
    chance = torch.rand(values.shape, generator=generator, device=values.device)
    bound = torch.finfo(dtype).max
    return torch.floor(values / step + chance).mul_(step).clamp_(-bound, bound)


def _copy_all(parts: list[Tensor], slots: Sequence[Slot]) -> None:
    torch._foreach_copy_(parts, [slot.tensor.detach() for slot in slots])  # pyright: ignore[reportPrivateImportUsage]


def _entry(slot: Slot) -> Entry:
    return Entry(slot.name, tuple(slot.tensor.shape), str(slot.dtype).removeprefix("torch."))


def _can_view(model: nn.Module, slots: Sequence[Slot], offsets: NDArray[np.int64]) -> bool:
    """Say whether the tensors' memory may be moved into one vector."""
    device = slots[0].device
    plain = all(
        slot.dtype == torch.float32
        and slot.device == device
        and slot.tensor.is_contiguous()
        and type(slot.tensor.data) is Tensor
        and not (device.type == "cpu" and slot.tensor.is_shared())  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for slot in slots
    )
    if device.type == "cpu" or not plain:
        return plain
    # cuDNN keeps recurrent weights in one piece of its own, and matrix kernels want 16-byte beginnings.
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    return not recurrent and not np.any(offsets[:-1] % ALIGNED)


def _check_optimizers(slots: Sequence[Slot], optimizers: Sequence[Optimizer]) -> None:
    ours = {id(slot.tensor) for slot in slots}
    for optimizer in optimizers:
        stepped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if not any(id(parameter) in ours for parameter in stepped):
            raise UsageError(
                f"the {type(optimizer).__name__} steps none of the model's trainable parameters: "
                "attach the model and the optimizer that belong together"
            )
