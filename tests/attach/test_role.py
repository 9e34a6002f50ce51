"""The first name serves; a graph that does not join it with everybody is refused."""

from __future__ import annotations

import pytest

from dagrad_bus.attach.role import Role, role_of
from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.settings import ExchangeSettings, RuleName, Settings

MANY = tuple(f"w.{number}" for number in range(8))


def settings(name: str, members: tuple[str, ...], rule: RuleName = "sync-ps", **top: object) -> Settings:
    return Settings(name=name, members=members, exchange=ExchangeSettings(rule=rule), **top)  # type: ignore[arg-type]


def test_the_member_whose_name_sorts_first_serves() -> None:
    role = role_of(settings("b", ("c", "a", "b")))
    assert [role.name_of(member) for member in role.members] == ["a", "b", "c"]
    assert role.server == derive_node_id("alone", "a") and role.me == derive_node_id("alone", "b")
    assert not role.is_server and role_of(settings("a", ("c", "a", "b"))).is_server


def test_who_has_no_name_is_called_by_its_id() -> None:
    stranger = NodeId(b"x" * 16)
    assert Role(stranger, (stranger,)).name_of(stranger) == stranger.hex()


@pytest.mark.parametrize("topology", ["hash-rings", "ring"])
def test_a_graph_without_links_to_the_server_is_refused(topology: str) -> None:
    with pytest.raises(UsageError, match=r"its server w\.0 .* use --topology complete"):
        role_of(settings("w.3", MANY, topology=topology))
    assert role_of(settings("w.3", MANY, topology="complete")).members[0] == derive_node_id("alone", "w.0")


def test_few_enough_members_are_complete_anyway() -> None:
    assert len(role_of(settings("w.3", MANY[:5])).members) == 5


def test_members_must_be_known() -> None:
    with pytest.raises(UsageError, match="names of all members"):
        role_of(settings("w.0", (), seeds=(("w.1", "tcp://127.0.0.1:1"),)))


def test_nobody_joins_a_run_in_lockstep() -> None:
    late = settings("late", MANY[:3], seeds=(("w.0", "tcp://127.0.0.1:1"),))
    with pytest.raises(UsageError, match="late cannot join later"):
        role_of(late)
    late = settings("late", MANY[:3], "async-ps", seeds=(("w.0", "tcp://127.0.0.1:1"),))
    assert not role_of(late).is_server
