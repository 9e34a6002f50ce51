"""Facts of an examination, what is wrong by them, and how it is put right.

Facts are plain data: the checks (``host_checks``, ``path_checks``, ``live``) are pure functions of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["fault", "warning"]
HERE = "here"
"""What the host that examines is called where it is none of the examined ones."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, or may be."""

    level: Level
    """``fault``: a run fails or suffers; ``warning``: worth knowing."""
    check: str
    """Short stable name: ``clock``, ``port``, ..."""
    where: str
    """A host or worker, or ``node1 -> node3``."""
    what: str
    repair: str
    """What to do, in one line."""

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.where}: {self.what}: {self.repair}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """One host."""

    label: str
    target: str
    """As the user wrote it: ``ann@node1``."""
    slots: int = 1
    address: str = ""
    """What peers are told to connect to; empty: not known, as the host was not reached."""
    address_given: bool = False
    """Whether the user gave it (``addr=``); otherwise it is the one by which ssh came in."""
    local: bool = False
    cwd_given: bool = False
    devices: Sequence[str] = ()
    reached: bool = False
    end: str = ""
    """Why there was no answer: the last words of ssh, or of the interpreter."""
    login: float = 0.0
    """Seconds until the probe answered for the first time."""
    noise: Sequence[str] = ()
    """Lines on stdout that are not the probe's."""
    offset: float = 0.0
    """Seconds that its clock is ahead of the one here."""
    offset_error: float = 0.0
    """By which that may be wrong, at most: half the shortest round trip."""
    ports: Sequence[int] = ()
    """On which the probe listens."""
    ports_tried: int = 0
    ports_error: str = ""
    names: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """Names that peers are told, as they resolve here."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """As :func:`~dagrad_bus.workers.launch.examination.host.gather_facts` returns them."""

    @property
    def python(self) -> str:
        """The interpreter, for repairs."""
        return str(self.facts.get("executable") or "python")


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFacts:
    """One visit from a host to a listening port of another."""

    source: str
    """Label."""
    target: str
    """Label."""
    address: str
    port: int
    error: str = ""
    """Empty: all went well. See :func:`~dagrad_bus.workers.launch.examination.paths.visit`."""
    rtt: float | None = None
    """Seconds."""
    mtu: int | None = None
    """Bytes."""
    rate: float | None = None
    """Bytes a second, if it was measured."""
    source_address: str = ""
    """The address that the connection left by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """All facts of one examination."""

    hosts: Sequence[HostFacts]
    paths: Sequence[PathFacts]
    here: Mapping[str, Any]
    """Facts of the host that examines."""
    first_port: int
    last_port: int

    @property
    def reached(self) -> list[HostFacts]:
        """Hosts whose probe answered."""
        return [host for host in self.hosts if host.reached]

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON takes them."""
        return asdict(self)


def level(is_fault: bool) -> Level:
    """Return the level that a measured value over or under its threshold has."""
    return "fault" if is_fault else "warning"


def exit_code(faults: Sequence[Fault], *, reached: bool) -> int:
    """Return 0 without a fault (warnings do not count), 1 with one, 3 where nobody could be asked."""
    if not reached:
        return 3
    return int(any(fault.level == "fault" for fault in faults))


def in_order(faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults before the warnings, otherwise as they are."""
    return sorted(faults, key=lambda fault: fault.level != "fault")


def table_of(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a fact that is a table; empty where it could not be found out."""
    found: dict[str, Any] = facts.get(name) or {}
    return found


def list_of(facts: Mapping[str, Any], name: str) -> list[Any]:
    """Return a fact that is a list, likewise."""
    found: list[Any] = facts.get(name) or []
    return found


def plural(count: int, word: str) -> str:
    """Return ``1 slot``, ``2 slots``."""
    return f"{count} {word}{'' if count == 1 else 's'}"
