"""What is known of each member of a live run: its own heartbeat, what others believe of it, and its journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from dagrad_bus.tools.summary import consensus_distance
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.wire import MemberState
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.journal import Record

if TYPE_CHECKING:
    from dagrad_bus.bus.survey import Picture, Sighting

TAIL = 256 << 10
"""Bytes at the end of a journal that are read: a minute or more."""
_HEAD = 64 << 10
FAILED = ("suspect", "silent", "dead", "wedged")
"""States that make a run one that is not well."""
_WEDGED, _LEAVING, _SYNCING = 2, 4, 8
_STANDSTILL = 3.0
"""Steps that a worker may be late before its step is taken as it was told, and not as it must be by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One row. None where it is not known."""

    name: str
    state: str
    """``alive``, ``syncing``, ``leaving``, ``left``, ``expected``; or one of :data:`FAILED`."""
    step: int | None = None
    """By now, at its rate since its last heartbeat."""
    rate: float | None = None
    """Steps a second."""
    behind: float | None = None
    """Steps behind the median of those heard; negative: ahead."""
    last_step: float | None = None
    """Seconds since its last step, when it last spoke."""
    lag_ms: int | None = None
    health: int | None = None
    members: int | None = None
    """How many it believes there."""
    neighbours: tuple[str, ...] | None = None
    spec_version: int | None = None
    agrees: bool | None = None
    """Whether its table and graph are those of most."""
    beat_age: float | None = None
    """Seconds since its last heartbeat."""
    rtt: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    bytes_per_step: float | None = None
    address: str = ""
    incarnation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A whole run."""

    run: str
    told_by: str
    spec: TopologySpec
    members: tuple[Member, ...]
    left_out: int
    """Members not listened to, as there are too many."""
    consensus: float | None = None
    """Latest mean over workers of ||x_i - mean|| / ||mean||."""

    @property
    def heard(self) -> tuple[Member, ...]:
        """Those whose heartbeat was heard."""
        return tuple(one for one in self.members if one.beat_age is not None)

    @property
    def failed(self) -> tuple[Member, ...]:
        """Those that are not well."""
        return tuple(one for one in self.members if one.state in FAILED)

    @property
    def dissenters(self) -> tuple[Member, ...]:
        """Those whose table or graph is not that of most."""
        return tuple(one for one in self.members if one.agrees is False)

    @property
    def is_well(self) -> bool:
        """Whether nobody failed and all agree."""
        return not self.failed and not self.dissenters

    @property
    def steps(self) -> tuple[int, int] | None:
        """Least and most steps of those heard."""
        steps = [one.step for one in self.heard if one.step is not None]
        return (min(steps), max(steps)) if steps else None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, schema ``dagrad.status/1``."""
        steps = self.steps
        return {
            "schema": "dagrad.status/1",
            "run": self.run,
            "well": self.is_well,
            "present": sum(one.state not in {"dead", "left", "expected"} for one in self.members),
            "failed": [one.name for one in self.failed],
            "disagree": [one.name for one in self.dissenters],
            "steps": None if steps is None else {"least": steps[0], "most": steps[1]},
            "graph": spec_facts(self.spec),
            "consensus": self.consensus,
            "told_by": self.told_by,
            "not_listened_to": self.left_out,
            "members": [asdict(one) for one in self.members],
        }


def spec_facts(spec: TopologySpec) -> dict[str, Any]:
    """Return a spec as plain values."""
    facts = {"kind": spec.kind, "version": spec.version, "degree": spec.degree, "seed": spec.seed, "epoch": spec.epoch}
    return facts | {"graph": spec.graph.hex()}


def describe_spec(spec: TopologySpec) -> str:
    """Return a spec in words."""
    words: list[str] = [spec.kind]
    if spec.kind == "hash-rings":
        words += [f"degree {spec.degree}", *(f"{n} {v}" for n, v in (("seed", spec.seed), ("epoch", spec.epoch)) if v)]
    if spec.kind == "static":
        words.append(spec.graph.hex())
    return f"{', '.join(words)} (version {spec.version})"


def read_latest(folder: RunFolder, names: Sequence[str]) -> dict[str, Record]:
    """Return what the journals say last; beginning and end of each file are read, never all of it."""
    return {name: _read_ends(folder.journal(name), name) for name in names}


def _read_ends(path: Path, name: str) -> Record:
    record = Record(name)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            record.add(file.readline(_HEAD), keep=False)
            file.seek(max(file.tell(), size - TAIL))
            lines = file.read(TAIL).split(b"\n")
    except OSError:
        return record
    for line in lines if size <= TAIL else lines[1:]:
        if line.endswith(b"}"):
            record.add(line)
    return record


def make_status(picture: Picture, records: Mapping[str, Record], roster: Sequence[str] = ()) -> Status:
    """Put together what was seen and what the journals say.

    Args:
        picture: of the visitor.
        records: of the journals, by name; empty without a run folder.
        roster: names of all workers launched, as far as known.
    """
    majority = _majority(picture)
    steps = [step_now(one) for one in picture.members]
    middle = median([step for step in steps if step is not None] or [0])
    short = {one.record.node[:8]: one.record.name for one in picture.members}
    rows = [
        _member(one, step, middle, majority, short, records.get(one.record.name, Record(one.record.name)))
        for one, step in zip(picture.members, steps, strict=True)
    ]
    known = {one.name for one in rows}
    rows += [Member(name=name, state="expected") for name in roster if name not in known]
    heard = [one.record.name for one in picture.members if one.beat is not None]
    points = consensus_distance([records[name] for name in heard if name in records])
    return Status(
        run=picture.run,
        told_by=picture.told_by,
        spec=picture.spec,
        members=tuple(sorted(rows, key=lambda one: natural(one.name))),
        left_out=picture.left_out,
        consensus=points[-1][1] if points else None,
    )


def natural(name: str) -> tuple[str, int, str]:
    """Order names as people do: ``host.9`` before ``host.10``."""
    host, _, slot = name.rpartition(".")
    return (host, int(slot), "") if slot.isdigit() else (name, -1, name)


def _majority(picture: Picture) -> int | None:
    digests = [one.beat.digest for one in picture.members if one.beat is not None]
    return max(digests, key=digests.count) if digests else None


def step_now(one: Sighting) -> float | None:
    """Return a member's step by now; as told, where it has taken none for a while."""
    beat = one.beat
    if beat is None:
        return None
    if beat.progress_ms * beat.rate / 1000 > _STANDSTILL or one.beat_age > _STANDSTILL:
        return float(beat.step)
    return beat.step + beat.rate * one.beat_age


