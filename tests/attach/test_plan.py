"""Parameters, buffers and integers each have turns, and all of them come round."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrad_bus.attach.plan import BUFFER_PERIOD, Indices, Turn, buffer_period, buffers_of, whose_turn
from dagrad_bus.blocks import Entry, Layout


def layout_of(parameters: int, buffers: int, block: int = 1, integers: int = 0) -> Layout:
    entries = [Entry("w", (parameters,), "float32"), Entry("s", (buffers,), "float32")]
    return Layout(
        tuple(entry for entry in entries if entry.size),
        (Entry("n", (integers,), "int64"),) if integers else (),
        block,
        buffers,
    )


LAYOUTS = st.builds(
    layout_of, st.integers(1, 5000), st.integers(1, 700), st.sampled_from([1, 4, 64]), st.sampled_from([0, 3])
)


@given(LAYOUTS)
def test_no_element_of_a_buffer_lies_in_a_block_of_parameters(layout: Layout) -> None:
    assert layout.parameter_blocks * layout.block <= layout.size - layout.buffer_size
    assert layout.parameter_blocks + layout.buffer_blocks == layout.blocks


@given(LAYOUTS, st.integers(1, 800))
def test_every_block_of_the_buffers_comes_round(layout: Layout, most: int) -> None:
    period = buffer_period(layout)
    rounds = -(-layout.buffer_blocks // most) + 1
    turns = [i for i in range(1, (rounds + 1) * period) if whose_turn(layout, i, integers=False) is Turn.BUFFERS]
    frames: list[Indices] = [buffers_of(layout, i, most) for i in turns]
    assert all((np.diff(frame) > 0).all() and len(frame) <= most for frame in frames)
    assert set(np.concatenate(frames).tolist()) == set(range(layout.parameter_blocks, layout.blocks))


@pytest.mark.parametrize(
    ("parameters", "buffers", "block", "period"),
    [(1000, 10, 1, BUFFER_PERIOD), (300, 100, 1, 4), (10, 100, 1, 2), (30, 10, 64, 1), (1000, 0, 1, 0)],
)
def test_buffers_have_more_turns_where_they_are_more_of_the_model(
    parameters: int, buffers: int, block: int, period: int
) -> None:
    layout = layout_of(parameters, buffers, block)
    turns = [whose_turn(layout, i, integers=True) for i in range(1, 1 + 8 * 30)]
    assert buffer_period(layout) == period
    assert turns.count(Turn.BUFFERS) == (240 // period if period else 0)


def test_integers_have_a_turn_where_they_are_exchanged() -> None:
    layout = layout_of(1000, 10, integers=2)
    assert whose_turn(layout, 512, integers=True) is Turn.INTEGERS
    assert whose_turn(layout, 512, integers=False) is Turn.PARAMETERS
    assert whose_turn(layout_of(1000, 10), 512, integers=True) is Turn.PARAMETERS
