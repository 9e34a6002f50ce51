"""The table and what follows from each of its changes: suspicion, refutation, floods, events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from dagrad_bus.ids import NodeId
from dagrad_bus.membership.actions import Healed, MemberChanged, Superseded, Tell
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.records import accusation, has_contact, is_public, short, softened
from dagrad_bus.membership.rumours import Rumours
from dagrad_bus.membership.suspicion import Suspicion, Suspicions
from dagrad_bus.membership.table import Change, Table
from dagrad_bus.membership.watch import Watch
from dagrad_bus.messages import Gossip, MemberState, Record

LATELY = 1.5
"""Who was heard within so many seconds is not dead on somebody's word."""
MAX_MEMBERS = 10_000
"""Records of members that no roster named are taken up to here."""
TELL_AGAIN = 1.0
"""Seconds between two messages that tell a member what is said of it."""
HERALDS = 32
"""About so many of those that hear of an accusation tell it to the accused."""
MOST_MESSENGERS = 8
MOST_CONFIDED = 64
"""Own suspects that are told to a messenger from afar."""
EARLY = 0.5
"""Floods take some time: news of a death may come so many seconds before the shortest time is over here."""
MOST_LATELY = 512
_GATHER_HEALED, _LONGEST_GATHERING = 1.0, 5.0
_MAX_INCARNATION = (1 << 32) - 1
_WORDS = {
    MemberState.ALIVE: "alive",
    MemberState.SUSPECT: "suspect",
    MemberState.DEAD: "dead",
    MemberState.LEFT: "left",
}

Admits = Callable[[Record], bool]


class Source(Enum):
    """How a record came."""

    SELF = "the member itself"
    FLOOD = "a flood, or told directly"
    SYNC = "a comparison of tables"


def state_word(record: Record | None) -> str:
    """Return a member's state in one word."""
    if record is None:
        return "unknown"
    return "expected" if not record.epoch and record.state is MemberState.ALIVE else _WORDS[record.state]


def _ignore(change: Change, now: float) -> None:
    """Nobody is interested."""


