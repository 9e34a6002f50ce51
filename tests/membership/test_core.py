"""Whole clusters of membership cores on a toy wire, in virtual time; and the face of one core."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.ids import NodeId, Step, derive_node_id
from dagrad_bus.membership import (
    Action,
    Actions,
    Base,
    Flood,
    GraphMissing,
    Healed,
    MemberChanged,
    Membership,
    NeighboursChanged,
    Superseded,
    Tell,
)
from dagrad_bus.messages import (
    Gossip,
    Heartbeat,
    MemberState,
    Message,
    Ping,
    PingReq,
    PingRes,
    Pong,
    PpDigest,
    PpRecords,
    Record,
)
from dagrad_bus.settings import BeatSettings
from dagrad_bus.topology.live import TopologySpec, neighbours
from dagrad_bus.topology.static import StaticGraph

SETTINGS = BeatSettings()
SPEC = TopologySpec()


def ids_of(count: int) -> dict[NodeId, str]:
    return {derive_node_id("test", f"w{i}"): f"w{i}" for i in range(count)}


def record_of(node: NodeId, name: str, epoch: int = 1) -> Record:
    return Record(node, epoch, 0, MemberState.ALIVE, host="h", inbox_port=1, beat_port=2, name=name)


@dataclass
class Host:
    """One worker: a core and the little that drives it."""

    core: Membership
    life: int
    """Rises with every start, so that events of a former process are void."""
    is_up: bool = True
    refuses: bool = True
    """Down: the host still answers, so connections are refused."""
    is_paused: bool = False
    paused_at: float = 0.0
    state: int = 1
    backlog: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    links: set[NodeId] = field(default_factory=set[NodeId])
    """Whose broadcasts are heard."""


class Cluster:
    """Cores joined by a wire with a latency, losses and cuts."""

    def __init__(self, count: int, seed: int = 0, spec: TopologySpec = SPEC, *, late: int = 0) -> None:
        self.now = 0.0
        self.rng = np.random.default_rng(seed)
        self.names = ids_of(count + late)
        self.ids = list(self.names)
        self.roster = dict(list(self.names.items())[:count])
        self.spec = spec
        self.loss = 0.0
        self.cut: Callable[[NodeId, NodeId], bool] = lambda a, b: False
        """Whether nothing gets from a to b."""
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.log: list[tuple[float, NodeId, Action]] = []
        self.hosts: dict[NodeId, Host] = {}
        for node in self.ids[:count]:
            self.start(node)

    def after(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + delay, next(self.order), what))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.events and self.events[0][0] <= end:
            self.now, _, what = heapq.heappop(self.events)
            what()
        self.now = end

    def run_until(self, done: Callable[[], bool], limit: float) -> float:
        """Run until a condition holds; return how long it took."""
        start = self.now
        while not done():
            assert self.now - start < limit, f"not within {limit} s"
            self.run(0.05)
        return self.now - start

    def start(self, node: NodeId) -> None:
        """Start a process, or start it anew with a higher epoch."""
        life = self.hosts[node].life + 1 if node in self.hosts else 1
        me = record_of(node, self.names[node], epoch=life)
        core = Membership(
            me, self.roster, self.spec, SETTINGS, np.random.default_rng(self.rng.integers(1 << 60)), self.now
        )
        host = self.hosts[node] = Host(core, life)
        self.connect(node, core.neighbours)
        self.after(float(self.rng.random()), lambda: self.on(host, lambda: self.beat(node, host)))
        self.after(0.0, lambda: self.on(host, lambda: self.tick(node, host)))

    def on(self, host: Host, what: Callable[[], None]) -> None:
        """Do something at a host: now, after its pause, or never."""
        if host.is_paused:
            host.backlog.append(what)
        elif host.is_up and self.hosts[host.core.me.node] is host:
            what()

    def beat(self, node: NodeId, host: Host) -> None:
        message = host.core.heartbeat(self.now, state=host.state, step=Step(1), rate=1.0)
        self.broadcast(node, message)
        delay = 0.9 + 0.2 * float(self.rng.random())
        self.after(delay, lambda: self.on(host, lambda: self.beat(node, host)))

    def tick(self, node: NodeId, host: Host) -> None:
        self.do(node, host.core.tick(self.now))
        delay = min(max(host.core.next_deadline() - self.now, 0.0), 0.1)
        self.after(delay + 0.001, lambda: self.on(host, lambda: self.tick(node, host)))

    def reaches(self, a: NodeId, b: NodeId) -> bool:
        return b in self.hosts and not self.cut(a, b)

    def broadcast(self, node: NodeId, message: Heartbeat | Gossip) -> None:
        for other, host in self.hosts.items():
            if node in host.links and self.reaches(node, other) and self.rng.random() >= self.loss:
                self.deliver(other, lambda h, m=message: h.core.receive(node, m, self.now))  # type: ignore[misc]

    def deliver(self, to: NodeId, what: Callable[[Host], Actions]) -> None:
        host = self.hosts[to]
        latency = 0.001 + 0.004 * float(self.rng.random())
        self.after(latency, lambda: self.on(host, lambda: self.do(to, what(host))))

    def do(self, node: NodeId, actions: Actions) -> None:
        for action in actions:
            self.log.append((self.now, node, action))
            match action:
                case Flood(message=message):
                    self.broadcast(node, message)
                case Tell(peer=peer, message=message):
                    self.tell(node, peer, message)
                case NeighboursChanged():
                    self.connect(node, action.added)
                    removed = set(action.removed)
                    host = self.hosts[node]
                    self.after(5.0, lambda h=host, r=removed: h.links.difference_update(r - set(h.core.neighbours)))  # type: ignore[misc]
                case _:
                    pass

    def tell(self, node: NodeId, peer: NodeId, message: Message) -> None:
        if not self.reaches(node, peer) or not self.reaches(peer, node):
            return
        if not self.hosts[peer].is_up:
            if self.hosts[peer].refuses:
                self.deliver(node, lambda host: host.core.refused(peer, self.now))
            return
        me = self.hosts[node].core.me
        if node not in self.hosts[peer].links:
            self.deliver(peer, lambda host: host.core.greeted(me, self.now))
        if isinstance(message, Ping):
            answer = Pong(message.nonce, 0, 0)
            self.deliver(peer, lambda host: host.core.heard(node, self.now))
            self.deliver(peer, lambda host: self.answer(peer, node, answer))
        else:
            self.after(0.005, lambda: self.deliver(peer, lambda host: host.core.receive(node, message, self.now)))

    def answer(self, node: NodeId, peer: NodeId, message: Message) -> Actions:
        self.tell(node, peer, message)
        return ()

    def connect(self, node: NodeId, others: tuple[NodeId, ...]) -> None:
        host = self.hosts[node]
        for other in others:
            host.links.add(other)
            self.after(0.02, lambda o=other: self.on(host, lambda: self.connected(node, o)))  # type: ignore[misc]

    def connected(self, node: NodeId, other: NodeId) -> None:
        """One attempt; further ones once a second, as the transport makes them."""
        host = self.hosts[node]
        if other not in host.core.neighbours:
            return
        if not self.reaches(node, other) or not self.reaches(other, node):
            self.after(1.0, lambda: self.on(host, lambda: self.connected(node, other)))
        elif not self.hosts[other].is_up:
            if self.hosts[other].refuses:
                self.do(node, host.core.refused(other, self.now))
            self.after(1.0, lambda: self.on(host, lambda: self.connected(node, other)))
        else:
            me = host.core.me
            self.deliver(other, lambda h: h.core.greeted(me, self.now))
            if not self.hosts[other].is_paused:
                theirs = self.hosts[other].core.me
                self.deliver(node, lambda h: h.core.greeted(theirs, self.now))
            self.deliver(node, lambda h: h.core.watched(other, self.now))

    def crash(self, node: NodeId, *, refuses: bool = True) -> None:
        """Kill a process; its neighbours see the connection break and the next attempt refused."""
        self.hosts[node].is_up = False
        self.hosts[node].refuses = refuses
        if refuses:
            for other, host in self.hosts.items():
                if node in host.links:
                    delay = 0.15 + 0.2 * float(self.rng.random())
                    self.after(delay, lambda o=other: self.deliver(o, lambda h: h.core.refused(node, self.now)))  # type: ignore[misc]

    def pause(self, node: NodeId) -> None:
        self.hosts[node].is_paused = True
        self.hosts[node].paused_at = self.now

    def resume(self, node: NodeId) -> None:
        """What waits in the queues is taken first, then the delay is known, then timers run."""
        host = self.hosts[node]
        host.is_paused = False
        backlog, host.backlog = host.backlog, []
        for what in backlog:
            what()
        self.do(node, host.core.lagged(self.now - host.paused_at, self.now))

    # Questions

    def up(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.is_up]

    def everywhere(self, node: NodeId, state: MemberState) -> bool:
        return all(host.core.state_of(node) is state for host in self.up() if host.core.me.node != node)

    def all_alive(self) -> bool:
        return all(self.everywhere(host.core.me.node, MemberState.ALIVE) for host in self.up()) and not any(
            host.core.is_expected(other.core.me.node) for host in self.up() for other in self.up()
        )

    def tables_equal(self) -> bool:
        cores = [host.core for host in self.up()]
        tables = [{n: r.order for n, r in core.table.items() if r.epoch} for core in cores]
        return all(t == tables[0] for t in tables) and len({core.digest for core in cores}) == 1

    def graph_is_one(self) -> bool:
        """Equal views, and everybody has the neighbours of the pure function."""
        return len({host.core.view for host in self.up()}) == 1 and all(
            host.core.neighbours == neighbours(host.core.me.node, host.core.view, host.core.spec) for host in self.up()
        )

    def changes(self, *kinds: str, since: float = 0.0) -> list[tuple[float, NodeId, MemberChanged]]:
        return [
            (at, by, action)
            for at, by, action in self.log
            if isinstance(action, MemberChanged) and action.new in kinds and at >= since and action.node != by
        ]

    def warm(self) -> None:
        self.run_until(lambda: self.all_alive() and self.tables_equal(), 10.0)
        self.run(10.0)
        self.log.clear()


def test_a_cluster_comes_up_agrees_and_stays_quiet() -> None:
    cluster = Cluster(16)
    took = cluster.run_until(lambda: cluster.all_alive() and cluster.tables_equal(), 5.0)
    assert took <= 4.0
    cluster.run(5.0)
    cluster.log.clear()
    cluster.run(30.0)
    assert cluster.changes("suspect", "dead", "left") == []
    assert cluster.graph_is_one()
    assert not [action for _, _, action in cluster.log if isinstance(action, Flood)]


def detection_times(count: int, seeds: range, *, refuses: bool) -> list[float]:
    times: list[float] = []
    for seed in seeds:
        cluster = Cluster(count, seed)
        cluster.warm()
        cluster.run(float(cluster.rng.random()))
        victim = cluster.ids[int(cluster.rng.integers(count))]
        cluster.crash(victim, refuses=refuses)
        times.append(cluster.run_until(lambda c=cluster, v=victim: c.everywhere(v, MemberState.DEAD), 15.0))  # type: ignore[misc]
        assert {action.node for _, _, action in cluster.changes("dead")} == {victim}
        assert cluster.graph_is_one()
    return times


def test_a_crash_is_known_everywhere_in_two_and_a_half_seconds() -> None:
    times = detection_times(16, range(3), refuses=True)
    assert np.median(times) <= 2.6 and max(times) <= 5.0, times


def test_a_lost_host_is_known_everywhere_in_five_and_a_half() -> None:
    times = detection_times(16, range(3), refuses=False)
    assert np.median(times) <= 5.6 and max(times) <= 12.0, times


def test_a_short_pause_is_refuted() -> None:
    cluster = Cluster(16, seed=1)
    cluster.warm()
    victim = cluster.ids[3]
    cluster.pause(victim)
    cluster.run(4.0)
    cluster.resume(victim)
    cluster.run(20.0)
    assert cluster.changes("dead") == []
    assert {action.node for _, _, action in cluster.changes("suspect")} <= {victim}
    assert cluster.all_alive() and cluster.tables_equal() and cluster.graph_is_one()


def test_a_pause_of_two_seconds_kills_nobody() -> None:
    cluster = Cluster(16, seed=2)
    cluster.warm()
    for victim in cluster.ids[:3]:
        cluster.pause(victim)
    cluster.run(2.0)
    for victim in cluster.ids[:3]:
        cluster.resume(victim)
    cluster.run(20.0)
    assert cluster.changes("dead") == []
    assert cluster.all_alive() and cluster.tables_equal()


@pytest.mark.parametrize("seed", range(2))
def test_after_a_long_pause_a_worker_comes_back_and_declares_nobody_dead(seed: int) -> None:
    cluster = Cluster(16, seed)
    cluster.warm()
    victim = cluster.ids[5]
    cluster.pause(victim)
    cluster.run(20.0)
    assert cluster.everywhere(victim, MemberState.DEAD)
    cluster.resume(victim)
    cluster.run_until(lambda: cluster.all_alive() and cluster.tables_equal(), 5.0)
    assert cluster.hosts[victim].core.me.incarnation == 1
    assert not [one for one in cluster.changes("dead") if one[1] == victim or one[2].node != victim]
    cluster.run(10.0)
    assert cluster.graph_is_one()
    healed = [action for _, _, action in cluster.log if isinstance(action, Healed)]
    assert healed and all(action.members == (victim,) and 5 < action.outage < 21 for action in healed)


@pytest.mark.parametrize("seed", [0])
def test_a_partition_heals(seed: int) -> None:
    cluster = Cluster(16, seed)
    cluster.warm()
    side = set(cluster.ids[:8])
    cluster.cut = lambda a, b: (a in side) != (b in side)
    cluster.run(60.0)
    for host in cluster.up():
        assert set(host.core.view) == (side if host.core.me.node in side else set(cluster.ids) - side)
        own = neighbours(host.core.me.node, host.core.view, SPEC)
        assert host.core.neighbours == own
    cluster.cut = lambda a, b: False
    took = cluster.run_until(lambda: cluster.all_alive() and cluster.tables_equal(), 15.0)
    assert took <= 15.0
    cluster.run(5.0)
    assert cluster.graph_is_one()
    back = {n for _, by, a in cluster.log if isinstance(a, Healed) and by in side for n in a.members}
    assert back == set(cluster.ids) - side


def test_broadcasts_may_be_lost() -> None:
    cluster = Cluster(16, seed=3)
    cluster.loss = 0.3
    cluster.run(30.0)
    cluster.log.clear()
    cluster.crash(cluster.ids[2])
    cluster.run_until(lambda: cluster.everywhere(cluster.ids[2], MemberState.DEAD), 10.0)
    cluster.run(30.0)
    assert {action.node for _, _, action in cluster.changes("dead")} == {cluster.ids[2]}
    cluster.start(cluster.ids[2])
    cluster.run_until(lambda: cluster.all_alive() and cluster.tables_equal(), 10.0)


def test_a_restart_in_place_wins_by_its_epoch() -> None:
    cluster = Cluster(8, seed=4)
    cluster.warm()
    cluster.crash(cluster.ids[1])
    cluster.run(1.0)
    cluster.start(cluster.ids[1])
    cluster.run_until(lambda: cluster.all_alive() and cluster.tables_equal(), 5.0)
    assert all(host.core.table[cluster.ids[1]].epoch == 2 for host in cluster.up())
    assert cluster.changes("rejoined")
    cluster.run(15.0)
    assert cluster.changes("dead") == []


def test_who_leaves_is_never_suspected() -> None:
    cluster = Cluster(16, seed=5)
    cluster.warm()
    leaver = cluster.ids[7]
    cluster.do(leaver, cluster.hosts[leaver].core.leave(cluster.now))
    cluster.run_until(lambda: cluster.everywhere(leaver, MemberState.LEFT), 1.0)
    cluster.run(0.3)
    cluster.crash(leaver)
    cluster.run(20.0)
    assert cluster.changes("suspect", "dead") == []
    assert cluster.graph_is_one()


def test_a_late_worker_joins() -> None:
    cluster = Cluster(8, seed=6, late=1)
    cluster.warm()
    cluster.start(cluster.ids[8])
    cluster.run_until(lambda: cluster.all_alive() and cluster.tables_equal(), 5.0)
    cluster.run(2.0)
    assert cluster.graph_is_one()
    assert {(action.node, action.old) for _, _, action in cluster.changes("joined")} == {(cluster.ids[8], "unknown")}


def test_churn() -> None:
    cluster = Cluster(24, seed=7)
    cluster.warm()
    down: list[NodeId] = []
    for turn in range(8):
        victim = cluster.ids[turn]
        cluster.crash(victim, refuses=bool(turn % 2))
        down.append(victim)
        cluster.run(4.0)
        if turn % 2:
            cluster.start(down.pop(0))
        cluster.run(4.0)
    cluster.run(15.0)
    assert all(cluster.everywhere(node, MemberState.DEAD) for node in down)
    for node in down:
        cluster.start(node)
    cluster.run_until(lambda: cluster.all_alive() and cluster.tables_equal(), 10.0)
    cluster.run(3.0)
    assert cluster.graph_is_one()
    assert {action.node for _, _, action in cluster.changes("dead")} <= set(cluster.ids[:8])


def test_half_of_all_crash_at_once() -> None:
    cluster = Cluster(32, seed=8)
    cluster.warm()
    for victim in cluster.ids[:16]:
        cluster.crash(victim, refuses=False)
    cluster.run(40.0)
    assert all(cluster.everywhere(victim, MemberState.DEAD) for victim in cluster.ids[:16])
    assert cluster.graph_is_one()
    assert {action.node for _, _, action in cluster.changes("dead")} == set(cluster.ids[:16])


def test_one_direction_cut_between_two_neighbours_does_not_flap() -> None:
    cluster = Cluster(16, seed=9)
    cluster.warm()
    mute = cluster.ids[0]
    deaf = cluster.hosts[mute].core.neighbours[0]
    cluster.cut = lambda a, b: (a, b) == (mute, deaf)
    cluster.run(150.0)
    assert cluster.changes("dead") == []
    for observer in cluster.ids[1:]:
        states = [
            at for at, by, action in cluster.changes("suspect", "alive") if by == observer and action.node == mute
        ]
        assert len(states) <= 2 * 3
        assert all(sum(start <= at < start + 60 for at in states) <= 2 for start in states), states
    extra = set(cluster.hosts[deaf].core.neighbours) - set(neighbours(deaf, cluster.ids, SPEC))
    assert len(extra) == 1  # another member stands in
    cluster.cut = lambda a, b: False
    cluster.run(15.0)
    assert cluster.graph_is_one()


def test_a_worker_that_hears_nobody_changes_little() -> None:
    cluster = Cluster(16, seed=10)
    cluster.warm()
    deaf = cluster.ids[4]
    cluster.cut = lambda a, b: b == deaf
    cluster.run(60.0)
    for observer in cluster.ids:
        if observer != deaf:
            for node in cluster.ids:
                seen = [
                    a.new
                    for _, by, a in cluster.changes("suspect", "alive", "dead", "rejoined")
                    if (by, a.node) == (observer, node)
                ]
                assert len(seen) <= 4, seen
    cluster.cut = lambda a, b: False
    cluster.run_until(lambda: cluster.all_alive() and cluster.tables_equal(), 15.0)


def test_a_bridge_keeps_two_sides_together() -> None:
    cluster = Cluster(5, seed=11)  # a complete graph: the bridge is everybody's neighbour
    cluster.warm()
    side, bridge = set(cluster.ids[:2]), cluster.ids[4]
    cluster.cut = lambda a, b: bridge not in (a, b) and (a in side) != (b in side)
    cluster.run(120.0)
    assert cluster.changes("dead") == []
    for observer in cluster.ids:
        for node in cluster.ids:
            accused = [at for at, by, a in cluster.changes("suspect") if (by, a.node) == (observer, node)]
            assert len(accused) <= 4, accused
    beacons = {host.core.heartbeat(cluster.now, state=1, step=Step(1), rate=1.0).beacon for host in cluster.up()}
    assert max(beacons) - min(beacons) <= 1


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_bridge_with_neighbours_in_one_half_only_keeps_both_together(seed: int) -> None:
    cluster = Cluster(16, 20 + seed)
    cluster.warm()
    bridge = cluster.ids[seed]
    near = set(cluster.hosts[bridge].core.neighbours)
    right = {*near, *[node for node in cluster.ids if node != bridge and node not in near][:4]}
    cluster.cut = lambda a, b: bridge not in (a, b) and (a in right) != (b in right)
    cluster.run(130.0)
    assert cluster.changes("dead") == []
    accused: dict[tuple[NodeId, NodeId], list[float]] = {}
    for at, by, action in cluster.changes("suspect"):
        if not action.why.startswith(("told by", "compared")):
            accused.setdefault((by, action.node), []).append(at)
    assert accused
    assert all(b - a >= 60 for times in accused.values() for a, b in itertools.pairwise(times)), accused
    beacons = {host.core.heartbeat(cluster.now, state=1, step=Step(1), rate=1.0).beacon for host in cluster.up()}
    assert max(beacons) - min(beacons) <= 3
    assert set(cluster.hosts[bridge].core.neighbours) - right  # it takes those it stands in for
    cluster.cut = lambda a, b: False
    cluster.run(40.0)
    assert cluster.tables_equal() and cluster.graph_is_one()


@pytest.mark.row(37, layer="L1")
def test_two_specs_at_once_one_wins_everywhere() -> None:
    cluster = Cluster(16, seed=12)
    cluster.warm()
    a, b = cluster.ids[0], cluster.ids[9]
    for author in (a, b):
        spec = TopologySpec(version=1, author=author, epoch=author[0])
        cluster.do(author, cluster.hosts[author].core.propose(spec, cluster.now))
    cluster.run(1.0)
    winner = max(a, b)
    assert {host.core.spec.author for host in cluster.up()} == {winner}
    assert cluster.graph_is_one() and cluster.tables_equal()


def test_a_spec_that_missed_the_flood_spreads_by_comparison() -> None:
    cluster = Cluster(16, seed=13)
    cluster.warm()
    cluster.loss = 1.0
    spec = TopologySpec(version=1, kind="ring")
    cluster.do(cluster.ids[0], cluster.hosts[cluster.ids[0]].core.propose(spec, cluster.now))
    cluster.run(0.2)
    cluster.loss = 0.0
    cluster.run_until(lambda: all(host.core.spec == spec for host in cluster.up()), 10.0)
    cluster.run(1.0)
    assert cluster.graph_is_one()
    assert all(len(host.core.neighbours) == 2 for host in cluster.up())


def test_a_flash_start_over_a_minute_accuses_nobody() -> None:
    cluster = Cluster(16, seed=14)
    late = cluster.ids[4:]
    for node in late:  # not started yet
        cluster.hosts[node].is_up = False
    for place, node in enumerate(late):
        cluster.after(5.0 * (place + 1), lambda n=node: cluster.start(n))  # type: ignore[misc]
    cluster.run(60.5)
    cluster.run_until(lambda: cluster.all_alive() and cluster.tables_equal(), 5.0)
    assert cluster.changes("suspect", "dead") == []
    assert cluster.graph_is_one()


def test_whoever_never_comes_is_given_up_after_the_grace() -> None:
    cluster = Cluster(8, seed=15)
    absent = cluster.ids[3]
    cluster.hosts[absent].is_up = False
    cluster.run(119.0)
    assert all(host.core.is_expected(absent) and absent in host.core.view for host in cluster.up())
    cluster.run(15.0)
    assert cluster.everywhere(absent, MemberState.DEAD) and cluster.graph_is_one()
    assert {action.node for _, _, action in cluster.changes("dead")} == {absent}


def test_a_worker_that_starts_after_the_grace_does_not_wait_for_who_never_came() -> None:
    cluster = Cluster(9, seed=18)
    absent, late = cluster.ids[3], cluster.ids[6]
    cluster.hosts[absent].is_up = False
    cluster.run(135.0)
    cluster.crash(late)
    cluster.run(5.0)
    cluster.start(late)
    cluster.run_until(lambda: cluster.tables_equal() and cluster.graph_is_one(), 5.0)
    assert cluster.hosts[late].core.state_of(absent) is MemberState.DEAD
    cluster.start(absent)
    cluster.run_until(lambda: cluster.all_alive() and cluster.tables_equal() and cluster.graph_is_one(), 5.0)


def test_a_rolling_restart_suspects_nobody() -> None:
    cluster = Cluster(12, seed=16)
    cluster.warm()
    for node in cluster.ids:
        cluster.do(node, cluster.hosts[node].core.leave(cluster.now))
        cluster.run(0.3)
        cluster.crash(node)
        cluster.run(2.0)
        cluster.start(node)
        cluster.run(1.0)
    cluster.run_until(lambda: cluster.all_alive() and cluster.tables_equal(), 5.0)
    assert cluster.changes("suspect", "dead") == []
    assert cluster.graph_is_one()


def test_a_hang_of_training_is_told_and_kills_nobody() -> None:
    cluster = Cluster(8, seed=17)
    cluster.warm()
    stuck = cluster.ids[2]
    for state, words in ((3, ("training", "wedged")), (1, ("wedged", "training"))):
        cluster.log.clear()
        cluster.hosts[stuck].state = state
        cluster.run(30.0)
        seen = [(action.old, action.new) for _, _, action in cluster.changes("wedged", "training")]
        assert seen == [words] * len(cluster.hosts[stuck].core.neighbours)
        assert cluster.changes("suspect", "dead") == []


# One core ------------------------------------------------------------------------------------------------------------

IDS = ids_of(8)
IDS_LIST = list(IDS)
ME, PEER = IDS_LIST[:2]


def one(roster: Base | None = None) -> Membership:
    base = Base(record_of(node, name) for node, name in IDS.items()) if roster is None else roster
    return Membership(record_of(ME, IDS[ME]), base, SPEC, SETTINGS, np.random.default_rng(0), 0.0)


def beat_of(core: Membership, **fields: object) -> Heartbeat:
    peer = Heartbeat(PEER, 1, 0, 1, Step(1), 1.0, digest=core.digest)
    return replace(peer, **fields)  # type: ignore[arg-type]  # each field by its own name


def test_what_it_says_of_itself() -> None:
    core = one()
    assert core.view == tuple(sorted(IDS)) and len(core.table) == 8
    assert core.neighbours == neighbours(ME, core.view, SPEC) and core.spec == SPEC
    assert core.state_of(PEER) is MemberState.ALIVE and core.state_of(NodeId(bytes(16))) is None
    assert core.name_of(PEER) == IDS[PEER] and core.name_of(NodeId(bytes(16))) == "00" * 16
    assert core.record_of(ME) == core.me and not core.is_expected(PEER)
    core.sketched(b"s" * 8, Step(5), 1.0)
    beat = core.heartbeat(1.0, state=1, step=Step(7), rate=2.0, progress_ms=3, lag_ms=4)
    assert (beat.node, beat.epoch, beat.step, beat.members, beat.sketch) == (ME, 1, 7, 8, b"s" * 8)
    assert beat.neighbours == tuple(node[:8] for node in core.neighbours) and beat.digest == core.digest
    assert (beat.progress_ms, beat.lag_ms, beat.spec_version, beat.health) == (3, 4, 0, core.health)


def test_a_heartbeat_that_changes_nothing_answers_nothing() -> None:
    core = one()
    peer = core.neighbours[0]
    core.tick(0.0)
    for second in range(1, 30):
        assert core.receive(peer, beat_of(core, node=peer), float(second)) == ()
        assert core.heard(peer, second + 0.5) == ()


def test_forged_and_former_heartbeats_are_no_sign_of_life() -> None:
    core = one()
    peer = core.neighbours[0]
    core.receive(peer, beat_of(core, node=core.neighbours[1]), 1.0)
    core.receive(peer, beat_of(core, node=peer, epoch=0), 1.0)
    for tick in range(24):
        core.tick(tick / 2)
    assert core.state_of(peer) is MemberState.SUSPECT


def test_a_restart_seen_in_a_heartbeat_counts_at_once() -> None:
    core = one()
    changes = [a for a in core.receive(PEER, beat_of(core, epoch=2), 1.0) if isinstance(a, MemberChanged)]
    assert [(change.new, change.why) for change in changes] == [("rejoined", "heard")]
    assert core.table[PEER].epoch == 2 and core.table[PEER].host == "h"


def test_an_older_process_that_greets_changes_nothing() -> None:
    core = one()
    core.greeted(replace(record_of(PEER, IDS[PEER]), epoch=5), 1.0)
    digest = core.digest
    core.greeted(replace(record_of(PEER, IDS[PEER]), epoch=4, host="other"), 2.0)
    assert core.digest == digest and core.table[PEER].host == "h"


def test_a_tick_that_comes_late_judges_nobody() -> None:
    core = one()
    core.tick(0.0)
    core.tick(60.0)
    assert all(core.state_of(node) is MemberState.ALIVE for node in IDS)
    core.lagged(60.0, 60.0)  # the same delay, noticed twice
    assert core.health == 2
    core.refused(PEER, 61.0)
    now = 61.0
    while core.state_of(PEER) is MemberState.SUSPECT:
        assert now < 100.0
        now += 0.1
        core.tick(now)
    assert 61 + 8 * 3 <= now <= 61 + 8 * 3 + 0.5  # three times the usual patience: its own health is bad


def test_another_address_of_its_own_raises_the_incarnation() -> None:
    core = one()
    core.tick(0.0)
    [flood] = [a for a in core.readdress(replace(core.me, host="elsewhere"), 5.0) if isinstance(a, Flood)]
    assert flood.message.records == (core.me,)
    assert (core.me.incarnation, core.me.host) == (1, "elsewhere")


def test_leaving_is_said_three_times_and_nothing_afterwards() -> None:
    core = one()
    core.tick(0.0)
    now, said = 10.0, [a for a in core.leave(10.0) if isinstance(a, Flood)]
    for _ in range(100):
        now += 0.1
        said += [a for a in core.tick(now) if isinstance(a, Flood)]
    assert [[r.state for r in a.message.records] for a in said] == [[MemberState.LEFT]] * 3
    assert core.receive(PEER, Gossip((replace(core.me, state=MemberState.LEFT, incarnation=4),)), 20.0) == ()


def test_a_later_process_of_its_name_and_a_missing_graph_are_reported() -> None:
    core = one()
    actions = core.receive(PEER, Gossip((replace(core.me, epoch=9),)), 1.0)
    assert [a for a in actions if isinstance(a, Superseded)] == [Superseded(9)]
    star = StaticGraph(tuple(IDS), frozenset((ME, node) for node in IDS if node != ME))
    spec = TopologySpec(version=1, kind="static", graph=star.digest)
    assert GraphMissing(spec) in core.propose(spec, 2.0)
    assert core.propose(spec, 2.0) == () and core.spec == SPEC
    core.propose(TopologySpec(version=2, kind="complete"), 3.0)
    assert len(core.neighbours) == 7


def test_ten_thousand_members_share_what_they_start_from() -> None:
    many = ids_of(2000)
    base = Base(record_of(node, name) for node, name in many.items())
    cores = [
        Membership(record_of(node, many[node]), base, SPEC, SETTINGS, np.random.default_rng(0), 0.0)
        for node in list(many)[:20]
    ]
    assert len({core.digest for core in cores}) == 1
    assert all(len(core._table._over) == 1 for core in cores)
    assert all(core.view is cores[0].view for core in cores)


# Whatever arrives -----------------------------------------------------------------------------------------------------

STRANGERS = [NodeId(bytes([i]) * 16) for i in range(6)]
NODES = st.sampled_from([*IDS, *STRANGERS])
U64S = st.sampled_from([0, 1, 2, 1 << 31, (1 << 63) - 1, (1 << 64) - 1])
U32S = st.sampled_from([0, 1, 2, (1 << 32) - 1])
RECORDS = st.builds(
    Record, NODES, U64S, U32S, st.sampled_from(MemberState),
    accuser=st.one_of(st.just(b""), NODES.map(lambda node: node[:8])), host=st.sampled_from(["", "h"]),
    inbox_port=st.just(1), beat_port=st.just(2), name=st.sampled_from(["", "n"]),
    sketch=st.sampled_from([b"", b"s" * 8]), sketch_step=U64S,
)  # fmt: skip
SPECS = st.one_of(
    st.builds(
        TopologySpec, version=U64S, author=NODES, kind=st.sampled_from(["hash-rings", "ring", "complete"]),
        degree=st.sampled_from([2, 4, 6]), seed=U64S, epoch=U64S,
    ),
    st.builds(TopologySpec, version=U64S, author=NODES, kind=st.just("static"), graph=st.just(b"g" * 8)),
)  # fmt: skip
LOTS = st.lists(RECORDS, max_size=4).map(tuple)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Heartbeat, NODES, U64S, U32S, st.integers(0, 15), st.integers(0, 9).map(Step), st.floats(0, 9),
        progress_ms=U32S, lag_ms=U32S, health=st.integers(0, 255), members=U32S,
        neighbours=st.lists(st.one_of(NODES.map(lambda node: node[:8]), st.just(b"")), max_size=4).map(tuple),
        digest=U64S, spec_version=U64S, sketch=st.sampled_from([b"", b"s" * 8]), beacon=U64S,
    ),
    st.builds(Gossip, LOTS, spec=st.one_of(st.none(), SPECS)),
    st.builds(Ping, U64S), st.builds(Pong, U64S, U64S, U32S), st.builds(PingReq, U64S, NODES),
    st.builds(PingRes, U64S, NODES, ok=st.booleans()),
    st.builds(PpDigest, st.lists(U64S, max_size=70).map(tuple), SPECS),
    st.builds(PpRecords, LOTS, U64S, st.one_of(st.none(), SPECS)),
)  # fmt: skip
MOMENTS = st.lists(st.tuples(NODES, MESSAGES, st.floats(0, 3)), min_size=1, max_size=16)


@settings(max_examples=40, deadline=None)
@given(MOMENTS, st.booleans(), st.randoms(use_true_random=False))
def test_nothing_that_arrives_raises_or_takes_this_worker_from_its_view(
    moments: list[tuple[NodeId, Message, float]], is_new: bool, random: Random
) -> None:
    core = one(Base.expected(IDS) if is_new else None)
    now = 1.0
    for peer, message, pause in moments:
        now += pause
        core.tick(now)
        if isinstance(message, Pong | PingRes) and core._prober._waiting:  # now and then an answer to what was asked
            message = replace(message, nonce=random.choice(list(core._prober._waiting)))
        actions = core.receive(peer, message, now)
        assert all(action.peer != ME for action in actions if isinstance(action, Tell))
        assert core.me.node == ME and core.me.state is MemberState.ALIVE and core.me.epoch == 1
        assert ME in core.view and ME not in core.neighbours
        assert core.next_deadline() < float("inf")
    assert len(core.table) <= len(IDS) + len(STRANGERS)


def test_memory_stays_bounded_whatever_a_peer_invents() -> None:
    core = one()
    rng = np.random.default_rng(0)
    now = 1.0
    for turn in range(80):
        now += 0.05
        peer = NodeId(rng.bytes(16)) if turn % 3 else PEER
        records = [
            Record(
                NodeId(rng.bytes(16)) if place % 2 else IDS_LIST[place % 8], 1 + int(rng.integers(3)),
                int(rng.integers(1 << 20)), MemberState(int(rng.integers(4))), rng.bytes(8), name="n" * (place % 3),
            )
            for place in range(24)
        ]  # fmt: skip
        core.receive(peer, Gossip(tuple(records)), now)
        core.receive(peer, PpRecords(tuple(records), (1 << 64) - 1), now)
        core.receive(peer, PingReq(turn, records[0].node), now)
        core.receive(peer, PpDigest(tuple(range(64)), SPEC), now)
        core.tick(now)
    ledger, prober, repair = core._ledger, core._prober, core._repair
    assert len(core.table) <= 10_000 and len(prober._waiting) <= 256 and len(core._context.relays) <= 4
    assert len(ledger._lately) <= 512 and len(ledger._told) <= 512 and not ledger.rumours._told
    assert len(ledger.rumours._waiting) <= 4096 and len(repair._started) <= 512 and len(repair._answered) <= 512
    assert all(len(peers) <= 8 for peers in ledger._messengers.values())
    assert set(ledger._messengers) <= set(core.table) and len(core._context.guests) <= 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_many_seeds_of_crashes_partitions_and_pauses(seed: int) -> None:
    cluster = Cluster(16, 100 + seed)
    cluster.warm()
    crashed, paused = cluster.ids[seed % 16], cluster.ids[(seed + 5) % 16]
    cluster.crash(crashed, refuses=bool(seed % 2))
    cluster.pause(paused)
    cluster.run(20.0)
    cluster.resume(paused)
    side = set(cluster.ids[:8])
    cluster.cut = lambda a, b: (a in side) != (b in side)
    cluster.run(30.0)
    cluster.cut = lambda a, b: False
    cluster.start(crashed)
    cluster.run_until(lambda: cluster.all_alive() and cluster.tables_equal(), 20.0)
    cluster.run(5.0)
    assert cluster.graph_is_one()
