"""What is wrong between hosts. Pure functions; docs/doctor.md gives the reason for each threshold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from dagrad_bus.workers.launch.examination.host_checks import is_loopback
from dagrad_bus.workers.launch.examination.judgement import Examined, Fault, HostFacts, PathFacts

SLOW_TRIP = 0.2
"""Seconds: with 8 frames in flight a link carries 40 frames a second."""
SMALL_MTU = 1280
"""Bytes: the least that IPv6 asks for."""
SLOW_RATE = 1.25e6
"""Bytes a second: 10 Mbit/s."""

_WORDS = {
    "refused": "refused",
    "timeout": "no answer",
    "unreachable": "no route",
    "reset": "cut",
}


def check_paths(examined: Examined) -> list[Fault]:
    """Return what is wrong between pairs of hosts; pairs with the same trouble share a line."""
    paths = examined.paths
    return [
        *_unreached(examined),
        *_strangers(paths),
        *_stalled(examined),
        *_slow(paths),
        *_narrow(paths),
        *_wrong_interface(examined),
    ]


def _pairs(paths: Sequence[PathFacts]) -> str:
    """Return ``node1, node2 -> node3``; the paths have one target."""
    sources = list(dict.fromkeys(path.source for path in paths))
    shown = ", ".join(sources[:4]) + (f" and {len(sources) - 4} more" if len(sources) > 4 else "")
    return f"{shown} -> {paths[0].target}"


def _unreached(examined: Examined) -> Iterator[Fault]:
    groups: defaultdict[tuple[str, str, str], list[PathFacts]] = defaultdict(list)
    for path in examined.paths:
        if path.error and path.error not in {"unresolved", "stalled", "stranger"}:
            groups[path.target, path.address, path.error].append(path)
    span = f"{examined.first_port}-{examined.last_port}"
    for (_, address, error), paths in groups.items():
        ports = sorted({path.port for path in paths})
        word = "ports" if len(ports) > 1 else "port"
        what = f"{word} {', '.join(map(str, ports[:4]))} at {address}: {_WORDS.get(error, error)}"
        repair = f"open TCP {span} between the hosts, or choose open ones by --port-range"
        if error == "unreachable":
            repair = f"a route to {address} (ip route get {address}), or another addr= in the hostfile"
        if error == "refused":
            repair += "; or addr= in the hostfile, if the address is another host's"
        yield Fault("fault", "port", _pairs(paths), what, repair)


def _strangers(paths: Sequence[PathFacts]) -> Iterator[Fault]:
    groups: defaultdict[tuple[str, str], list[PathFacts]] = defaultdict(list)
    for path in paths:
        if path.error == "stranger":
            groups[path.target, path.address].append(path)
    for (_, address), found in groups.items():
        what = f"at {address} another program answers than the probe"
        repair = "an address that is only this host's as addr= in the hostfile (is a forwarder or proxy between?)"
        yield Fault("fault", "address", _pairs(found), what, repair)


def _stalled(examined: Examined) -> Iterator[Fault]:
    groups: defaultdict[str, list[PathFacts]] = defaultdict(list)
    for path in examined.paths:
        if path.error == "stalled":
            groups[path.target].append(path)
    for found in groups.values():
        what = f"small packets arrive, those of {found[0].mtu or 'full'} bytes vanish"
        repair = "a smaller MTU at the interface of the sender (ip link set mtu), or let ICMP 'fragmentation needed' by"
        yield Fault("fault", "mtu", _pairs(found), what, repair)


def _slow(paths: Sequence[PathFacts]) -> Iterator[Fault]:
    for path in paths:
        where = f"{path.source} -> {path.target}"
        if path.rtt is not None and path.rtt > SLOW_TRIP:
            what = f"a round trip takes {1000 * path.rtt:.0f} ms: a link carries {8 / path.rtt:.0f} frames a second"
            yield Fault("warning", "delay", where, what, "a larger --interval, if steps are faster")
        if path.rate is not None and path.rate < SLOW_RATE:
            what = f"{path.rate / 1e6:.2f} MB/s"
            repair = (
                "dagrad plan --bandwidth says what a model needs; a smaller --density or larger --interval needs less"
            )
            yield Fault("warning", "throughput", where, what, repair)


def _narrow(paths: Sequence[PathFacts]) -> Iterator[Fault]:
    for path in paths:
        if path.mtu is not None and path.mtu < SMALL_MTU and path.error != "stalled":
            what = f"the path carries packets of {path.mtu} bytes at most"
            repair = "a larger MTU on the way (ip link, tunnel settings); headers cost more than they need"
            yield Fault("warning", "mtu", f"{path.source} -> {path.target}", what, repair)


def _wrong_interface(examined: Examined) -> Iterator[Fault]:
    """Warn where a host's traffic leaves by another address than the one its peers use."""
    by_label = {host.label: host for host in examined.reached}
    told: set[tuple[str, str]] = set()
    for path in examined.paths:
        host = by_label.get(path.source)
        leaves = path.source_address
        if host is None or not leaves or is_loopback(leaves) or (host.label, leaves) in told:
            continue
        if leaves not in addresses_of(host):
            told.add((host.label, leaves))
            what = f"peers reach it at {host.address}, but what it sends to {path.target} leaves by {leaves}"
            repair = f"addr={leaves} in the hostfile, if that is the faster network; else correct its routes"
            yield Fault("warning", "interface", host.label, what, repair)


def addresses_of(host: HostFacts) -> set[str]:
    """Return the addresses that mean the interface peers use."""
    addresses = [(str(name), str(address)) for name, address in host.facts.get("addresses") or ()]
    meant = {host.address, *host.names.get(host.address, ())}
    interfaces = {name for name, address in addresses if address in meant}
    return meant | {address for name, address in addresses if name in interfaces}
