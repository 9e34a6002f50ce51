from __future__ import annotations

from dagrad_bus.sim.cluster import WALL, Cluster
from dagrad_bus.sim.invariants import Checker
from dagrad_bus.sim.network import Network
from dagrad_bus.sim.options import Options
from dagrad_bus.sim.world import World


def cluster(workers: int = 4, *, trains: bool = False) -> Cluster:
    world = World(1)
    made = Cluster(world, Network(world), Options(1, workers), Checker(), trains=trains)
    made.start_all(0.5)
    world.run(5.0)
    return made


def views(made: Cluster) -> set[tuple[bytes, ...]]:
    return {worker.process.node.membership.view for worker in made.running if worker.process is not None}


def test_everybody_finds_everybody() -> None:
    made = cluster()
    assert views(made) == {tuple(sorted(worker.node for worker in made.workers))}
    assert all(worker.process is not None and worker.process.node.outlook.states for worker in made.running)


def test_a_restarted_worker_has_a_later_epoch_and_is_taken_back() -> None:
    made = cluster()
    worker = made.workers[0]
    assert worker.process is not None
    former = worker.process
    made.crash(worker)
    assert not worker.is_up
    made.world.run(6.0)
    again = made.start(worker, same_port=False)
    assert again.epoch > former.epoch >= WALL
    assert again.plug.inbox != former.plug.inbox
    made.world.run(12.0)
    assert len(views(made)) == 1


def test_one_who_joins_later_becomes_a_member() -> None:
    made = cluster()
    late = made.join()
    made.world.run(15.0)
    assert views(made) == {tuple(sorted(worker.node for worker in made.workers))}
    assert made.name_of(late.node) == "late0"


def test_one_who_leaves_is_missed_by_nobody() -> None:
    made = cluster()
    made.leave(made.workers[0])
    made.world.run(8.0)
    assert not made.workers[0].is_up
    assert views(made) == {tuple(sorted(worker.node for worker in made.workers[1:]))}
    assert not [c for _, _, c in made.checker.changes if c.new in {"dead", "suspect"}]
