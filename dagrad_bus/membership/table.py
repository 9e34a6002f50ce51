"""The member table: a base that many tables may share, and what this one knows beyond it.

Counts, digest and view key are kept incrementally: nothing here is O(members) per message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.records import (
    Known,
    Version,
    bucket_of,
    fingerprint,
    has_contact,
    known_from,
    merge,
)
from dagrad_bus.messages import BUCKETS, MemberState, Record
from dagrad_bus.topology.live import member_key

_VIEWS = 8
"""Views remembered by a base: simulated workers agree most of the time."""


class Base:
    """What tables start from; immutable, so the simulated workers of one process share one.

    Args:
        records: of each member one, none of them a short one.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records: Final[Mapping[NodeId, Record]] = {record.node: record for record in records}
        self.ids: Final = tuple(sorted(self.records))
        self.buckets: Final[list[int]] = [0] * BUCKETS
        self.nodes_in: Final[list[list[NodeId]]] = [[] for _ in range(BUCKETS)]
        self.key = 0
        self.count = 0
        self.gone: Final[list[NodeId]] = []
        self.has_expected = False
        self._views: dict[int, tuple[NodeId, ...]] = {}
        for node in self.ids:
            self._enter(self.records[node])

    @classmethod
    def expected(cls, roster: Mapping[NodeId, str]) -> Base:
        """Return a base in which everybody launched is expected, and nobody was heard of yet."""
        return cls(Record(node, 0, 0, MemberState.ALIVE, name=name) for node, name in roster.items())

    def _enter(self, record: Record) -> None:
        self.buckets[bucket_of(record.node)] ^= fingerprint(record, is_behind=False)
        self.nodes_in[bucket_of(record.node)].append(record.node)
        self.has_expected |= not record.epoch
        if record.state <= MemberState.SUSPECT:
            self.key ^= member_key(record.node)
            self.count += 1
        else:
            self.gone.append(record.node)

    def remembered(self, key: int) -> tuple[NodeId, ...] | None:
        """Return the view of that key, if a table computed it lately."""
        return self._views.get(key)

    def remember(self, key: int, view: tuple[NodeId, ...]) -> None:
        """Keep a view for the tables that come to the same one."""
        while len(self._views) >= _VIEWS:
            self._views.pop(next(iter(self._views)), None)
        self._views[key] = view


@dataclass(frozen=True, slots=True)
class Change:
    """What a record changed."""

    old: Record | None
    new: Record
    rose: bool
    """The standing moved up; otherwise only the contact is newer."""
    gone_since: float | None = None
    """When the member had died or left, if it had."""


