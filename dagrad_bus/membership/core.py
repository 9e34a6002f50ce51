"""The membership of one worker as others use it: messages and times in, actions out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from dagrad_bus.ids import NodeId, Step
from dagrad_bus.membership.actions import Actions, GraphMissing, MemberChanged
from dagrad_bus.membership.beacon import PERIOD, Beacon
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.detector import Detector
from dagrad_bus.membership.ledger import Admits, Ledger, Source
from dagrad_bus.membership.prober import Prober
from dagrad_bus.membership.repair import Repair
from dagrad_bus.membership.table import Base, Change, Table
from dagrad_bus.membership.watch import Watch
from dagrad_bus.membership.wiring import GraphSource, Wiring, no_graphs
from dagrad_bus.messages import (
    Gossip,
    Heartbeat,
    MemberState,
    Message,
    PingReq,
    PingRes,
    Pong,
    PpDigest,
    PpRecords,
    Record,
)
from dagrad_bus.settings import BeatSettings
from dagrad_bus.topology.live import TopologySpec

WEDGED = 2
"""Bit of a heartbeat's state."""
STALL = 1.0
"""Seconds that a worker must be late itself before it gives others that time."""
FAREWELLS, FAREWELL_GAP = 3, 0.1
TIDY = 60.0
_ASKED_IF_SPLIT = 3


def _nothing(now: float) -> None:
    """Every answer flushes the floods that are due."""


def everybody(record: Record) -> bool:
    """Admit whoever has a name."""
    return record.name != ""


