"""The kernel follows the optimizer's own moves, as the numpy reference does, and nothing of the mixing."""

from __future__ import annotations

import numpy as np
import torch

from dagrad_bus.attach.change import OwnChange
from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.sketch import COORDINATES, Projection, cosine, remember

LAYOUT = Layout((Entry("w", (100, 100), "float32"),), (), 8)


def test_kernel_and_reference_agree_and_mixing_is_left_out() -> None:
    x = torch.randn(LAYOUT.size)
    change = OwnChange(LAYOUT, x)
    projection = Projection(LAYOUT.digest, LAYOUT.size)
    own = np.zeros(len(projection.positions), np.float32)
    for _ in range(5):
        moved = torch.randn(LAYOUT.size)
        x += moved
        remember(own, moved.numpy()[projection.positions])
        change.before_mixing(x)
        x += 100 * torch.randn(LAYOUT.size)
        change.after_mixing(x)
    np.testing.assert_allclose(change.values(), own, atol=1e-3)
    assert change.sketch() == projection.sketch(change.values())
    assert cosine(change.sketch(), projection.sketch(own)) > 0.95


def test_only_a_part_of_a_large_model_is_read() -> None:
    assert len(OwnChange(LAYOUT, torch.zeros(LAYOUT.size)).values()) <= COORDINATES < LAYOUT.size


def test_after_a_restart_nothing_is_remembered() -> None:
    x = torch.zeros(LAYOUT.size)
    change = OwnChange(LAYOUT, x)
    x += 1
    change.before_mixing(x)
    x += 5
    change.restart(x)
    change.before_mixing(x)
    assert change.sketch() == b""


def test_a_step_that_is_not_finite_is_forgotten() -> None:
    x = torch.zeros(LAYOUT.size)
    change = OwnChange(LAYOUT, x)
    change.before_mixing(x + torch.inf)
    assert change.sketch() == b""
    change.before_mixing(x + torch.randn(LAYOUT.size))
    assert len(change.sketch()) == 8
