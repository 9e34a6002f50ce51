from __future__ import annotations

import json

from dagrad_bus.workers.launch.examination.judgement import (
    Examined,
    Fault,
    HostFacts,
    exit_code,
    in_order,
    level,
    list_of,
    plural,
    table_of,
)

FAULT = Fault("fault", "clock", "node2", "clock is 3.2 s ahead", "chronyc makestep")
WARNING = Fault("warning", "name", "node1", "slow", "look")


def test_a_fault_is_one_line_with_its_repair() -> None:
    assert str(FAULT) == "node2: clock is 3.2 s ahead: chronyc makestep"


def test_warnings_alone_are_no_fault() -> None:
    assert exit_code([], reached=True) == 0
    assert exit_code([WARNING], reached=True) == 0
    assert exit_code([WARNING, FAULT], reached=True) == 1
    assert exit_code([FAULT], reached=False) == 3


def test_faults_stand_first_and_keep_their_order() -> None:
    other = Fault("fault", "a", "b", "c", "d")
    assert in_order([WARNING, FAULT, other]) == [FAULT, other, WARNING]


def test_facts_that_are_missing_are_empty() -> None:
    facts = {"a": {"b": 1}, "c": [1], "d": None}
    assert table_of(facts, "a") == {"b": 1} and table_of(facts, "d") == table_of(facts, "x") == {}
    assert list_of(facts, "c") == [1] and list_of(facts, "d") == list_of(facts, "x") == []


def test_levels_and_plurals() -> None:
    assert (level(True), level(False)) == ("fault", "warning")
    assert (plural(1, "slot"), plural(0, "slot")) == ("1 slot", "0 slots")


def test_an_examination_is_json() -> None:
    hosts = [HostFacts(label="a", target="a", reached=True), HostFacts(label="b", target="b")]
    examined = Examined(hosts=hosts, paths=[], here={}, first_port=1, last_port=2)
    assert [host.label for host in examined.reached] == ["a"]
    assert json.loads(json.dumps(examined.to_json()))["hosts"][1]["label"] == "b"
    assert hosts[0].python == "python"