def state_of(one: Sighting, record: Record) -> str:
    """Return the state that is shown.

    Args:
        one: what was seen.
        record: its journal, which says whether it closed; empty where there is none.
    """
    closed = record.ended and record.last.get("reason", "closed") == "closed"
    match one.record.state:
        case MemberState.LEFT:
            return "left"
        case MemberState.DEAD:
            return "left" if closed else "dead"
        case state:
            believed = state.name.lower()
    if not one.is_asked:
        return believed
    if not one.is_heard:
        return "left" if closed else "suspect" if state is MemberState.SUSPECT else "silent"
    flags = one.beat.state if one.beat is not None else 0
    for flag, word in ((_LEAVING, "leaving"), (_WEDGED, "wedged"), (_SYNCING, "syncing")):
        if flags & flag:
            return word
    return believed


def _member(
    one: Sighting, step: float | None, middle: float, majority: int | None, short: Mapping[bytes, str], journal: Record
) -> Member:
    beat, record = one.beat, one.record
    sent = journal.counter("bytes_sent")
    if beat is None:
        seen: dict[str, Any] = {}
    else:
        names = [short.get(prefix, prefix.hex()) for prefix in beat.neighbours]
        seen = {
            "step": round(step or 0),
            "rate": beat.rate,
            "behind": round(middle - (step or 0), 1),
            "last_step": beat.progress_ms / 1000,
            "lag_ms": beat.lag_ms,
            "health": beat.health,
            "members": beat.members,
            "neighbours": tuple(sorted(names, key=natural)),
            "spec_version": beat.spec_version,
            "agrees": beat.digest == majority,
            "beat_age": one.beat_age,
        }
    return Member(
        name=record.name,
        state=state_of(one, journal),
        rtt=one.rtt,
        loss=journal.latest.get("loss"),
        accuracy=journal.latest.get("accuracy"),
        bytes_per_step=sent / journal.step if journal.step else None,
        address=record.inbox.removeprefix("tcp://"),
        incarnation=record.incarnation,
        **seen,
    )