class Table(Mapping[NodeId, Record]):
    """Everything known of the members, this worker included.

    Args:
        base: where it starts from.
        now: seconds, monotonic; whoever is dead in the base counts as dead since then.
    """

    def __init__(self, base: Base, now: float) -> None:
        self.base = base
        self.joined: list[NodeId] = []
        """Members that the base does not name."""
        self.gone: dict[NodeId, float] = dict.fromkeys(base.gone, now)
        """DEAD and LEFT members, and since when."""
        self.buckets = list(base.buckets)
        self.digest = 0
        for bucket in self.buckets:
            self.digest ^= bucket
        self.key = base.key
        """XOR of the member keys of the view."""
        self.count = base.count
        """Members in the view."""
        self._size = len(base.records)
        self._over: dict[NodeId, Record | None] = {}
        self._behind: dict[NodeId, Version] = {}
        self._forgotten: dict[NodeId, tuple[tuple[int, int, int], float]] = {}

    def __getitem__(self, node: NodeId) -> Record:
        record = self._over[node] if node in self._over else self.base.records[node]
        if record is None:
            raise KeyError(node)
        return record

    def __contains__(self, node: object) -> bool:
        return self.find(node) is not None  # type: ignore[arg-type]  # whatever it is: it is looked up, no more

    def __iter__(self) -> Iterator[NodeId]:
        over = self._over
        yield from (node for node in self.base.ids if over.get(node, True) is not None)
        yield from self.joined

    def __len__(self) -> int:
        return self._size

    def find(self, node: NodeId) -> Record | None:
        """Return a member's record, or None."""
        record = self._over.get(node)
        if record is not None or node in self._over:
            return record
        return self.base.records.get(node)

    def known(self, node: NodeId) -> Known | None:
        """Return a member's record with the version of its contact, or None."""
        record = self.find(node)
        if record is None:
            return None
        return Known(record, self._behind.get(node, (record.epoch, record.incarnation)))

    def merge(self, record: Record, now: float) -> Change | None:
        """Take a record in; None: it told nothing new (a newer sketch is no news)."""
        old = self.find(record.node)
        if old is None:
            if record.order <= self._forgotten.get(record.node, ((-1, 0, 0), 0.0))[0]:
                return None
            known = known_from(record)
            self._store(None, known, now)
            return Change(None, record, rose=True)
        if self._says_nothing(old, record):
            return None
        before = Known(old, self._behind.get(record.node, (old.epoch, old.incarnation)))
        after = merge(before, known_from(record))
        if after is before:
            return None
        since = self.gone.get(record.node)
        self._store(before, after, now)
        rose = after.record.order > old.order
        return Change(old, after.record, rose, since) if rose or after.contact > before.contact else None

    def _says_nothing(self, old: Record, new: Record) -> bool:
        """Whether ``new`` is older in every part, by the cheapest test: most records of a flood arrive thrice."""
        if new.epoch > old.epoch or (new.epoch == old.epoch and new.incarnation > old.incarnation):
            return False
        same = new.epoch == old.epoch and new.incarnation == old.incarnation
        if same and (new.state > old.state or new.accuser != old.accuser):
            return False
        if new.sketch_step > old.sketch_step:
            return False
        return not has_contact(new) or (new.node not in self._behind and (not same or new == old))

    def put(self, record: Record, now: float) -> None:
        """Set a record whatever was known: a worker's word about itself, or what is only believed at home."""
        self._store(self.known(record.node), known_from(record), now)

    def _store(self, before: Known | None, after: Known, now: float) -> None:
        record, node = after.record, after.record.node
        if before is None:
            self._size += 1
            self._forgotten.pop(node, None)
            if node not in self.base.records:
                self.joined.append(node)
        else:
            self._count_out(before, bucket_of(node))
        self._over[node] = record
        if after.contact == (record.epoch, record.incarnation):
            self._behind.pop(node, None)
        else:
            self._behind[node] = after.contact
        self._count_in(after, bucket_of(node))
        if record.state <= MemberState.SUSPECT:
            self.gone.pop(node, None)
        elif before is None or before.record.state <= MemberState.SUSPECT:
            self.gone[node] = now

    def _count_out(self, known: Known, bucket: int) -> None:
        self._flip(known, bucket)
        if known.record.state <= MemberState.SUSPECT:
            self.key ^= member_key(known.record.node)
            self.count -= 1

    def _count_in(self, known: Known, bucket: int) -> None:
        self._flip(known, bucket)
        if known.record.state <= MemberState.SUSPECT:
            self.key ^= member_key(known.record.node)
            self.count += 1

    def _flip(self, known: Known, bucket: int) -> None:
        part = fingerprint(known.record, known.is_behind)
        self.buckets[bucket] ^= part
        self.digest ^= part

    def forget(self, before: float, until: float) -> None:
        """Drop tombstones from before ``before``; records as old as theirs stay ignored until ``until``.

        Otherwise a peer that buried them a little later would bring them back, and so on for ever.
        """
        for node in [node for node, since in self.gone.items() if since < before]:
            known = self.known(node)
            del self.gone[node]
            if known is None:
                continue
            self._count_out(known, bucket_of(node))
            self._size -= 1
            self._behind.pop(node, None)
            self._forgotten[node] = known.record.order, until
            if node in self.base.records:
                self._over[node] = None
            else:
                self._over.pop(node)
                self.joined.remove(node)
        self._forgotten = {node: kept for node, kept in self._forgotten.items() if kept[1] > before}

    def in_bucket(self, bucket: int) -> list[NodeId]:
        """Return the members of one bucket, expected ones included."""
        own = [node for node in self.base.nodes_in[bucket] if self._over.get(node, True) is not None]
        return own + [node for node in self.joined if bucket_of(node) == bucket]

    def at(self, place: int) -> NodeId | None:
        """Return the member in that place of some fixed order, 0 to ``places`` - 1; None: nobody is there any more."""
        ids = self.base.ids
        return ids[place] if place < len(ids) else self.joined[place - len(ids)]

    @property
    def places(self) -> int:
        """How many places :meth:`at` knows."""
        return len(self.base.ids) + len(self.joined)

    def view(self) -> tuple[NodeId, ...]:
        """Return who counts as present: expected, alive or suspected, sorted. O(members) unless remembered."""
        found = self.base.remembered(self.key)
        if found is None:
            found = tuple(sorted(node for node in self if self[node].state <= MemberState.SUSPECT))
            self.base.remember(self.key, found)
        return found

    def with_prefix(self, prefix: bytes) -> NodeId | None:
        """Return the member in the view whose id begins with ``prefix``, 8 bytes; O(members of one bucket)."""
        for node in self.in_bucket(prefix[0] % BUCKETS) if prefix else ():
            if node[:8] == prefix:
                return node
        return None
