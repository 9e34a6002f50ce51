"""One member's record as a lattice: three parts, each with its own 'newer', so merging needs no order of arrival.

* the *standing*: epoch, incarnation, state and who said so; the highest (epoch, incarnation, state) wins;
* the *contact*: address, name and key; versioned by the (epoch, incarnation) of the record that brought it, since a
  short record (what floods of SUSPECT and DEAD carry) says nothing about it;
* the *sketch*: the highest step wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b

from dagrad_bus.ids import NodeId
from dagrad_bus.messages import BUCKETS, MAX_RECORDS, MemberState, Record
from dagrad_bus.wire import fit_records

Version = tuple[int, int]
"""Epoch and incarnation."""
UNKNOWN: Version = (-1, -1)
"""Version of a contact that nothing is known of."""
SAFE_BYTES = 3800
"""So much of F1 may be records without a doubt that they fit."""


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of one member."""

    record: Record
    contact: Version
    """What the record's address, name and key belong to; behind the record's own version after a short record."""

    @property
    def is_behind(self) -> bool:
        """Whether the contact is older than the standing, so that a peer may know a newer address."""
        record = self.record
        return record.state <= MemberState.SUSPECT and self.contact < (record.epoch, record.incarnation)


def has_contact(record: Record) -> bool:
    """Whether a record is more than its first five fields: every member has a name."""
    return record.name != ""


def is_public(record: Record) -> bool:
    """Whether others may have a record.

    Whom one expects stays at home, but not that it was given up for good: a worker that starts later would wait for it,
    and compute another graph meanwhile.
    """
    return record.epoch > 0 or record.state is MemberState.DEAD


def known_from(record: Record) -> Known:
    """Return what one record says."""
    return Known(record, (record.epoch, record.incarnation) if has_contact(record) else UNKNOWN)


def merge(a: Known, b: Known) -> Known:
    """Return both together. Commutative, associative, idempotent; returns ``a`` itself where ``b`` adds nothing."""
    if b == a:
        return a
    standing = max(a.record, b.record, key=_standing)
    contact = max(a, b, key=_contact)
    sketch = max(a.record, b.record, key=_sketch)
    merged = Record(
        standing.node, standing.epoch, standing.incarnation, standing.state, standing.accuser,
        *_contact_fields(contact.record), sketch.sketch, sketch.sketch_step,
    )  # fmt: skip
    whole = Known(merged, contact.contact)
    return a if whole == a else whole


def _standing(record: Record) -> tuple[tuple[int, int, int], bytes]:
    return record.order, record.accuser


def _contact_fields(record: Record) -> tuple[str, int, int, str, bytes]:
    return record.host, record.inbox_port, record.beat_port, record.name, record.public_key


def _contact(known: Known) -> tuple[Version, tuple[str, int, int, str, bytes]]:
    return known.contact, _contact_fields(known.record)


def _sketch(record: Record) -> tuple[int, bytes]:
    return record.sketch_step, record.sketch


def bucket_of(node: NodeId) -> int:
    """Return the part of the table that a member belongs to."""
    return node[0] % BUCKETS


def fingerprint(record: Record, is_behind: bool) -> int:
    """Return a record's part in the digest, u64: 0 for an expected one, until it is given up.

    Covers id, epoch, incarnation, state, and whether the contact lags behind: so tables that differ in who knows an
    address have different digests, and repair each other.
    """
    if not record.epoch and record.state is not MemberState.DEAD:
        return 0
    numbers = b"%d %d %d %d" % (record.epoch, record.incarnation, record.state, is_behind)
    return int.from_bytes(blake2b(record.node + numbers, digest_size=8, person=b"dagrad-record-1").digest(), "little")


def short(record: Record) -> Record:
    """Return the first five fields."""
    return Record(record.node, record.epoch, record.incarnation, record.state, record.accuser)


def outward(known: Known) -> Record:
    """Return a record as others may have it: an address that may be outdated is not passed on as new."""
    return short(known.record) if known.is_behind else known.record


def accusation(record: Record, state: MemberState, accuser: NodeId) -> Record:
    """Return the short record that says ``state`` of a member."""
    return Record(record.node, record.epoch, record.incarnation, state, accuser[:8])


def softened(record: Record) -> Record:
    """Return a record that says at most SUSPECT: somebody's word against own evidence of life."""
    return replace(record, state=min(record.state, MemberState.SUSPECT))


def pieces(records: Iterable[Record]) -> list[tuple[Record, ...]]:
    """Cut records into what messages can carry; as :func:`dagrad_bus.wire.fit_records`, without packing small lots."""
    given = tuple(records)
    if len(given) <= MAX_RECORDS and sum(map(_most_bytes, given)) <= SAFE_BYTES:
        return [given] if given else []
    return fit_records(given)


def _most_bytes(record: Record) -> int:
    return 80 + len(record.host) + 4 * len(record.name) + len(record.public_key) + len(record.sketch)
