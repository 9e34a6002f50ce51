r"""The host file: which hosts take workers, how many each, and how they are reached.

It is the union of what Open MPI, DeepSpeed and Horovod call a hostfile, so that a file written for one of them can be
used as it is (docs/hostfile.md). Nothing here opens a file or asks the network::

    file   = *( line NL )                    ; UTF-8, byte order mark and CRLF accepted
    line   = [WS] [ target *( WS pair ) [WS] ] [ "#" text ]      ; "#" at line start or after white space
    target = [ user "@" ] host [ ":" count ]
    host   = name / ipv4 / "[" ipv6 "]"      ; name: letters digits . - _, not starting with "-" or "."
    pair   = key "=" value                   ; value: no blanks, or "..." with \" and \\
    key    = "slots" / "max_slots" / "max-slots" / "port" / "addr" / "device" / "python" / "cwd"
    count  = 1..4096
    -H     = target *( "," target )

A host on several lines has the slots of all of them; what else they say must agree.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import groupby

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch.hostline import BLANKS, MOST_SLOTS, Entry, Fault, Token, read, split
from dagrad_bus.workers.launch.labels import assign

_MOST_FAULTS = 100


class HostfileError(UsageError):
    """What is wrong with a host file, a list of hosts or a filter: each fault a line, ``FILE:LINE:COL: text``."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        more = len(faults) - _MOST_FAULTS
        super().__init__("\n".join([*faults[:_MOST_FAULTS], *([f"and {more} more faults"] if more > 0 else [])]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host with slots for workers."""

    label: str
    """First part of its workers' names (:mod:`labels`)."""
    host: str
    """Name or address as ssh takes it; IPv6 without brackets."""
    user: str = ""
    """Empty: as the ssh configuration says."""
    port: int = 0
    """Of sshd; 0: as the ssh configuration says."""
    slot_numbers: tuple[int, ...]
    """Numbers of the slots in use, rising; a filter leaves gaps."""
    max_slots: int = 0
    """Bound of oversubscription; 0: none."""
    addr: str = ""
    """Address that peers use; empty: the one by which the launcher comes here."""
    devices: tuple[str, ...] = ()
    """Device by slot number, ``""`` for none; empty: none for all."""
    python: str = ""
    """Interpreter; empty: the path of the launcher's."""
    cwd: str = ""
    """Working folder; empty: that of the launcher."""
    line: int = field(default=0, compare=False)
    """Where the file names it first, from 1."""

    @property
    def slots(self) -> int:
        """How many workers run here."""
        return len(self.slot_numbers)

    def device(self, slot: int) -> str:
        """Return the device of a slot, or ``""``."""
        return self.devices[slot] if slot < len(self.devices) else ""

    def environment(self, slot: int) -> dict[str, str]:
        """Return what the worker of a slot sees of this file."""
        return {"DAGRAD_DEVICE": device} if (device := self.device(slot)) else {}


@dataclass(frozen=True, slots=True)
class Hosts:
    """What a file or a list says."""

    hosts: tuple[Host, ...]
    notes: tuple[str, ...] = ()
    """To be said once on stderr."""

    @property
    def slots(self) -> int:
        """How many workers there is room for."""
        return sum(host.slots for host in self.hosts)

    @property
    def labels(self) -> dict[str, str]:
        """Labels by host, to be kept when the file is read again."""
        return {host.host: host.label for host in self.hosts}


def parse_file(content: str | bytes, name: str, *, taken: Mapping[str, str] | None = None) -> Hosts:
    """Return the hosts of a file.

    Args:
        content: the whole file, or what came by stdin.
        name: how errors call it.
        taken: labels of hosts known before (``Hosts.labels``): they keep them.

    Raises:
        HostfileError: all that is wrong.
    """
    reader = _Reader(name)
    text = content if isinstance(content, str) else reader.decode(content)
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        reader.read_line(number, line.removesuffix("\r"))
    return reader.finish(taken or {})


def parse_list(text: str, name: str = "-H", *, taken: Mapping[str, str] | None = None) -> Hosts:
    """Return the hosts of a list such as ``node1:4,ann@node2``.

    Raises:
        HostfileError: all that is wrong.
    """
    reader = _Reader(name)
    column = 1
    for part in text.split(","):
        target = part.strip(BLANKS)
        reader.read_target(1, Token(column + part.index(target), target))
        column += len(part) + 1
    return reader.finish(taken or {})


def render(hosts: Iterable[Host]) -> str:
    """Return a file that says the same; hosts with gaps in their slots cannot be written."""
    return "".join(f"{line}\n" for host in hosts for line in _lines_of(host))


def _lines_of(host: Host) -> Iterator[str]:
    if host.slot_numbers != tuple(range(host.slots)):
        raise UsageError(f"{host.host} has the slots {host.slot_numbers}: a file has no way to say so")
    bare = f"[{host.host}]" if ":" in host.host else host.host
    rest = {"port": host.port, "max_slots": host.max_slots, "addr": host.addr, "python": host.python, "cwd": host.cwd}
    tail = "".join(f" {key}={_quote(str(value))}" for key, value in rest.items() if value)
    for has, group in groupby(host.devices or [""] * host.slots, key=bool):
        devices = list(group)
        shown = f" device={','.join(devices)}" if has else ""
        yield f"{host.user}{'@' if host.user else ''}{bare} slots={len(devices)}{shown}{tail}"
        tail = ""


def _quote(value: str) -> str:
    if '"' not in value and not set(value) & set(BLANKS):
        return value
    return '"{}"'.format(value.replace("\\", "\\\\").replace('"', '\\"'))


def select(hosts: Sequence[Host], include: str = "", exclude: str = "") -> tuple[Host, ...]:
    """Return the hosts and slots that a filter leaves, in the file's order; slots keep their numbers.

    Args:
        hosts: what there is.
        include: ``node1@node2:0,2`` (DeepSpeed's syntax): only these; empty: all.
        exclude: likewise: all but these.

    Raises:
        HostfileError: both are given, one names what is not there, or nothing is left.
    """
    if include and exclude:
        raise HostfileError(["--include:1:1: give it or --exclude, not both"])
    name, text = ("--include", include) if include else ("--exclude", exclude)
    if not text:
        return tuple(hosts)
    faults: list[str] = []
    named: dict[str, set[int]] = {}
    column = 1
    for part in text.split("@"):
        try:
            host, slots = _find(hosts, part)
            named.setdefault(host.host, set()).update(slots)
        except Fault as fault:
            faults.append(f"{name}:1:{column + fault.column - 1}: {fault}")
        column += len(part) + 1
    left = [
        replace(
            host, slot_numbers=tuple(n for n in host.slot_numbers if (n in named.get(host.host, ())) == bool(include))
        )
        for host in hosts
    ]
    if not faults and not any(host.slots for host in left):
        faults.append(f"{name}:1:1: no slots left")
    if faults:
        raise HostfileError(faults)
    return tuple(host for host in left if host.slots)


def _find(hosts: Sequence[Host], text: str) -> tuple[Host, tuple[int, ...]]:
    """Return the host that ``HOST[:SLOT,...]`` names, by its name or label, and the slots."""
    closing = text.find("]") + 1 if text.startswith("[") else 0
    written, colon, numbers = text[:closing], *text[closing:].partition(":")[1:]
    written = written or text.partition(":")[0]
    key = written.strip("[]").lower()
    known = {name: host for host in hosts for name in (host.label, host.host.lower())}
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        raise Fault(1, f"no host {written!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    host = known[key]
    if not colon:
        return host, host.slot_numbers
    column = len(written) + 2
    for number in numbers.split(","):
        if not (re.fullmatch("[0-9]{1,5}", number) and int(number) in host.slot_numbers):
            has = f"{host.slot_numbers[0]} to {host.slot_numbers[-1]}" if host.slots > 1 else str(host.slot_numbers[0])
            raise Fault(column, f"no slot {number!r} on {host.host}, which has {has}")
        column += len(number) + 1
    return host, tuple(int(number) for number in numbers.split(","))


def first(hosts: Sequence[Host], n: int) -> tuple[Host, ...]:
    """Return hosts with their first ``n`` slots in all, each filled before the next.

    Raises:
        UsageError: there are fewer.
    """
    left = n
    taken: list[Host] = []
    for host in hosts:
        taken.append(replace(host, slot_numbers=host.slot_numbers[:left]))
        left -= taken[-1].slots
    if left > 0:
        raise UsageError(f"{n} workers, but the hosts have {n - left} slots: fewer workers, or --oversubscribe")
    return tuple(host for host in taken if host.slots)


def oversubscribe(hosts: Sequence[Host], n: int) -> tuple[Host, ...]:
    """Return hosts with ``n`` slots in all, or those they have if these are more.

    Each further slot goes where there are fewest workers for the slots that the file gives, up to ``max_slots``.

    Raises:
        UsageError: ``max_slots`` does not allow so many.
    """
    missing = n - sum(host.slots for host in hosts)
    load = [(1.0, at, host.slots) for at, host in enumerate(hosts) if host.slots]
    extra = [0] * len(hosts)
    while missing > 0 and load:
        _, at, slots = heappop(load)
        if 0 < hosts[at].max_slots <= slots:
            continue
        extra[at] += 1
        missing -= 1
        heappush(load, ((slots + 1) / hosts[at].slots, at, slots + 1))
    if missing > 0:
        raise UsageError(f"{n} workers, but max_slots allows {n - missing}")
    return tuple(_extend(host, more) for host, more in zip(hosts, extra, strict=True))


def _extend(host: Host, more: int) -> Host:
    """Return a host with further slots; they share the devices of those in use."""
    top = max(*host.slot_numbers, len(host.devices) - 1, -1) + 1  # a slot that was filtered out stays out
    used = [host.device(slot) for slot in host.slot_numbers]
    shared = tuple(used[n % len(used)] for n in range(more)) if host.devices else ()
    return replace(host, slot_numbers=(*host.slot_numbers, *range(top, top + more)), devices=(*host.devices, *shared))


@dataclass(frozen=True, slots=True)
class Difference:
    """What has changed between two readings of a file."""

    added: tuple[tuple[Host, int], ...]
    """Host as it is now, slot."""
    removed: tuple[tuple[Host, int], ...]
    """Host as it was, slot."""
    changed: tuple[str, ...]
    """``HOST: key, key`` of hosts that stay, with other values: workers that run keep the old ones."""


def difference(old: Sequence[Host], new: Sequence[Host]) -> Difference:
    """Return which slots have come and gone, hosts being told apart by their labels."""
    before, after = {host.label: host for host in old}, {host.label: host for host in new}
    had = {(host.label, slot) for host in old for slot in host.slot_numbers}
    has = {(host.label, slot) for host in new for slot in host.slot_numbers}
    kept = [(before[label], host) for label, host in after.items() if label in before]
    return Difference(
        added=tuple((host, slot) for host in new for slot in host.slot_numbers if (host.label, slot) not in had),
        removed=tuple((host, slot) for host in old for slot in host.slot_numbers if (host.label, slot) not in has),
        changed=tuple(f"{now.host}: {', '.join(keys)}" for was, now in kept if (keys := _changes(was, now))),
    )


def _changes(old: Host, new: Host) -> list[str]:
    keys = [key for key in ("user", "port", "addr", "python", "cwd") if getattr(old, key) != getattr(new, key)]
    kept = set(old.slot_numbers) & set(new.slot_numbers)
    return keys + ["device"] * any(old.device(slot) != new.device(slot) for slot in kept)


class _Reader:
    """Collects what the lines of one file say, and what is wrong with them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._groups: dict[str, list[tuple[int, Entry]]] = {}
        """Line and entry, by host in lower case."""
        self._faults: list[tuple[int, int, str]] = []

    def decode(self, content: bytes) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            before = content[: error.start].decode().split("\n")
            hint = " (UTF-16?)" if content[:2] in {b"\xff\xfe", b"\xfe\xff"} else ""
            self._faults.append((len(before), len(before[-1]) + 1, f"not UTF-8{hint}"))
            return ""

    def read_line(self, number: int, line: str) -> None:
        try:
            tokens = split(line)
        except Fault as fault:
            self._faults.append((number, fault.column, str(fault)))
            return
        if tokens:
            self.read_target(number, tokens[0], tokens[1:])

    def read_target(self, line: int, target: Token, tokens: Sequence[Token] = ()) -> None:
        entry, faults = read(target, tokens)
        self._faults += [(line, fault.column, str(fault)) for fault in faults]
        if entry is not None:
            self._groups.setdefault(entry.host.lower(), []).append((line, entry))

    def finish(self, taken: Mapping[str, str]) -> Hosts:
        """Return the hosts, all lines of one host put together.

        Raises:
            HostfileError: there were faults, or there is no host.
        """
        labels = assign(list(self._groups), taken)
        hosts = tuple(self._merge(labels[key], group) for key, group in self._groups.items())
        if not self._faults and not hosts:
            self._faults.append((1, 1, "no hosts"))
        if self._faults:
            raise HostfileError([f"{self._name}:{line}:{at}: {text}" for line, at, text in sorted(self._faults)])
        bare = [group[0][1].host for group in self._groups.values() if len(group) == 1 and group[0][1].bare]
        shown = ", ".join(bare[:3]) + (f" and {len(bare) - 3} more" if len(bare) > 3 else "")
        note = f"{self._name}: no number of slots, so one worker each: {shown} (HOST:N says more)"
        return Hosts(hosts, (note,) if bare else ())

    def _merge(self, label: str, group: Sequence[tuple[int, Entry]]) -> Host:
        """Return one host of all its lines."""
        given: dict[str, tuple[int, str | int]] = {}
        devices: list[str] = []
        for line, entry in group:
            for key, (column, value) in entry.values.items():
                before, first = given.setdefault(key, (line, value))
                if first != value:
                    text = f"{key} {value} conflicts with line {before}: {key} {first}"
                    self._faults.append((line, column, text))
            wanted = entry.devices or [""]
            each = wanted * entry.slots if len(wanted) == 1 else wanted
            devices += [f"cuda:{n}" if one == "cuda" else one for n, one in enumerate(each, len(devices))]
        values = {key: value for key, (_, value) in given.items()}
        self._check_total(group[-1], len(devices), int(values.get("max_slots", 0)))
        return Host(
            label=label,
            host=group[0][1].host,
            user=str(values.get("user", "")),
            port=int(values.get("port", 0)),
            slot_numbers=tuple(range(len(devices))),
            max_slots=int(values.get("max_slots", 0)),
            addr=str(values.get("addr", "")),
            devices=tuple(devices) if any(devices) else (),
            python=str(values.get("python", "")),
            cwd=str(values.get("cwd", "")),
            line=group[0][0],
        )

    def _check_total(self, last: tuple[int, Entry], total: int, most: int) -> None:
        line, entry = last
        if total > MOST_SLOTS:
            text = f"{entry.host} has {total} slots in all: at most {MOST_SLOTS}"
            self._faults.append((line, entry.column, text))
        elif 0 < most < total:
            self._faults.append((line, entry.column, f"max_slots {most} is below the {total} slots of {entry.host}"))
