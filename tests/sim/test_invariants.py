"""Each law is seen to fail where it is broken by hand; that it is seen in play stands in test_mutants.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dagrad_bus.codec import Value
from dagrad_bus.events import Arrival, Selection
from dagrad_bus.ids import Step
from dagrad_bus.messages import Kind
from dagrad_bus.sim.cluster import Cluster
from dagrad_bus.sim.invariants import Checker, Violation, is_substituting
from dagrad_bus.sim.network import Network
from dagrad_bus.sim.options import Options
from dagrad_bus.sim.trainer import Trainer
from dagrad_bus.sim.world import World


class Scene:
    def __init__(self) -> None:
        self.world = World(4)
        self.checker = Checker()
        self.cluster = Cluster(self.world, Network(self.world), Options(4, 3, step=0.2), self.checker)
        self.cluster.start_all(0.1)
        self.world.run(5.0)
        trainers = [worker.trainer for worker in self.cluster.workers]
        assert trainers[0] is not None and trainers[1] is not None
        self.a: Trainer = trainers[0]
        self.b: Trainer = trainers[1]

    def arrival(self, job: int, indices: list[int]) -> Arrival:
        values = np.full((len(indices), 2), job, np.float32)
        return Arrival(
            self.a.process.id,
            Kind.STATE,
            Value.F32,
            Selection(np.array(indices, np.int64), values),
            Step(1),
            1.0,
            0.0,
            0.0,
        )


def violated(check: str, call: Callable[[], object]) -> str:
    with pytest.raises(Violation) as found:
        call()
    assert found.value.check == check
    return found.value.text


def test_a_quiet_run_breaks_nothing() -> None:
    scene = Scene()
    assert scene.checker.accepted_frames > 20
    assert scene.checker.checks > 200
    scene.checker.trained(scene.a)
    assert not is_substituting(scene.a.process)


def test_frames_that_were_never_planned_are_seen() -> None:
    scene = Scene()
    violated("ONE", lambda: scene.checker.accepted(scene.b.process, scene.arrival(10**6, [0])))
    job = max(scene.a.plans)
    violated("ONE", lambda: scene.checker.accepted(scene.b.process, scene.arrival(job, [0])))


def test_frames_accepted_twice_are_seen() -> None:
    scene = Scene()
    job = min(scene.a.plans)
    again = scene.arrival(job, scene.a.plans[job].tolist())
    assert "after" in violated("ONE", lambda: scene.checker.accepted(scene.b.process, again))


def test_a_version_that_is_nowhere_is_seen() -> None:
    scene = Scene()
    peer = next(iter(scene.a.bookings.by_peer))
    scene.a.bookings.by_peer[peer][1][3] = 1 << 20
    assert "[3]" in violated("BV", lambda: scene.checker.trained(scene.a))
    scene.a.book._links[peer].dirty.add(np.array([3]))
    scene.checker.trained(scene.a)


def test_a_receipt_that_falls_is_seen() -> None:
    scene = Scene()
    contact = next(iter(scene.b.process.node.by_peer.values()))
    assert contact.incoming is not None
    contact.incoming.credit -= 1
    assert "fell" in violated("receipt", lambda: scene.checker.stepped(scene.b.process))


def test_a_record_that_falls_is_seen() -> None:
    scene = Scene()
    membership = scene.b.process.node.membership
    record = membership.table[scene.a.process.id]
    membership._table.put(replace(record, epoch=record.epoch - 1), 5.0)
    violated("record", lambda: scene.checker.stepped(scene.b.process))


def test_a_graph_that_is_not_the_one_of_the_view_is_seen() -> None:
    scene = Scene()
    membership = scene.b.process.node.membership
    membership._wiring.neighbours = membership.neighbours[:1]
    violated("graph", lambda: scene.checker.stepped(scene.b.process))
    membership._wiring.neighbours = (scene.b.process.id,)
    violated("simple", lambda: scene.checker.stepped(scene.b.process))


def test_changes_are_written_down_with_their_time() -> None:
    scene = Scene()
    scene.cluster.crash(scene.cluster.workers[2])
    scene.world.run(20.0)
    dead = [(at, who) for at, who, change in scene.checker.changes if change.new == "dead"]
    assert {who for _, who in dead} == {scene.a.process, scene.b.process}
    assert all(5.0 < at < 20.0 for at, _ in dead)
