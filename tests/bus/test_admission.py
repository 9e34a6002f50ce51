"""Strikes, bans, forgiveness, and bounded memory."""

from __future__ import annotations

import pytest

from dagrad_bus.bus import admission
from dagrad_bus.bus.admission import BAN, DAMAGE, STRIKES, Admission
from dagrad_bus.errors import NotAdmitted
from dagrad_bus.ids import NodeId

A, B = NodeId(b"a" * 16), NodeId(b"b" * 16)


def test_nobody_speaks_before_a_hello() -> None:
    with pytest.raises(NotAdmitted):
        Admission().peer_of(b"r")


def test_a_new_connection_voids_the_former_ones_of_the_same_peer() -> None:
    door = Admission()
    door.bind(b"1", A)
    door.bind(b"2", B)
    door.bind(b"3", A)
    assert (door.peer_of(b"3"), door.peer_of(b"2")) == (A, B)
    with pytest.raises(NotAdmitted):
        door.peer_of(b"1")


def test_connections_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_TRACKED", 3)
    door = Admission()
    for number in range(5):
        door.bind(bytes([number]), NodeId(bytes([number]) * 16))
        door.strike(bytes([number]), 0.0)
    assert door.peer_of(b"\4") == b"\4" * 16
    with pytest.raises(NotAdmitted):
        door.peer_of(b"\1")
    assert len(door._strikes) == len(door._peers) == 3


def test_ten_strikes_ban_for_a_minute_and_no_other_connection() -> None:
    door = Admission()
    for _ in range(STRIKES):
        assert not door.is_banned(b"r", 1.0)
        door.strike(b"r", 1.0)
    assert door.is_banned(b"r", 1.0)
    assert door.is_banned(b"r", BAN)
    assert not door.is_banned(b"r", 1.0 + BAN)
    assert not door.is_banned(b"other", 1.0)


def test_damage_counts_little() -> None:
    door = Admission()
    for _ in range(int(STRIKES / DAMAGE) - 1):
        door.strike(b"r", 1.0, DAMAGE)
    assert not door.is_banned(b"r", 1.0)
    for _ in range(2):
        door.strike(b"r", 1.0, DAMAGE)
    assert door.is_banned(b"r", 1.0)


def test_one_strike_a_minute_is_forgiven() -> None:
    door = Admission()
    for minute in range(100):
        door.strike(b"r", 60.0 * minute)
        assert not door.is_banned(b"r", 60.0 * minute)
    for minute in range(2 * STRIKES):  # two a minute are not
        door.strike(b"s", 60.0 * minute)
        door.strike(b"s", 60.0 * minute)
    assert door.is_banned(b"s", 60.0 * (2 * STRIKES - 1))


def test_who_goes_on_after_a_ban_is_banned_again_at_once() -> None:
    door = Admission()
    for _ in range(STRIKES):
        door.strike(b"r", 0.0)
    assert not door.is_banned(b"r", BAN)
    door.strike(b"r", BAN)
    assert door.is_banned(b"r", BAN)
