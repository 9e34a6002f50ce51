from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.workers.launch.examination.host_checks import check_clocks, check_hosts, is_loopback
from dagrad_bus.workers.launch.examination.judgement import Examined, HostFacts

Make = Callable[..., HostFacts]
MakeExamined = Callable[..., Examined]


def test_good_hosts_have_nothing(make_host: Make, make_examined: MakeExamined) -> None:
    assert check_hosts(make_examined([make_host(), make_host("node2")])) == []


@pytest.mark.parametrize(
    ("facts", "values", "check", "level", "said", "repair"),
    [
        ({"fds": [256, 4096]}, {}, "descriptors", "fault", "256 file descriptors", "ulimit -n 4096"),
        ({"fds": [256, 256]}, {}, "descriptors", "fault", "256", "hard limit"),
        ({"fds": [1000, None]}, {}, "descriptors", "warning", "1000", "ulimit"),
        ({"python": "3.10.2"}, {}, "python", "fault", "3.10.2", "3.11"),
        ({"memory": {"available": 1 << 28, "total": 1}}, {}, "memory", "fault", "0.2 GiB", "fewer slots"),
        ({"memory": {"available": 3 << 30, "total": 1}}, {"slots": 4}, "memory", "warning", "4 slots", "fewer"),
        ({"cores": {"usable": 8, "quota": 1.5}}, {"slots": 2}, "cores", "warning", "1.5 usable", "slots=1"),
        ({"gpus": 1}, {"devices": ("cuda:0", "cuda:1"), "slots": 2}, "device", "fault", "cuda:1, but 1 GPU", "device="),
        ({"somaxconn": 16}, {}, "backlog", "warning", "16", "sysctl"),
        ({"temporary": {"path": "/t", "free": 1 << 20, "writable": True}}, {}, "disk", "fault", "1 MiB", "room"),
        ({"temporary": {"path": "/t", "free": 1 << 40, "writable": False}}, {}, "disk", "fault", "/t", "chmod"),
        ({"cwd": {"path": "/c", "exists": False}}, {}, "cwd", "warning", "/c", "cwd="),
        ({"cwd": {"path": "/c", "exists": False}}, {"cwd_given": True}, "cwd", "fault", "/c", "cwd="),
        ({"ranks": ["RANK"]}, {"local": True}, "ranks", "warning", "RANK", "unset"),
        ({"own_name": ["127.0.1.1"]}, {}, "name", "warning", "127.0.1.1", "/etc/hosts"),
        ({}, {"address": "127.0.0.1"}, "address", "fault", "127.0.0.1", "addr="),
        ({}, {"names": {"node3": []}}, "name", "fault", "node3 does not resolve", "addr="),
        ({}, {"slots": 7000}, "port", "fault", "14000 ports", "--port-range"),
        ({}, {"ports": [], "ports_tried": 64, "ports_error": "in use"}, "port", "fault", "64 tried", "--port-range"),
        ({"ephemeral": [30000, 60000]}, {}, "port", "warning", "30000-60000", "below 30000"),
        ({}, {"login": 7.0}, "login", "warning", "7.0 s", "login scripts"),
        ({}, {"noise": ["Welcome"]}, "login", "warning", "Welcome", "interactive"),
    ],
)  # fmt: skip
def test_each_fault_is_found(
    facts: dict[str, Any], values: dict[str, Any], check: str, level: str, said: str, repair: str,
    make_host: Make, make_examined: MakeExamined,
) -> None:  # fmt: skip
    found = [one for one in check_hosts(make_examined([make_host("bad", facts, **values), make_host("good")]))
             if one.check == check]  # fmt: skip
    assert [(one.where, one.level) for one in found] == [("bad", level)], found
    assert said in found[0].what and repair in found[0].repair


def test_versions_are_compared_with_those_here(make_host: Make, make_examined: MakeExamined) -> None:
    good = make_host().facts["packages"]
    other = make_host("b", {"packages": good | {"dagrad-bus": "0.0.9", "torch": "2.4.1", "numpy": "1.0.3"}})
    lacking = make_host("c", {"packages": good | {"pyzmq": None}})
    wire = make_host("d", {"wire": 2})
    broken = make_host("e", {"wire": 1, "wire_error": "ImportError: no msgpack"})
    found = check_hosts(make_examined([other, lacking, wire, broken]))
    assert [(one.where, one.check, one.level) for one in found] == [
        ("b", "version", "fault"),
        ("b", "version", "warning"),
        ("c", "package", "fault"),
        ("d", "version", "fault"),
        ("e", "package", "fault"),
    ]
    assert found[0].repair == "on b: /opt/python -m pip install dagrad-bus==0.1.0"
    assert found[1].repair.endswith("torch==2.13.0")
    assert found[2].what == "pyzmq not installed" and "no msgpack" in found[4].what