class Membership:
    """Who is there, and who is a neighbour; a core without I/O, clock or chance of its own.

    Every input answers with actions in the order in which they should be carried out.

    Args:
        me: this worker's own record: epoch, incarnation 0, ALIVE, address and name.
        roster: id and name of everybody launched, expected until heard of; may lack this worker. Or a base of full
            records, shared between tables.
        spec: of the graph, until a newer one is heard of.
        settings: all times.
        rng: every random choice.
        now: seconds, monotonic.
        graph: finds the graph documents that specs of kind ``static`` name.
        admits: whether a member unknown so far is taken into the table; there is room for 10 000 whatever it says.
    """

    def __init__(
        self,
        me: Record,
        roster: Mapping[NodeId, str] | Base,
        spec: TopologySpec,
        settings: BeatSettings,
        rng: np.random.Generator,
        now: float,
        graph: GraphSource = no_graphs,
        admits: Admits = everybody,
    ) -> None:
        base = roster if isinstance(roster, Base) else Base.expected(roster)
        self._context = context = Context(me, settings, rng)
        self._table = Table(base, now)
        self._ledger = Ledger(context, self._table, admits)
        self._ledger.publish(me, now)
        self._prober = Prober(context, self._ledger, now)
        self._detector = Detector(context, self._ledger, self._prober)
        self._ledger.on_change = self._changed
        self._wiring = Wiring(context, self._table, self._ledger.rumours, spec, graph)
        self._prober.near = self._wiring.near
        self._repair = Repair(context, self._ledger, self._wiring, now)
        self._beacon = Beacon(now)
        self._excused = now
        self._farewells = 0
        self._due: dict[str, Callable[[float], None]] = self._duties()
        self._take: dict[type[object], Callable[..., None]] = {
            Gossip: self._gossip, Pong: self._pong, PingReq: self._prober.requested, PingRes: self._prober.result,
            PpDigest: self._repair.compared, PpRecords: self._repair.records,
        }  # fmt: skip
        self._begin(base, now)

    def _duties(self) -> dict[str, Callable[[float], None]]:
        return {
            "suspicion": self._ledger.judge, "silence": self._detector.silence, "pings": self._prober.expire,
            "probe": self._prober.backstop, "dead": self._probe_dead, "push_pull": self._repair.periodically,
            "again": self._repair.again, "beacon": self._turn, "grace": self._ledger.expire,
            "spec": self._wiring.look_again, "healed": self._ledger.report_healed, "leave": self._farewell,
            "tidy": self._tidy, "flood": _nothing, "relays": self._detector.keep_relays,
        }  # fmt: skip

    def _begin(self, base: Base, now: float) -> None:
        agenda, settings = self._context.agenda, self._context.settings
        agenda.put("flood", now)
        agenda.put("beacon", now + PERIOD)
        agenda.put("tidy", now + TIDY)
        if base.has_expected:
            agenda.put("grace", now + settings.grace)
        if self._table.gone:
            agenda.put("dead", now + self._context.spread(settings.dead_probe))
        self._rewire(now)
        self._context.out = [one for one in self._context.out if isinstance(one, GraphMissing)]

    # What is known ---------------------------------------------------------------------------------------------------

    @property
    def me(self) -> Record:
        """This worker's own record."""
        return self._context.me

    @property
    def table(self) -> Mapping[NodeId, Record]:
        """Records of all members, this worker and those gone included; read-only."""
        return MappingProxyType(self._table)

    @property
    def spec(self) -> TopologySpec:
        """The graph's spec in force."""
        return self._wiring.spec

    @property
    def neighbours(self) -> tuple[NodeId, ...]:
        """Whom this worker exchanges with, sorted."""
        return self._wiring.neighbours

    @property
    def view(self) -> tuple[NodeId, ...]:
        """Who counts as present (expected, alive, suspected), this worker included; sorted."""
        return self._table.view()

    @property
    def health(self) -> int:
        """0 (well) to 7: how far this worker distrusts its own judgement."""
        return self._context.health.score

    @property
    def digest(self) -> int:
        """u64 over table and spec."""
        return self._table.digest ^ self._wiring.fingerprint

    def state_of(self, node: NodeId) -> MemberState | None:
        """Return what is believed of a member; ALIVE for an expected one, None for a stranger."""
        record = self._table.find(node)
        return None if record is None else record.state

    def is_expected(self, node: NodeId) -> bool:
        """Whether a member was launched and not heard of yet."""
        record = self._table.find(node)
        return record is not None and not record.epoch and record.state is MemberState.ALIVE

    def record_of(self, node: NodeId) -> Record | None:
        """Return a member's record."""
        return self._table.find(node)

    def name_of(self, node: NodeId) -> str:
        """Return a member's name, or its id in hex."""
        return self._ledger.name_of(node)

    # What arrives ----------------------------------------------------------------------------------------------------

    def receive(self, peer: NodeId, message: Message, now: float) -> Actions:
        """Take any message of a member; also counts as life. Those of no concern here do just that."""
        if type(message) is Heartbeat:
            watch = self._context.watches.get(peer)
            if watch is not None and watch.is_plain:
                last = watch.beat
                if (
                    last is not None
                    and message.digest == self._table.digest ^ self._wiring.fingerprint
                    and message.epoch == last.epoch
                    and message.incarnation == last.incarnation
                    and message.state == last.state
                    and message.beacon <= self._beacon.count
                    and message.node == peer
                ):  # nothing but life: by far the most frequent message
                    if watch.beat_at:
                        watch.arrivals.add(now - watch.beat_at)
                    watch.beat = message
                    watch.beat_at = watch.heard_at = watch.since = now
                    watch.mismatches = 0
                    return ()
            self._beat(peer, message, now)
        elif peer != self.me.node:
            self._receive(peer, message, now)
        return self._finish(now)

    def _receive(self, peer: NodeId, message: Message, now: float) -> None:
        self._detector.heard(peer, now)
        take = self._take.get(message.__class__)
        if take is not None and (not self._context.is_leaving or isinstance(message, Gossip)):
            take(peer, message, now)

    def _beat(self, peer: NodeId, beat: Heartbeat, now: float) -> None:
        record = self._table.find(peer)
        if beat.node != peer or (record is not None and beat.epoch < record.epoch):
            return  # forged, or of a former process
        if record is not None and (beat.epoch, beat.incarnation) > (record.epoch, record.incarnation):
            word = Record(peer, beat.epoch, beat.incarnation, MemberState.ALIVE)
            self._ledger.learn(word, Source.SELF, peer, now)
        self._detector.heard(peer, now)
        watch = self._context.watches.get(peer)
        if watch is None or record is None:
            return
        self._notice_hang(watch, beat)
        self._detector.beat(watch, beat, now)
        self._beacon.heard(beat.beacon, now)
        if beat.spec_version > self._wiring.register.version:
            self._repair.compare(peer, now)
        if beat.digest == self.digest:
            watch.mismatches = 0
        else:
            self._repair.mismatched(watch, now)

    def _notice_hang(self, watch: Watch, beat: Heartbeat) -> None:
        was = watch.beat is not None and bool(watch.beat.state & WEDGED)
        if was != bool(beat.state & WEDGED):
            words = ("wedged", "training") if was else ("training", "wedged")
            why = f"{beat.progress_ms / 1000:.1f} s since its last step"
            self._context.out.append(MemberChanged(watch.node, self.name_of(watch.node), *words, why))

    def _gossip(self, peer: NodeId, message: Gossip, now: float) -> None:
        if message.spec is not None:
            self._wiring.offer(message.spec, now)
        for record in message.records:
            self._ledger.learn(record, Source.SELF if record.node == peer else Source.FLOOD, peer, now)

    def _pong(self, peer: NodeId, message: Pong, now: float) -> None:
        self._prober.pong(peer, message.nonce, now)
        if message.epoch and self._table.find(peer) is not None:
            word = Record(peer, message.epoch, message.incarnation, MemberState.ALIVE)
            self._ledger.learn(word, Source.SELF, peer, now)

    def heard(self, peer: NodeId, now: float) -> Actions:
        """Take note that some other message of a member arrived: it lives."""
        watch = self._context.watches.get(peer)
        if watch is not None and watch.is_plain:
            watch.heard_at = watch.since = now
            watch.is_connected = True
            return ()
        self._detector.heard(peer, now)
        return self._finish(now)

    def greeted(self, record: Record, now: float) -> Actions:
        """Take a member's HELLO or HELLO_OK: the newest word about itself, with its address."""
        known = self._table.find(record.node)
        if record.node != self.me.node and (known is None or record.epoch >= known.epoch):
            self._ledger.learn(record, Source.SELF, record.node, now)
            self._detector.heard(record.node, now)
        return self._finish(now)

    def refused(self, peer: NodeId, now: float) -> Actions:
        """Take note that the port of a member refused a connection."""
        self._detector.refused(peer, now)
        return self._finish(now)

    def watched(self, peer: NodeId, now: float) -> Actions:
        """Take note that the connection to a neighbour is up: its silence counts from now, tables are compared."""
        self._detector.watched(peer, now)
        self._repair.compare(peer, now)
        return self._finish(now)

    def compare(self, peer: NodeId, now: float) -> Actions:
        """Compare tables with any member, unless that was done just now."""
        self._repair.compare(peer, now)
        return self._finish(now)

    def lagged(self, lag: float, now: float) -> Actions:
        """Take note that the loop was ``lag`` seconds late. Over 1 s, drain every socket first, then call this."""
        self._context.health.lagged(lag, now)
        if lag > STALL:
            self._excuse(lag, now)
        return self._finish(now)

    def _excuse(self, lag: float, now: float) -> None:
        fresh = min(lag, now - self._excused)  # the same delay may be noticed twice
        self._excused = now
        if fresh > 0:
            self._detector.excuse(fresh, now)

    # What this worker does -------------------------------------------------------------------------------------------

    def leave(self, now: float) -> Actions:
        """Say LEFT, three times within 200 ms; nothing is judged and nothing refuted afterwards."""
        self._context.is_leaving = True
        self._farewells = FAREWELLS
        self._context.me = replace(self.me, state=MemberState.LEFT)
        self._farewell(now)
        return self._finish(now)

    def _farewell(self, now: float) -> None:
        self._ledger.publish(self.me, now)
        self._farewells -= 1
        if self._farewells:
            self._context.agenda.put("leave", now + FAREWELL_GAP)

    def propose(self, spec: TopologySpec, now: float) -> Actions:
        """Publish a spec of the graph; ignored unless it supersedes the newest one known."""
        self._wiring.offer(spec, now)
        return self._finish(now)

    def readdress(self, me: Record, now: float) -> Actions:
        """Publish other fields of this worker's own record; its incarnation rises."""
        mine = self.me
        if me.epoch <= mine.epoch:
            me = replace(me, epoch=mine.epoch, incarnation=mine.incarnation + 1)
        self._ledger.publish(replace(me, state=mine.state), now)
        return self._finish(now)

    def sketched(self, sketch: bytes, step: Step, now: float) -> Actions:
        """Take this worker's newest sketch: it rides in heartbeats and records, and is no news by itself."""
        self._context.me = replace(self.me, sketch=sketch, sketch_step=step)
        self._table.put(self.me, now)
        return ()

    def heartbeat(
        self, now: float, *, state: int, step: Step, rate: float, progress_ms: int = 0, lag_ms: int = 0
    ) -> Heartbeat:
        """Return what to broadcast now."""
        me, health = self.me, self._context.health
        health.recover(now)
        return Heartbeat(
            me.node, me.epoch, me.incarnation, state, step, rate, progress_ms, lag_ms, health.score, self._table.count,
            self._wiring.prefixes, self.digest, self._wiring.register.version, me.sketch, self._beacon.count,
        )  # fmt: skip

    # Time ------------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when :meth:`tick` has something to do."""
        return self._context.agenda.due

    def tick(self, now: float) -> Actions:
        """Do what is due. Called over a second late, this worker was late itself and judges nobody for it."""
        agenda = self._context.agenda
        if now < agenda.due:
            return ()
        if now - agenda.due > STALL:
            self._excuse(now - agenda.due, now)
        self._context.health.recover(now)
        for name in agenda.take(now):
            if not self._context.is_leaving or name == "leave":
                self._due[name](now)
        return self._finish(now)

    def _probe_dead(self, now: float) -> None:
        target = self._prober.next_dead(now)
        if target is not None:
            self._prober.try_dead(target)
            self._repair.compare(target, now)

    def _turn(self, now: float) -> None:
        self._context.agenda.put("beacon", now + PERIOD)
        root = next(iter(self._wiring.adjacency))  # in the order of ids
        record = self._table.find(root)
        is_known = record is not None and record.epoch > 0
        if self._beacon.turn(root, root == self.me.node, is_known, now):
            self._repair.compare_with_some(_ASKED_IF_SPLIT, now)

    def _tidy(self, now: float) -> None:
        self._context.agenda.put("tidy", now + TIDY)
        self._ledger.forget(now)

    def _changed(self, change: Change, now: float) -> None:
        self._detector.changed(change, now)
        if change.new.state is MemberState.DEAD:
            wait = self._context.spread(self._context.settings.dead_probe)
            self._context.agenda.sooner("dead", now + wait)

    def _rewire(self, now: float) -> None:
        if self._wiring.update(self._detector.apart, self._detector.through):
            self._detector.follow(self._wiring.neighbours, now)

    def _finish(self, now: float) -> Actions:
        self._rewire(now)
        self._ledger.rumours.flush(now)
        if not self._context.out:
            return ()
        out, self._context.out = self._context.out, []
        return out
