"""Both granularities choose by the same law and tell the length of the residual."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dagrad_bus.attach.chooser import Chooser


@pytest.mark.parametrize("block", [1, 8])
def test_the_largest_change_is_chosen_and_the_norm_is_that_of_the_difference(block: int) -> None:
    x, a = torch.randn(800), torch.randn(800)
    chooser = Chooser(800 // block, block, 0, torch.device("cpu"))
    chosen = chooser.top(x, a, 5)
    scores = (x - a).view(-1, block).square().sum(1)
    np.testing.assert_array_equal(chosen, np.sort(np.argsort(scores.numpy())[-5:]))
    assert chooser.norm == pytest.approx(float(np.linalg.norm((x - a).numpy())), rel=1e-4)


@pytest.mark.parametrize("block", [1, 8])
def test_without_a_change_nothing_is_chosen(block: int) -> None:
    x = torch.randn(800)
    chooser = Chooser(800 // block, block, 0, torch.device("cpu"))
    assert len(chooser.top(x, x.clone(), 5)) == 0 and chooser.norm == 0.0
