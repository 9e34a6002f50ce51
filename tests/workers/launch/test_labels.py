from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.settings import Settings
from dagrad_bus.workers.launch.labels import LONGEST, assign

NAMES = st.one_of(
    st.from_regex(r"[a-z0-9_][a-z0-9_.-]{0,50}", fullmatch=True),
    st.text(max_size=5),
    st.sampled_from(["node1", "node1.a", "node1.b", "NODE1", "node2.a", "fe80--1", "a" * 40, "a" * 41]),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)


def test_the_first_part_of_a_name_is_enough_where_it_is_alone() -> None:
    assert assign(["node1.lab.example", "Node2.lab.example"]) == {
        "node1.lab.example": "node1",
        "node2.lab.example": "node2",
    }


def test_hosts_of_two_domains_with_one_first_part_go_by_their_whole_names() -> None:
    assert list(assign(["gpu.a.org", "gpu.b.org", "cpu.a.org"]).values()) == ["gpu.a.org", "gpu.b.org", "cpu"]


@pytest.mark.parametrize(
    ("host", "label"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("2001:db8::1", "2001-db8--1"),
        ("fe80::1%eth0", "fe80--1-eth0"),
        ("localhost", "localhost"),
        ("::1", "0--1"),
    ],
)
def test_addresses_stay_whole(host: str, label: str) -> None:
    assert assign([host, "10.0.0.8"])[host] == label


def test_a_long_name_is_cut_and_told_apart_by_its_hash() -> None:
    one, other = assign(["x" * 40 + ".a", "x" * 40 + ".b"]).values()
    assert one != other
    assert one[:19] == other[:19] == "x" * 19
    assert re.fullmatch(r"x{19}-[0-9a-f]{6}", one)


def test_a_host_added_later_does_not_rename_the_others() -> None:
    before = assign(["node1.a"])
    after = assign(["node1.b", "node1.a"], before)
    assert after == {"node1.b": "node1.b", "node1.a": "node1"}


def test_a_label_of_a_host_that_left_is_not_given_to_another() -> None:
    assert assign(["fe80--1"], {"fe80::1": "fe80--1"})["fe80--1"].startswith("fe80--1-")


@settings(deadline=None, max_examples=50)
@given(st.lists(NAMES, max_size=12), st.lists(NAMES, max_size=6))
def test_labels_are_short_safe_distinct_and_stable(hosts: list[str], later: list[str]) -> None:
    labels = assign(hosts)
    grown = assign([*later, *hosts], labels)
    assert {host: grown[host] for host in labels} == labels
    assert len(set(grown.values())) == len(grown)
    for label in grown.values():
        assert re.fullmatch(r"[a-z0-9_][a-z0-9._-]*", label), label
        assert len(label) <= LONGEST
        assert Settings(name=f"{label}.99999").name  # the bus takes it