@pytest.mark.parametrize(
    ("end", "what", "repair"),
    [
        ("ann@node1: Permission denied (publickey).", "refuses", "ssh-copy-id ann@node1"),
        ("Host key verification failed.", "not known", "ssh ann@node1 once"),
        ("REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.", "another", "ssh-keygen -R node1"),
        ("ssh: Could not resolve hostname node1: Name or service not known", "resolve", "/etc/hosts"),
        ("ssh: connect to host node1 port 22: Connection refused", "no sshd", "port="),
        ("ssh: connect to host node1 port 22: Connection timed out", "no way", "TCP 22"),
        ("python: Error: No module named 'dagrad_bus'", "not installed", "pip install dagrad-bus==0.1.0"),
        ("sh: 1: exec: /x/python: not found", "cannot be run", "python="),
        ("what ever", "what ever", "ssh ann@node1 true"),
        ("", "no answer", "ssh ann@node1 true"),
    ],
)  # fmt: skip
def test_why_a_host_is_not_reached(
    end: str, what: str, repair: str, make_host: Make, make_examined: MakeExamined
) -> None:
    lost = make_host(reached=False, target="ann@node1", end=end)
    (fault,) = check_hosts(make_examined([lost]))
    assert (fault.check, fault.level, fault.where) == ("reach", "fault", "node1")
    assert what in fault.what and repair in fault.repair


def test_a_single_host_may_be_on_loopback(make_host: Make, make_examined: MakeExamined) -> None:
    assert not check_hosts(make_examined([make_host(facts={"own_name": ["127.0.1.1"]}, address="127.0.0.1")]))


def test_facts_that_could_not_be_read_are_not_judged(make_host: Make, make_examined: MakeExamined) -> None:
    host = make_host()
    kept = {name: host.facts[name] for name in ("python", "packages", "wire")}
    bare = HostFacts(label="a", target="a", reached=True, address="10.0.0.9", facts=kept)
    assert check_hosts(make_examined([bare, host])) == []


def test_two_clocks_are_compared_with_the_one_here(make_host: Make, make_examined: MakeExamined) -> None:
    (fault,) = check_clocks(make_examined([make_host(offset=3.2, offset_error=0.01)]))
    assert fault.level == "fault" and "3.2 s ahead" in fault.what and "makestep" in fault.repair
    (mild,) = check_clocks(make_examined([make_host(offset=-0.8)]))
    assert mild.level == "warning" and "0.8 s behind" in mild.what
    assert not list(check_clocks(make_examined([make_host(offset=3.0, offset_error=2.9)])))


def test_of_many_clocks_the_odd_one_is_wrong_even_if_it_is_ours(make_host: Make, make_examined: MakeExamined) -> None:
    hosts = [make_host(f"node{number}", offset=-5.0) for number in range(4)]
    (fault,) = check_clocks(make_examined(hosts))
    assert fault.where == "this host" and "5.0 s ahead" in fault.what


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=9), st.floats(-50, 50))
@settings(max_examples=50)
def test_a_common_shift_of_all_clocks_changes_nothing(offsets: list[float], shift: float) -> None:
    def judged(values: list[float]) -> list[str]:
        hosts = [HostFacts(label=f"h{n}", target="", reached=True, offset=v - values[0]) for n, v in enumerate(values)]
        local = HostFacts(label="h0", target="", reached=True, local=True)
        examined = Examined(hosts=[local, *hosts[1:]], paths=[], here={}, first_port=1, last_port=2)
        return sorted(fault.where for fault in check_clocks(examined))

    rounded = [round(value) + 0.25 for value in offsets]
    assert judged(rounded) == judged([value + round(shift) for value in rounded])


def test_loopback_is_known_in_every_form() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.0.1.1", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("10.0.0.1", "node1", "fe80::1")))
