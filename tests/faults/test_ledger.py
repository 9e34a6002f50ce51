"""What sender and receiver say of each block, held against one another."""

from __future__ import annotations

import base64
from typing import Any, cast

import numpy as np

from dagrad_bus.faults.herd import Herd
from dagrad_bus.faults.ledger import await_agreement, broken_links, debtors, spread, wrong_frames


class Member:
    def __init__(self, name: str) -> None:
        self.node = name.encode()


class Fake:
    """A herd of two that answers from memory."""

    running = ("a", "b")

    def __init__(self, addressed: list[int], seen: list[int], tag: int = 7) -> None:
        one = {"tag": 7, "addressed": {b"b".hex(): text(addressed, np.int64), "ff": text([1], np.int64)}, "seen": {}}
        other = {"tag": 8, "addressed": {}, "seen": {b"a".hex(): [tag, text(seen, np.int64)]}}
        self.ledgers: dict[str, Any] = {"a": one, "b": other}
        self.values = [[0.0, 4.0], [2.0, 4.0]]

    def __getitem__(self, name: str) -> Member:
        return Member(name)

    def ask_all(self, op: str, names: object = None, **_: object) -> dict[str, Any]:
        if op == "ledger":
            return self.ledgers
        return {name: {"values": text(v, np.float32)} for name, v in zip("ab", self.values, strict=True)}


def text(values: list[Any], kind: type[np.generic]) -> str:
    return base64.b64encode(np.array(values, kind).tobytes()).decode()


def herd(fake: Fake) -> Herd:
    return cast(Herd, fake)


def test_what_was_addressed_must_be_seen_in_that_version() -> None:
    assert broken_links(herd(Fake([0, 3, 5], [9, 3, 5]))) == {}  # block 0: addressed before the link came up anew
    assert broken_links(herd(Fake([0, 3, 5], [0, 3, 4]))) == {"a -> b": 1}
    assert broken_links(herd(Fake([0, 3, 5], [0, 3, 5], tag=6))) == {"a -> b": 2}  # by another process of a


def test_debts_to_those_who_never_came_are_no_debts() -> None:
    state = {"debts": {"b": 3, "c": 9}, "in_flight": {"b": 0}, "out": {"b": "stalled"}}
    assert debtors({"a": state}, "ab") == {"a": ["b (stalled)"]}
    assert debtors({"a": state}, "a") == {}


def test_spread_and_wrong_frames_are_summed() -> None:
    fake = Fake([0], [0])
    assert spread(herd(fake)) == 0.5
    assert await_agreement(herd(fake), 1.5, 1.0)[1] == 1.0
    assert wrong_frames({"a": {"counts": {"twice": 2}}, "b": {"counts": {}}}) == {
        "corrupt": 0,
        "foreign": 0,
        "twice": 2,
    }
