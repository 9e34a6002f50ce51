"""Profiles and links say where their numbers are from, and make costs."""

from __future__ import annotations

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.profiles import PROFILES, WIRES, costs_of, draw_stragglers, find_profile, find_wire, rebatch

NUMBERS = {"parameters", "batch", "throughput", "spread", "exchange", "exchange_byte"}
KINDS = ("published", "counted", "assumption", "fitted")


@pytest.mark.parametrize("name", PROFILES)
def test_every_number_has_a_source_of_a_known_kind(name: str) -> None:
    profile = PROFILES[name]
    assert profile.name == name
    assert set(profile.sources) == NUMBERS
    assert all(source.startswith(KINDS) for source in profile.sources.values())


def test_a_step_takes_what_a_batch_takes() -> None:
    profile = PROFILES["resnet50"]
    assert profile.compute == pytest.approx(256 / 893.09)
    small = rebatch(profile, 64)
    assert small.compute == pytest.approx(profile.compute / 4)
    assert "64" in small.sources["batch"]


@pytest.mark.parametrize(("name", "bits"), [("10gbit", 1e10), ("1gbit", 1e9), ("100mbit", 1e8)])
def test_a_link_is_as_fast_as_its_name(name: str, bits: float) -> None:
    assert 8 * find_wire(name).bandwidth == bits
    assert "assumption" in WIRES[name].source


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="resnet50"):
        find_profile("vgg")
    with pytest.raises(UsageError, match="10gbit"):
        find_wire("tin-cans")
    assert find_profile("mine", {"mine": PROFILES["resnet50"]}).name == "resnet50"


def test_costs_hold_profile_link_and_trouble() -> None:
    costs = costs_of(PROFILES["resnet50"], WIRES["1gbit"], stragglers=(3,), factor=4.0, swing=0.5)
    assert costs.bandwidth == 1.25e8
    assert costs.slowdown == {3: 4.0}
    assert costs.swing == 0.5


@pytest.mark.parametrize(("count", "workers"), [(0, 5), (1, 1), (3, 32), (7, 8), (8, 8)])
def test_stragglers_are_distinct_and_the_server_is_the_last(count: int, workers: int) -> None:
    found = draw_stragglers(count, workers)
    assert len(set(found)) == count
    assert all(0 <= worker < workers for worker in found)
    assert (0 in found) == (count == workers)


def test_more_stragglers_than_workers_are_refused() -> None:
    with pytest.raises(UsageError, match="9 stragglers of 8"):
        draw_stragglers(9, 8)