class Ledger:
    """The member table of one worker, with the timers of those suspected.

    Args:
        context: shared.
        table: the members; this worker included.
        admits: whether a record of a member unknown so far is taken.
    """

    def __init__(self, context: Context, table: Table, admits: Admits) -> None:
        self.context = context
        self.table = table
        self.rumours = Rumours(context)
        self.suspicions = Suspicions()
        self.on_change: Callable[[Change, float], None] = _ignore
        """Called after a member's standing moved."""
        self._admits = admits
        self._lately: dict[NodeId, float] = {}
        self._messengers: dict[NodeId, list[NodeId]] = {}
        self._told: dict[NodeId, float] = {}
        self._healed: dict[NodeId, float] = {}
        self._healed_since = 0.0
        self._superseded = 0

    # Records that come ----------------------------------------------------------------------------------------------

    def learn(self, record: Record, source: Source, peer: NodeId, now: float) -> bool:
        """Take a record from ``peer``; whether it changed the table."""
        if record.node == self.context.me.node:
            return self._about_me(record, peer, now)
        old = self.table.find(record.node)
        if not is_public(record) or (old is None and not self._may_enter(record)):
            return False
        is_early = False
        if old is not None and record.state > MemberState.ALIVE:
            self._note_messenger(old, record, source, peer)
            word, record = record, self._weigh(old, record, now)
            is_early = record is not word and source is not Source.SYNC
        change = self.table.merge(record, now)
        if change is None:
            self._count_vote(record)
        else:
            self._pass_on(change, record)
            if change.rose:
                self._moved(change, self._reason(change, source, record, peer), now)
        if is_early and not self.heard_lately(record.node, now):
            self.suspicions.hurry(record.node)
            self._reschedule()
        return change is not None

    def _may_enter(self, record: Record) -> bool:
        return has_contact(record) and len(self.table) < MAX_MEMBERS and self._admits(record)

    def _note_messenger(self, old: Record, record: Record, source: Source, peer: NodeId) -> None:
        """Remember who brought an accusation and does not listen to this worker: it is told of the refutation."""
        if peer in self.context.watches or record.state is MemberState.LEFT or source is Source.SYNC:
            return
        if record.order < old.order:
            if old.state is MemberState.ALIVE:
                self.rumours.tell(peer, old)
            return
        messengers = self._messengers.setdefault(record.node, [])
        if peer not in messengers and len(messengers) < MOST_MESSENGERS:
            messengers.append(peer)

    def _weigh(self, old: Record, record: Record, now: float) -> Record:
        """Soften a DEAD that goes against own evidence of life, or comes before the accused could refute it here.

        Who says so may have been cut off from it, and those here not.
        """
        heard = self.heard_lately(record.node, now)
        if heard and record.order >= old.order and record.state is not MemberState.LEFT:
            self._tell_accused(record, now)
        is_early = self.suspicions.age(record.node, now) < self.context.settings.suspicion_min - EARLY
        is_believed_in = old.state <= MemberState.SUSPECT and old.epoch > 0
        if record.state is MemberState.DEAD and is_believed_in and (heard or is_early):
            return softened(record)
        return record

    def _count_vote(self, record: Record) -> None:
        if record.state is MemberState.SUSPECT and self.suspicions.confirm(record):
            self.rumours.add(short(record))
            self._reschedule()

    def _pass_on(self, change: Change, record: Record) -> None:
        new = change.new
        is_whole = has_contact(record) and new.order == record.order
        self.rumours.add(replace(new, sketch=b"", sketch_step=0) if is_whole else short(new))

    def _reason(self, change: Change, source: Source, record: Record, peer: NodeId) -> str:
        old, new = change.old, change.new
        if old is not None and old.state is MemberState.SUSPECT and new.state is MemberState.ALIVE:
            return "refuted"
        if source is Source.SELF:
            return "heard"
        way = "told by" if source is Source.FLOOD else "compared tables with"
        accuser = f", accused by {record.accuser.hex()}" if record.accuser else ""
        return f"{way} {self.name_of(peer)}{accuser}"

    def name_of(self, node: NodeId) -> str:
        """Return a member's name, or its id in hex."""
        record = self.table.find(node)
        return record.name if record is not None and record.name else node.hex()

    # What a change means --------------------------------------------------------------------------------------------

    def _moved(self, change: Change, why: str, now: float) -> None:
        old, new = change.old, change.new
        if new.state is MemberState.SUSPECT:
            self._suspect(new, now)
        else:
            self.suspicions.drop(new.node)
            messengers = self._messengers.pop(new.node, ())
            if new.state is MemberState.ALIVE:
                for peer in messengers:
                    self.rumours.tell(peer, new)
        if new.state is MemberState.ALIVE:
            self._back(change, now)
        self._announce(old, new, why)
        self.on_change(change, now)

    def _announce(self, old: Record | None, new: Record, why: str) -> None:
        before, after = state_word(old), _WORDS[new.state]
        if after == "alive":
            if old is None or (not old.epoch and old.state is MemberState.DEAD):
                after = "joined"
            elif old.epoch and (old.state >= MemberState.DEAD or new.epoch > old.epoch):
                after = "rejoined"
        if before != after:
            self.context.out.append(MemberChanged(new.node, new.name or new.node.hex(), before, after, why))

    def _suspect(self, record: Record, now: float) -> None:
        settings, factor = self.context.settings, self.context.health.factor
        longest, shortest = settings.suspicion * factor, settings.suspicion_min * factor
        suspicion = Suspicion(record, self.table.count - 2, longest, shortest, now)
        self.suspicions.start(record.node, suspicion)
        self._reschedule()
        if record.epoch and self.context.rng.random() * self.table.count < HERALDS:
            self._tell_accused(record, now)

    def _reschedule(self) -> None:
        self.context.agenda.put("suspicion", self.suspicions.due)

    def _back(self, change: Change, now: float) -> None:
        old, new = change.old, change.new
        if old is None or old.state is not MemberState.DEAD or old.epoch != new.epoch:
            return
        if not self._healed:
            self._healed_since = now
        since = now if change.gone_since is None else change.gone_since
        self._healed[new.node] = now - since
        self.context.agenda.put("healed", min(now + _GATHER_HEALED, self._healed_since + _LONGEST_GATHERING))

    def report_healed(self, now: float) -> None:
        """Say who came back, all at once."""
        if self._healed:
            self.context.out.append(Healed(tuple(sorted(self._healed)), max(self._healed.values())))
            self._healed.clear()

    # What this worker says of others --------------------------------------------------------------------------------

    def accuse(self, node: NodeId, now: float, why: str) -> bool:
        """Suspect a member that counts as present, or confirm another's suspicion; False: there is nothing to say."""
        old = self.table.find(node)
        if old is None or old.state > MemberState.SUSPECT or self.context.is_leaving:
            return False
        word = accusation(old, MemberState.SUSPECT, self.context.me.node)
        if old.state is MemberState.SUSPECT:
            self._count_vote(word)
        else:
            self._judge(old, MemberState.SUSPECT, why, now)
        if old.epoch:
            self._tell_accused(word, now)
        return True

    def judge(self, now: float) -> None:
        """Declare those dead whose time to refute is over."""
        for node, version in self.suspicions.take(now):
            old = self.table.find(node)
            if old is not None and old.state is MemberState.SUSPECT and (old.epoch, old.incarnation) == version:
                self._judge(old, MemberState.DEAD, "suspected, and did not refute", now)
        self._reschedule()

    def _judge(self, old: Record, state: MemberState, why: str, now: float) -> None:
        if old.epoch:
            word = accusation(old, state, self.context.me.node)
            self.table.merge(word, now)
            self.rumours.add(word)
        else:  # never heard of: suspected at home only, so that all others wait just as long
            word = replace(old, state=state)
            self.table.put(word, now)
            if is_public(word):
                self.rumours.add(word)
        self._moved(Change(old, self.table[old.node], rose=True), why, now)

    def expire(self, now: float) -> None:
        """Suspect whoever was expected and never came."""
        for node in [node for node, record in self.table.items() if state_word(record) == "expected"]:
            self.accuse(node, now, "expected, and never heard of")

    # Signs of life ---------------------------------------------------------------------------------------------------

    def heard(self, node: NodeId, now: float) -> None:
        """Take note of a message of a member: what others say of it is told to it, so that it can refute."""
        if len(self._lately) >= MOST_LATELY:
            self._lately = {one: at for one, at in self._lately.items() if now - at < LATELY}
        if len(self._lately) < MOST_LATELY:
            self._lately[node] = now
        record = self.table.find(node)
        if record is None or record.state is MemberState.ALIVE or record.state is MemberState.LEFT:
            return
        self.suspicions.restart(node, now)
        if record.epoch:
            self._tell_accused(record, now)

    def keep(self, node: NodeId, watch: Watch) -> None:
        """Keep what a neighbour said, now that it is none any more."""
        if len(self._lately) < MOST_LATELY:
            self._lately[node] = watch.heard_at
        record = self.table.find(node)
        if record is not None and watch.beat is not None and watch.beat.sketch:
            self.table.merge(
                replace(short(record), sketch=watch.beat.sketch, sketch_step=watch.beat.step), watch.heard_at
            )

    def vouched(self, node: NodeId, by: NodeId, now: float) -> None:
        """Take note that another worker heard a member; that one brings the refutation of what is said of it."""
        self.suspicions.restart(node, now)
        record = self.table.find(node)
        if record is not None and record.epoch and record.state is MemberState.SUSPECT:
            self.rumours.tell(by, short(record))

    def heard_lately(self, node: NodeId, now: float) -> bool:
        """Whether a member spoke within the last second."""
        watch = self.context.watches.get(node)
        at = self._lately.get(node, -LATELY) if watch is None else watch.heard_at
        return now - at < LATELY

    def _tell_accused(self, record: Record, now: float) -> None:
        if now - self._told.get(record.node, -TELL_AGAIN) < TELL_AGAIN or self.context.is_leaving:
            return
        if len(self._told) >= MOST_LATELY:
            self._told = {node: at for node, at in self._told.items() if now - at < TELL_AGAIN}
        if len(self._told) < MOST_LATELY:
            self._told[record.node] = now
            self.context.out.append(Tell(record.node, Gossip((short(record),))))

    # This worker itself ----------------------------------------------------------------------------------------------

    def _about_me(self, record: Record, peer: NodeId, now: float) -> bool:
        me = self.context.me
        if record.epoch > me.epoch:
            if record.epoch > self._superseded:
                self._superseded = record.epoch
                self.context.out.append(Superseded(record.epoch))
            return False
        if self.context.is_leaving or (record.state is MemberState.ALIVE and record.epoch != me.epoch):
            return False
        is_news = record.epoch == me.epoch and record.order > me.order
        if is_news and record.incarnation < _MAX_INCARNATION:
            self._refute(record, peer, now)
        if record.state > MemberState.ALIVE and peer not in self.context.watches:
            self._answer(record, peer, now)
        return is_news

    def _answer(self, record: Record, peer: NodeId, now: float) -> None:
        """Tell who brought an accusation, and does not listen to this worker, that it lives.

        Where the accuser is not heard here, the messenger reaches both: it is told whom this worker suspects too.
        """
        self.rumours.tell(peer, self.context.me)
        accuser = self.table.with_prefix(record.accuser)
        if accuser in (None, peer) or self.heard_lately(accuser, now):
            return
        self.context.use_relay(peer, now)
        for node in list(self.suspicions)[:MOST_CONFIDED]:
            if (suspect := self.table[node]).epoch:
                self.rumours.tell(peer, short(suspect))

    def _refute(self, record: Record, peer: NodeId, now: float) -> None:
        """Say that this worker lives, in a higher incarnation."""
        me = replace(self.context.me, incarnation=record.incarnation + 1)
        self.publish(me, now)
        self.context.health.worsen(1, now)
        if record.state is MemberState.ALIVE:
            return
        if record.state is MemberState.DEAD:  # they may have stopped listening
            for one in sorted(self.context.watches):
                self.rumours.tell(one, me)
        is_dead = record.state >= MemberState.DEAD
        was, new = _WORDS[record.state], "rejoined" if is_dead else "alive"
        why = f"refuted what {record.accuser.hex() or self.name_of(peer)} said"
        self.context.out.append(MemberChanged(me.node, me.name, was, new, why))

    def publish(self, me: Record, now: float) -> None:
        """Set and flood this worker's own record."""
        self.context.me = me
        self.table.put(me, now)
        self.rumours.add(replace(me, sketch=b"", sketch_step=0))

    def forget(self, now: float) -> None:
        """Drop old tombstones."""
        keep = self.context.settings.tombstone
        self.table.forget(now - keep, now + keep)
