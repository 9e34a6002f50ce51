"""A cluster without faults of its own, on which a row of the fault matrix is played, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dagrad_bus.ids import NodeId
from dagrad_bus.link import State
from dagrad_bus.sim.cluster import Cluster, Worker
from dagrad_bus.sim.finale import is_connected
from dagrad_bus.sim.invariants import Checker
from dagrad_bus.sim.network import Network
from dagrad_bus.sim.options import Options
from dagrad_bus.sim.world import World

SETTLED = 15.0
"""Virtual seconds in which a cluster starts."""
LOOK = 0.1


@dataclass(frozen=True, slots=True)
class Finding:
    """What one row came to."""

    row: int
    name: str
    seed: int
    workers: int
    figures: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds and counts."""
    broken: tuple[str, ...] = ()
    """Bounds that did not hold."""

    @property
    def ok(self) -> bool:
        """Whether every bound held."""
        return not self.broken

    def told(self) -> str:
        """Return it on one line."""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
        end = "" if self.ok else f"  BROKEN: {'; '.join(self.broken)}"
        return f"row {self.row:2} {self.name}, N={self.workers}, seed {self.seed}: {figures}{end}"


class Stage:
    """A cluster that has started, and what to ask of it."""

    def __init__(self, row: int, name: str, seed: int, workers: int) -> None:
        self.row, self.name, self.seed = row, name, seed
        self.options = Options(seed, workers, faults=())
        self.world = World(seed)
        self.network = Network(self.world)
        self.checker = Checker()
        self.cluster = Cluster(self.world, self.network, self.options, self.checker, trains=False)
        self.figures: dict[str, float] = {}
        self.broken: list[str] = []
        self.cluster.start_all(1.0)
        self.world.run(SETTLED)
        self.began = self.world.now
        self.workers = self.cluster.workers

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.world.run(self.world.now + seconds)

    def until(self, name: str, holds: Callable[[], bool], limit: float) -> float:
        """Wait until something holds; the seconds it took become a figure, over ``limit`` a broken bound."""
        started = self.world.now
        while not holds() and self.world.now < started + 3 * limit:
            self.wait(LOOK)
        took = self.world.now - started
        self.at_most(name, took, limit)
        return took

    def at_most(self, name: str, value: float, limit: float) -> None:
        """Keep a figure and the bound on it."""
        self.figures[name] = value
        if value > limit:
            self.broken.append(f"{name} is {value:.4g}, over {limit:g}")

    def at_least(self, name: str, value: float, limit: float) -> None:
        """Keep a figure and the bound on it."""
        self.figures[name] = value
        if value < limit:
            self.broken.append(f"{name} is {value:.4g}, under {limit:g}")

    def finding(self) -> Finding:
        """Return what came out."""
        return Finding(self.row, self.name, self.seed, self.options.workers, self.figures, tuple(self.broken))

    # What the workers believe ------------------------------------------------------------------------------------

    def changes(self, new: str, since: float | None = None) -> list[tuple[float, str, NodeId]]:
        """Return when who began to believe ``new`` of whom, since the stage began or later."""
        start = self.began if since is None else since
        return [(at, who.name, c.node) for at, who, c in self.checker.changes if at >= start and c.new == new]

    def detection(self, gone: set[NodeId], observers: int, since: float) -> list[float]:
        """Return how long after ``since`` each of ``observers`` believed all of ``gone`` dead; fewer if some never did."""
        last: dict[tuple[str, NodeId], float] = {}
        for at, who, node in self.changes("dead", since):
            if node in gone:
                last[who, node] = at - since
        if len(last) < observers * len(gone):
            self.broken.append(f"{observers * len(gone) - len(last)} deaths were never noticed")
        return sorted(last.values()) or [float("nan")]

    def false_deaths(self, gone: set[NodeId], since: float | None = None) -> int:
        """Return how often somebody alive was believed dead."""
        return sum(node not in gone for _, _, node in self.changes("dead", since))

    def near(self, workers: list[Worker]) -> dict[NodeId, tuple[NodeId, ...]]:
        """Return the neighbours of some workers with a link up."""
        found: dict[NodeId, tuple[NodeId, ...]] = {}
        for worker in workers:
            if worker.process is not None:
                contacts = worker.process.node.by_peer
                links = [
                    p for p in worker.process.node.neighbours if p in contacts and contacts[p].out.state is State.UP
                ]
                found[worker.node] = tuple(links)
        return found

    def age(self, worker: Worker) -> float:
        """Return the seconds since a worker's process started."""
        return self.world.now - worker.process.born if worker.process is not None else 0.0

    def is_sound(self, workers: list[Worker], least: int = 3) -> bool:
        """Whether these workers form one graph among themselves: every one 3 to 5 links up, one component."""
        near = {node: tuple(p for p in peers) for node, peers in self.near(workers).items()}
        inside = all(p in near for peers in near.values() for p in peers)
        return inside and all(least <= len(peers) <= 5 for peers in near.values()) and is_connected(near)

    def agree(self, workers: list[Worker]) -> bool:
        """Whether their tables are equal and hold just them."""
        nodes = tuple(sorted(worker.node for worker in workers))
        memberships = [w.process.node.membership for w in workers if w.process is not None]
        return all(m.view == nodes for m in memberships) and len({m.digest for m in memberships}) == 1
