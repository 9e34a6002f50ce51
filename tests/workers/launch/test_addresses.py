"""Which address others reach this host by."""

from __future__ import annotations

import socket

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch import addresses
from dagrad_bus.workers.launch.addresses import choose, is_own, is_reachable, of_interface, of_name, to_bind, towards


def names(monkeypatch: pytest.MonkeyPatch, table: dict[str, list[str]]) -> None:
    """Have names resolve as ``table`` says."""

    def resolve(host: str, port: object, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if host not in table:
            raise socket.gaierror(-2, "Name or service not known")
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in one], socket.SOCK_DGRAM, 17, "", (one, 9)) for one in table[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_the_way_to_this_host_itself_is_no_address() -> None:
    assert towards("127.0.0.1") is None
    assert towards("no.such.host.invalid") is None
    assert towards("a" * 80 + ".x") is None


def test_the_loopback_interface_has_its_address_and_others_are_listed() -> None:
    assert of_interface("lo") == "127.0.0.1"
    with pytest.raises(UsageError, match=r"'nosuch0'.*there are .*lo"):
        of_interface("nosuch0")


def test_a_name_that_means_loopback_alone_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, {"debian": ["127.0.1.1"], "good": ["fe80::1", "fd00::2", "10.0.0.7"], "six": ["fd00::2"]})
    assert of_name("debian") is None
    assert of_name("good") == "10.0.0.7"
    assert of_name("six") == "fd00::2"
    assert of_name("other") is None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "::1", "fe80::1", "169.254.3.4", "0.0.0.0"])
def test_what_others_cannot_reach(address: str) -> None:
    assert not is_reachable(address)


def test_own_is_what_can_be_bound() -> None:
    assert is_own("127.0.0.1")
    assert not is_own("192.0.2.200")
    assert is_own("::1") or not socket.has_ipv6
    assert not is_own("localhost") and not is_own("::ffff:192.0.2.200")


def test_the_first_way_counts_and_the_own_name_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "towards", {"b": "10.0.0.2", "c": "10.0.0.3"}.get)

    def own(host: str) -> str:
        return "10.9.9.9"

    monkeypatch.setattr(addresses, "of_name", own)
    assert choose(["", "a", "b", "c"]) == "10.0.0.2"
    assert choose(["a"]) == choose([]) == "10.9.9.9"


def test_what_is_not_this_hosts_own_is_told_but_not_bound() -> None:
    assert to_bind("127.0.0.1") == "127.0.0.1"
    assert to_bind("192.0.2.200") == to_bind("node.example") == to_bind("localhost") == "*"
