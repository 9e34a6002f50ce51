"""Samples are comparable: steps and coordinates are pure functions of step and layout."""

from __future__ import annotations

import numpy as np

from dagrad_bus.attach.sampling import Sampler, stride
from dagrad_bus.blocks import Entry, Layout


def test_the_stride_of_samples_is_a_pure_function_of_the_step() -> None:
    assert [stride(step) for step in (1, 100, 383, 1024, 100_000)] == [5, 5, 5, 16, 1024]
    layout = Layout((Entry("w", (5000,), "float32"),), (), 8)
    np.testing.assert_array_equal(Sampler(layout).positions, Sampler(layout).positions)
    assert len(np.unique(Sampler(layout).positions)) == 1024
