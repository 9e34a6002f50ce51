"""Which address of this host others reach it by, and where a name leads."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress

from dagrad_bus.errors import UsageError

LOOPBACK = "127.0.0.1"
_SIOCGIFADDR = 0x8915
_ANY_PORT = 9
"""Nothing is sent to it: connecting a UDP socket only chooses the way."""


def towards(host: str) -> str | None:
    """Return the address of the interface that leads to ``host``; None: nowhere, or only to this host itself."""
    try:
        found = socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return None
    for family, kind, protocol, _, target in sorted(found, key=lambda each: each[0] != socket.AF_INET):
        with suppress(OSError), socket.socket(family, kind, protocol) as sock:
            sock.connect(target)
            own = str(sock.getsockname()[0]).partition("%")[0]
            if is_reachable(own):
                return own
    return None


def of_interface(name: str) -> str:
    """Return the IPv4 address of a network interface (Linux).

    Raises:
        UsageError: no such interface, or it has no such address; the message lists those there are.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            packed = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError as error:
            there = ", ".join(known for _, known in socket.if_nameindex())
            raise UsageError(f"interface {name!r}: {error.strerror} (there are {there})") from None
    return socket.inet_ntoa(packed[20:24])


def of_name(host: str) -> str | None:
    """Return an address that ``host`` resolves to and others can reach; None: none (Debian's 127.0.1.1 is none)."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    ordered = sorted(found, key=lambda each: each[0] != socket.AF_INET)
    return next((address for each in ordered if is_reachable(address := str(each[4][0]).partition("%")[0])), None)


def is_reachable(address: str) -> bool:
    """Whether other hosts can reach an address at all: neither loopback nor link-local nor none."""
    parsed = ipaddress.ip_address(address)
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified)


def is_own(address: str) -> bool:
    """Whether a socket of this host can listen at the address: not at a NAT's or a forwarder's, and a name is none."""
    with suppress(ValueError, OSError):
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind((address, 0))
            return True
    return False


def to_bind(address: str) -> str:
    """Return where a worker listens that tells others ``address``: there, or everywhere if it is not this host's."""
    return address if is_own(address) else "*"


def choose(targets: Iterable[str]) -> str | None:
    """Return this host's address: on the way to one of the targets, else that of its own name; None: no such."""
    ways = (towards(target) for target in targets if target)
    return next((way for way in ways if way), None) or of_name(socket.gethostname())
