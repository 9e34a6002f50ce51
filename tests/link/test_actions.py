"""What the cores of a link answer."""

from __future__ import annotations

from typing import get_args

from dagrad_bus.link import HISTORY, Action, Dropped
from dagrad_bus.messages import ALL_ACCEPTED


def test_the_history_fills_one_word_of_the_wire() -> None:
    assert ALL_ACCEPTED == (1 << HISTORY) - 1


def test_every_action_is_immutable_and_has_no_dictionary() -> None:
    for action in get_args(Action):
        assert action.__dataclass_params__.frozen, action
        assert not hasattr(action, "__dict__") or "__slots__" in vars(action), action
    assert Dropped("late") == Dropped("late")
