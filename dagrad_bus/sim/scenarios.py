"""Rows of the fault matrix, played with a fixed plan instead of a swarm: what is measured, and the bound it must keep.

Workers have no training threads here: membership, connections and links are the real ones, no frame is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from dagrad_bus.ids import NodeId
from dagrad_bus.sim.cluster import Worker
from dagrad_bus.sim.finale import is_connected
from dagrad_bus.sim.nemesis import Pairs, both_ways
from dagrad_bus.sim.stage import Finding, Stage

YOUNG = 5.0
"""Seconds in which a worker that has just started need not be linked."""


def quantile(times: list[float], share: float) -> float:
    """Return the value below which ``share`` of them lie."""
    return float(np.quantile(np.array(times), share))


def crash(seed: int, workers: int = 16) -> Finding:
    """Row 1: one process is killed."""
    return _lose(Stage(1, "crash", seed, workers), host=False, bounds=(2.5, 5.0))


def host_loss(seed: int, workers: int = 16) -> Finding:
    """Row 2: one host goes dark."""
    return _lose(Stage(2, "host loss", seed, workers), host=True, bounds=(5.5, 12.0))


def _lose(stage: Stage, *, host: bool, bounds: tuple[float, float]) -> Finding:
    victim = stage.workers[stage.seed % len(stage.workers)]
    since = stage.world.now
    stage.cluster.crash(victim, host=host)
    stage.wait(30.0)
    times = stage.detection({victim.node}, len(stage.workers) - 1, since)
    stage.at_most("p50", quantile(times, 0.5), bounds[0])
    stage.at_most("max", times[-1], bounds[1])
    stage.at_most("false deaths", stage.false_deaths({victim.node}), 0)
    return stage.finding()


def mass_crash(seed: int, workers: int = 128, share: float = 0.5) -> Finding:
    """Row 4 (3 with a share of 0.25): many are killed at once."""
    stage = Stage(4, "mass crash", seed, workers)
    victims = stage.world.rng.sample(stage.workers, int(workers * share))
    for victim in victims:
        stage.cluster.crash(victim)
    left = [worker for worker in stage.workers if worker.is_up]
    stage.until("one component", lambda: is_connected(inside(stage.near(left))), 30.0)
    stage.until("degree 3 to 5", lambda: stage.is_sound(left), 60.0)
    stage.at_most("false deaths", stage.false_deaths({victim.node for victim in victims}), 0)
    return stage.finding()


def inside(near: Mapping[NodeId, tuple[NodeId, ...]]) -> dict[NodeId, tuple[NodeId, ...]]:
    """Return a graph without what leads out of it, and with every link in both directions."""
    found: dict[NodeId, set[NodeId]] = {node: set() for node in near}
    for node, peers in near.items():
        for peer in peers:
            if peer in found:
                found[node].add(peer)
                found[peer].add(node)
    return {node: tuple(sorted(peers)) for node, peers in found.items()}


def bereaved(seed: int, workers: int = 16) -> Finding:
    """Row 5: all neighbours of one worker die."""
    stage = Stage(5, "all neighbours die", seed, workers)
    lone = stage.workers[seed % workers]
    if lone.process is None:
        raise AssertionError("everybody was started")
    victims = {node: stage.cluster.by_node[node] for node in lone.process.node.neighbours}
    since = stage.world.now
    for victim in victims.values():
        stage.cluster.crash(victim)
    left = [worker for worker in stage.workers if worker.is_up]
    stage.until("degree again", lambda: len(inside(stage.near(left))[lone.node]) >= 3, 10.0)
    stage.wait(40.0)
    stage.at_most("last death known", stage.detection(set(victims), len(left), since)[-1], 40.0)
    stage.at_most("false deaths", stage.false_deaths(set(victims)), 0)
    return stage.finding()


def crash_in_repair(seed: int, workers: int = 16) -> Finding:
    """Row 6: a worker that has just become a neighbour dies too."""
    stage = Stage(6, "crash in repair", seed, workers)
    first = stage.workers[seed % workers]
    before = {w.node: set(w.process.node.neighbours) for w in stage.workers if w.process is not None}
    stage.cluster.crash(first)
    left = [worker for worker in stage.workers if worker.is_up]
    second: Worker | None = None
    while second is None and stage.world.now < stage.began + 30:
        stage.wait(0.05)
        new = [p for w in left if w.process is not None for p in w.process.node.neighbours if p not in before[w.node]]
        second = stage.cluster.by_node[new[0]] if new else None
    if second is None:
        raise AssertionError("the death of a neighbour changes the graph")
    stage.wait(0.15)
    stage.cluster.crash(second)
    rest = [worker for worker in left if worker is not second]
    stage.until("degree again", lambda: stage.is_sound(rest), 10.0)
    stage.at_most("false deaths", stage.false_deaths({first.node, second.node}), 0)
    return stage.finding()


def short_pause(seed: int, workers: int = 16, seconds: float = 2.0) -> Finding:
    """Row 7: one worker stands still for 2 s."""
    stage = Stage(7, "short pause", seed, workers)
    victim = stage.workers[seed % workers]
    _stop(stage, victim, seconds)
    stage.wait(30.0)
    stage.at_most("deaths", stage.false_deaths(set()), 0)
    stage.at_most("members suspected", len({node for _, _, node in stage.changes("suspect")}), 4)
    stage.at_most(
        "accusations it made", sum(who == victim.name for _, who, n in stage.changes("suspect") if n != victim.node), 0
    )
    stage.at_most("not refuted", 0 if stage.agree(stage.workers) else 1, 0)
    return stage.finding()


def _stop(stage: Stage, worker: Worker, seconds: float) -> None:
    if worker.process is None:
        raise AssertionError("everybody was started")
    worker.process.pause()
    stage.wait(seconds)
    worker.process.go_on()


def long_pause(seed: int, workers: int = 16) -> Finding:
    """Row 8: one worker stands still for 20 s, and comes back."""
    stage = Stage(8, "long pause", seed, workers)
    victim = stage.workers[seed % workers]
    _stop(stage, victim, 20.0)
    continued = stage.world.now
    observers = {who for _, who, node in stage.changes("dead") if node == victim.node}
    stage.at_least("believed dead by", len(observers), workers - 1)
    stage.until("back", lambda: stage.agree(stage.workers), 5.0)
    own = victim.process
    stage.at_least("incarnation", own.node.membership.me.incarnation if own is not None else 0, 1)
    stage.until("degree again", lambda: stage.is_sound(stage.workers), 10.0)
    blamed = sum(who == victim.name for _, who, _ in stage.changes("dead", continued))
    stage.at_most("deaths it declared", blamed, 0)
    return stage.finding()


def _split(stage: Stage) -> tuple[list[Worker], list[Worker], Pairs]:
    half = len(stage.workers) // 2
    left, right = stage.workers[:half], stage.workers[half:]
    pairs = both_ways([w.host for w in left], [w.host for w in right])
    return left, right, pairs


def partition(seed: int, workers: int = 16, seconds: float = 60.0) -> Finding:
    """Rows 13 to 15: two halves do not reach each other for a while, then they do."""
    row = 15 if seconds > 600 else 14
    stage = Stage(row, f"partition of {seconds:g} s and heal", seed, workers)
    left, right, pairs = _split(stage)
    started = stage.world.now
    stage.network.block(pairs)
    for half in (left, right):
        stage.until(f"half {'ab'[half is right]} agrees", lambda half=half: stage.agree(half), 60.0)  # type: ignore[misc]  # bound at once
        stage.until(f"half {'ab'[half is right]} joined", lambda half=half: stage.is_sound(half), 15.0)  # type: ignore[misc]  # bound at once
    stage.world.run(max(stage.world.now, started + seconds))
    stage.network.unblock(pairs)
    # Each dials a dead member only now and then: every 5 s, after 10 min every 30 s.
    stage.until("tables equal", lambda: stage.agree(stage.workers), 15.0 if seconds <= 600 else 60.0)
    stage.until("graph whole", lambda: stage.is_sound(stage.workers), 60.0)
    names = {worker.node for worker in left}
    near = stage.near(stage.workers)
    crossing = sum((a in names) != (b in names) for a, peers in near.items() for b in peers) // 2
    stage.at_least("links across", crossing, 4)
    return stage.finding()


def long_partition(seed: int, workers: int = 64) -> Finding:
    """Row 15: a partition of an hour."""
    return partition(seed, workers, 3600.0)


def one_way(seed: int, workers: int = 16) -> Finding:
    """Row 16: packets pass from one half to the other, not back."""
    stage = Stage(16, "one-way partition", seed, workers)
    _, _, pairs = _split(stage)
    half = workers // 2
    stage.network.block([pair for pair in pairs if pair[0] < half])
    stage.wait(60.0)
    since = stage.world.now
    stage.wait(60.0)
    changes = [(who.name, c.node) for at, who, c in stage.checker.changes if at >= since]
    most = max((changes.count(one) for one in set(changes)), default=0)
    stage.at_most("most changes of one member seen by one in 60 s", most, 2)
    return stage.finding()


def bridge(seed: int, workers: int = 16) -> Finding:
    """Row 17: one worker reaches both halves, which do not reach each other."""
    stage = Stage(17, "bridge", seed, workers)
    rest = stage.workers[1:]
    half = len(rest) // 2
    stage.network.block(both_ways([w.host for w in rest[:half]], [w.host for w in rest[half:]]))
    stage.wait(90.0)
    since = stage.world.now
    stage.wait(60.0)
    stage.at_most("deaths", stage.false_deaths(set()), 0)
    again = [(who, node) for _, who, node in stage.changes("suspect", since)]
    stage.figures["suspicions in the last 60 s"] = len(again)
    near = inside(stage.near(stage.workers))
    stage.at_least("one component", float(is_connected(near)), 1)
    return stage.finding()


def churn(seed: int, workers: int = 128, seconds: float = 300.0) -> Finding:
    """Row 36: every 10 s one leaves or dies, and another one comes back."""
    stage = Stage(36, f"churn for {seconds:g} s", seed, workers)
    rng = stage.world.rng
    at_degree = samples = 0
    worst = 0.0
    apart = 0
    away: list[Worker] = []
    ends = stage.world.now + seconds
    while stage.world.now < ends:
        victim = rng.choice(stage.cluster.running)
        if rng.random() < 0.5:
            stage.cluster.crash(victim)
        else:
            stage.cluster.leave(victim)
        away.append(victim)
        if len(away) > 2:
            back = away.pop(0)
            if not back.is_up:
                stage.cluster.start(back)
        for _ in range(5):
            stage.wait(2.0)
            near = inside(stage.near([w for w in stage.cluster.running if stage.age(w) > YOUNG]))
            at_degree += sum(3 <= len(peers) <= 5 for peers in near.values())
            samples += len(near)
            apart += not is_connected(near)
            worst = max(worst, second_eigenvalue(near))
    stage.at_least("share of node-time at degree 3 to 5", at_degree / samples, 0.97)
    stage.at_most("looks at which it was not connected", apart, 0)
    stage.at_most("lambda2", worst, 0.92 if workers <= 128 else 1.0)
    return stage.finding()


def second_eigenvalue(near: Mapping[NodeId, tuple[NodeId, ...]]) -> float:
    """Return |lambda2| of the Metropolis matrix of a symmetric graph; 1 where it is not connected."""
    nodes = sorted(near)
    place = {node: i for i, node in enumerate(nodes)}
    matrix = np.zeros((len(nodes), len(nodes)))
    for node, peers in near.items():
        for peer in peers:
            matrix[place[node], place[peer]] = 1 / (1 + max(len(peers), len(near[peer])))
    matrix += np.diag(1 - matrix.sum(axis=1))
    return float(np.sort(np.abs(np.linalg.eigvalsh(matrix)))[-2]) if len(nodes) > 1 else 0.0


def wall_clock(seed: int, workers: int = 16) -> Finding:
    """Row 38: wall clocks jump by an hour; a worker restarts under a clock that was set back."""
    stage = Stage(38, "wall clock", seed, workers)
    for worker in stage.workers:
        worker.wall_shift = stage.world.rng.choice((-3600.0, 3600.0))
    since = stage.world.now
    stage.wait(30.0)
    stage.at_most("state changes", sum(at >= since for at, _, _ in stage.checker.changes), 0)
    victim = stage.workers[seed % workers]
    victim.wall_shift = -3600.0
    stage.cluster.crash(victim)
    stage.wait(1.0)
    stage.cluster.start(victim)
    stage.until("restarted one accepted", lambda: stage.agree(stage.workers), 5.0)
    return stage.finding()


SCENARIOS: dict[str, Callable[[int], Finding]] = {
    "crash": crash, "host-loss": host_loss, "mass-crash": mass_crash, "bereaved": bereaved,
    "crash-in-repair": crash_in_repair, "short-pause": short_pause, "long-pause": long_pause, "partition": partition,
    "long-partition": long_partition, "one-way": one_way, "bridge": bridge, "churn": churn, "wall-clock": wall_clock,
}  # fmt: skip
"""By name."""
