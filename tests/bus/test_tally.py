"""What is counted of one contact."""

from __future__ import annotations

import pytest

from dagrad_bus.bus.tally import Tally
from dagrad_bus.ids import EdgeId
from dagrad_bus.wire import Data, Ping


def test_frames_are_counted_by_outcome_and_verdict() -> None:
    tally = Tally()
    for accepted in (True, True, False):
        tally.settled(accepted=accepted)
    tally.judged(5, 9.0)
    assert (tally.accepted, tally.lost, tally.received, tally.refused, tally.delay) == (2, 1, 0, 1, 0.0)


def test_the_delay_is_smoothed_from_the_first_frame_on() -> None:
    tally = Tally()
    tally.judged(0, 0.8)
    assert tally.delay == 0.8
    tally.judged(0, 1.6)
    assert tally.delay == pytest.approx(0.9)


def test_every_message_is_a_sign_of_life_and_only_payload_is_counted() -> None:
    tally = Tally()
    tally.heard(Ping(1), 5.0)
    assert (tally.heard_at, tally.bytes_received) == (5.0, 0)
    tally.heard(Data(EdgeId(1), 1, 1, 2, None, b"1234"), 6.0)
    assert (tally.heard_at, tally.bytes_received) == (6.0, 4)
