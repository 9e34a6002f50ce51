from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dagrad_bus.workers.launch.examination.judgement import Examined, HostFacts, PathFacts
from dagrad_bus.workers.launch.examination.path_checks import addresses_of, check_paths

Make = Callable[..., HostFacts]
MakeExamined = Callable[..., Examined]


def _path(source: str = "node1", target: str = "node3", port: int = 20311, **values: Any) -> PathFacts:
    standard: dict[str, Any] = {"rtt": 0.001, "mtu": 1500} if "error" not in values else {}
    return PathFacts(source=source, target=target, address="10.0.0.3", port=port, **(standard | values))


def test_good_paths_have_nothing(make_examined: MakeExamined) -> None:
    assert check_paths(make_examined([], paths=[_path(), _path("node2")])) == []


def test_pairs_with_the_same_trouble_share_a_line(make_examined: MakeExamined) -> None:
    paths = [_path(source, port=port, error="timeout") for source in ("node1", "node2") for port in (20311, 25000)]
    (fault,) = check_paths(make_examined([], paths=[*paths, _path("node3", "node1")]))
    assert fault.where == "node1, node2 -> node3"
    assert fault.what == "ports 20311, 25000 at 10.0.0.3: no answer"
    assert fault.repair == "open TCP 20000-32000 between the hosts, or choose open ones by --port-range"


def test_many_sources_are_counted(make_examined: MakeExamined) -> None:
    paths = [_path(f"n{number}", error="refused") for number in range(9)]
    (fault,) = check_paths(make_examined([], paths=paths))
    assert fault.where == "n0, n1, n2, n3 and 5 more -> node3"
    assert "refused" in fault.what and "addr=" in fault.repair


def test_each_error_has_its_own_repair(make_examined: MakeExamined) -> None:
    def judged(error: str) -> tuple[str, str]:
        (fault,) = check_paths(make_examined([], paths=[_path(error=error)]))
        assert fault.level == "fault"
        return fault.check, fault.repair

    assert "route" in judged("unreachable")[1]
    assert judged("stranger")[0] == "address"
    assert judged("stalled")[0] == "mtu" and "ICMP" in judged("stalled")[1]
    assert judged("No buffer space available")[0] == "port"
    assert check_paths(make_examined([], paths=[_path(error="unresolved")])) == []  # the host's own check tells it


def test_slow_and_narrow_paths_are_warned_of(make_examined: MakeExamined) -> None:
    found = check_paths(make_examined([], paths=[_path(rtt=0.4, mtu=1000, rate=1e5)]))
    assert [(fault.check, fault.level) for fault in found] == [
        ("delay", "warning"), ("throughput", "warning"), ("mtu", "warning")
    ]  # fmt: skip
    assert "20 frames a second" in found[0].what


def test_traffic_by_another_interface_is_told_once(make_host: Make, make_examined: MakeExamined) -> None:
    host = make_host("node1", address="10.0.0.1")
    paths = [_path(target=other, source_address="10.1.0.1") for other in ("node2", "node3")]
    (fault,) = check_paths(make_examined([host], paths=paths))
    assert (fault.check, fault.where) == ("interface", "node1") and "addr=10.1.0.1" in fault.repair
    assert not check_paths(make_examined([host], paths=[_path(source_address="10.0.0.1")]))


def test_a_second_address_of_the_same_interface_is_no_other(make_host: Make) -> None:
    host = make_host(facts={"addresses": [["eth0", "10.0.0.1"], ["eth0", "fd00::1"], ["ib0", "10.1.0.1"]]})
    assert addresses_of(host) == {"10.0.0.1", "fd00::1"}
