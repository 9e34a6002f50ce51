"""Who this worker is, in its HELLO, and whom it lets in.

Admission rests on the run's key: a HELLO carries BLAKE2b-128 of the run's name under that key, compared in constant
time. On loopback nobody else can read it, so holders of the key are trusted with blosc2 payloads, whose decoder is not
safe on hostile bytes; on any other interface only raw and zlib are taken (docs/decisions).
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from dagrad_bus.blocks import Layout
from dagrad_bus.codec import Codec
from dagrad_bus.errors import LayoutMismatch, MalformedFrame, NotAdmitted, RemoteError, VersionMismatch
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.messages import TELLS_LINKS
from dagrad_bus.rendezvous import look_up
from dagrad_bus.settings import Settings
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.wire import Error, ErrorCode, Hello, HelloOk, MemberState, Record

MINOR = 0
"""Minor version of the wire spoken here."""
_CAPABILITY = {Codec.ZLIB: 1 << 0, Codec.BLOSC2_LZ4: 1 << 2, Codec.BLOSC2_ZSTD: 1 << 3}
_LAST_EPOCH = 1 << 62
"""Nanoseconds of the year 2116: no clock says more, so a file that does is wrong."""
_ERROR_CODES = {LayoutMismatch.code: ErrorCode.LAYOUT, VersionMismatch.code: ErrorCode.VERSION}
BACKOFF_MS = 60_000
"""How long a peer that trains another model, or speaks another version, stays away."""


def boot_epoch(settings: Settings) -> int:
    """Return nanoseconds of the wall clock, or more: a restart is newer even where the clock was set back.

    What the process before has told is in the run folder; where there is none, the clock alone decides.
    """
    before = look_up(settings.directory, settings.name) if settings.directory is not None else None
    known = before.epoch if before is not None and before.epoch < _LAST_EPOCH else 0
    return max(time.time_ns(), known + 1)


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of one worker.

    Args:
        settings: run, name, key, members.
        layout: what it trains.
        epoch: boot epoch: nanoseconds of the wall clock at start, so that a restart is newer.
    """

    settings: Settings
    layout: Layout
    epoch: int

    @property
    def node(self) -> NodeId:
        """This worker's id."""
        return derive_node_id(self.settings.run, self.settings.name)

    @property
    def roster(self) -> Mapping[NodeId, str]:
        """Ids and names of all launched workers; one that joins later does not stand there."""
        return {derive_node_id(self.settings.run, name): name for name in self.settings.members}

    @property
    def spec(self) -> TopologySpec:
        """The graph that the run starts with."""
        return TopologySpec(kind=self.settings.topology, degree=self.settings.degree)

    @property
    def proof(self) -> bytes:
        """What a HELLO shows to prove that its sender holds the run's key."""
        return blake2b(self.settings.run.encode(), key=self.settings.key[:64], digest_size=16).digest()

    @property
    def codecs(self) -> frozenset[Codec]:
        """Compressions this worker takes."""
        trusted = self.settings.transport.is_loopback and bool(self.settings.key)
        return frozenset(_CAPABILITY) if trusted else frozenset({Codec.ZLIB})

    def hello(self, inbox: str, beat: str) -> Hello:
        """Return this worker's HELLO; ``inbox`` and ``beat`` are the endpoints it tells others."""
        host, _, inbox_port = inbox.removeprefix("tcp://").rpartition(":")
        return Hello(
            node=self.node,
            job=self.proof,
            epoch=self.epoch,
            incarnation=0,
            layout=self.layout.digest,
            host=host,
            inbox_port=int(inbox_port),
            beat_port=int(beat.rpartition(":")[2]),
            name=self.settings.name,
            max_frame=self.settings.link.max_frame,
            minor=(0, MINOR),
            capabilities=sum(_CAPABILITY[codec] for codec in self.codecs) | TELLS_LINKS,
        )

    def admit(self, message: Hello | HelloOk) -> None:
        """Check a greeting.

        Raises:
            NotAdmitted: another run, a wrong key, or no member. Such a peer gets no answer.
            MalformedFrame: an address that no socket could connect to.
            VersionMismatch, LayoutMismatch: a member that cannot be talked to. Such a peer gets an ERROR.
        """
        if not hmac.compare_digest(message.job, self.proof):
            raise NotAdmitted(f"{message.name!r} belongs to another run, or does not hold this run's key")
        if message.node != derive_node_id(self.settings.run, message.name) or message.node == self.node:
            raise NotAdmitted(f"{message.name!r} is not who it says")
        if not message.host or not message.inbox_port or not message.beat_port:
            raise MalformedFrame(f"{message.name} listens at {message.host!r}: no address to connect to")
        if message.minor[0] > MINOR:
            raise VersionMismatch(f"{message.name} speaks wire 1.{message.minor[0]} and up, this worker 1.{MINOR}")
        visits = isinstance(message, Hello) and message.is_visitor
        if message.layout != self.layout.digest and not visits:
            name = self.settings.name
            raise LayoutMismatch(f"{message.name} trains another model than {name} ({self.layout.describe()})")

    def admits(self, record: Record) -> bool:
        """Whether a member heard of by others can be one: its id is that of its name in this run."""
        return bool(record.name) and record.node == derive_node_id(self.settings.run, record.name)

    def refusal(self, error: RemoteError) -> Error:
        """Return the ERROR that tells a member why it is refused."""
        code = _ERROR_CODES.get(error.code, ErrorCode.INTERNAL)
        return Error(code=code, text=str(error)[:200], fatal=True, backoff_ms=BACKOFF_MS)


def record_of(message: Hello | HelloOk) -> Record:
    """Return what a greeting says of its sender, as a line of the member table."""
    return Record(
        node=message.node,
        epoch=message.epoch,
        incarnation=message.incarnation,
        state=MemberState.ALIVE,
        host=message.host,
        inbox_port=message.inbox_port,
        beat_port=message.beat_port,
        name=message.name,
        public_key=message.public_key,
    )


def codecs_of(message: Hello | HelloOk) -> frozenset[Codec]:
    """Return the compressions a peer takes."""
    return frozenset(codec for codec, bit in _CAPABILITY.items() if message.capabilities & bit)
