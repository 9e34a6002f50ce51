"""Laws of frame sizes."""

from __future__ import annotations

import pytest

from dagrad_bus.lab.parcels import Simulated, parcels_of
from dagrad_bus.settings import ExchangeSettings
from dagrad_bus.workers.launch.forecast import plan_frame

MODEL = 25_557_032


def test_a_sparse_frame_is_that_of_the_plan() -> None:
    exchange = ExchangeSettings(density=0.02)
    assert parcels_of("state", MODEL, exchange).size == plan_frame(MODEL, exchange).size
    assert parcels_of("state", MODEL, exchange).parts == 1


@pytest.mark.parametrize(("rule", "width"), [("gossip-dense", 4), ("sync-ps", 4), ("async-ps", 4), ("gossip-qsgd", 1)])
def test_without_compression_a_dense_vector_weighs_its_values_and_little_more(rule: Simulated, width: int) -> None:
    found = parcels_of(rule, MODEL, ExchangeSettings(), "raw")
    assert width * MODEL < found.total < 1.07 * width * MODEL  # a scale a block, headers


def test_a_dense_vector_is_cut_into_frames_that_receivers_take() -> None:
    found = parcels_of("gossip-dense", MODEL, ExchangeSettings(), "raw", 1 << 20)
    assert found.size < 1.01 * (1 << 20)
    assert found.parts == pytest.approx(4 * MODEL / (1 << 20), rel=0.05)


def test_a_small_model_fits_one_frame() -> None:
    assert parcels_of("sync-ps", 1000, ExchangeSettings()).parts == 1


@pytest.mark.parametrize("rule", ["local", "all-reduce"])
def test_who_sends_no_frames_has_none(rule: Simulated) -> None:
    assert parcels_of(rule, MODEL, ExchangeSettings()).total == 0
