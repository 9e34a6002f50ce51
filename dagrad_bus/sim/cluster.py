"""The workers of a run: who was launched, which process of each lives, and how to start, stop and lose them."""

from __future__ import annotations

from dataclasses import dataclass

from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.settings import BeatSettings, LinkSettings, Settings, TransportSettings
from dagrad_bus.sim.invariants import Checker
from dagrad_bus.sim.network import Network
from dagrad_bus.sim.options import Options
from dagrad_bus.sim.trainer import LAYOUT, Trainer
from dagrad_bus.sim.worker import Clock, Folder, Process
from dagrad_bus.sim.world import World

RUN = "sim"
WALL = 1_700_000_000_000_000_000
"""What wall clocks show when the world begins, in nanoseconds."""
FIRST_PORT = 9000


@dataclass(eq=False, slots=True)
class Worker:
    """One worker over all of its lives."""

    name: str
    node: NodeId
    host: int
    clock: Clock
    port: int = FIRST_PORT
    wall_shift: float = 0.0
    """Seconds by which its wall clock is wrong."""
    process: Process | None = None
    trainer: Trainer | None = None
    left: bool = False

    @property
    def is_up(self) -> bool:
        """Whether a process of it exists, stopped or not."""
        return self.process is not None and not self.process.plug.dead

    @property
    def runs(self) -> bool:
        """Whether it is neither dead nor stopped nor on its way out."""
        return self.process is not None and self.process.runs and not self.process.is_leaving


class Cluster:
    """All workers.

    Args:
        world: time and chance.
        network: what joins them.
        options: how many, and how they are.
        checker: who looks on.
        beat: settings of membership.
        trains: whether they have training threads.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        options: Options,
        checker: Checker,
        *,
        beat: BeatSettings | None = None,
        trains: bool = True,
    ) -> None:
        self.world, self.network, self.options, self.checker = world, network, options, checker
        checker.clock = lambda: world.now
        self.folder = Folder()
        self.members = tuple(f"w{i:03}" for i in range(options.workers))
        self.workers: list[Worker] = []
        self.by_node: dict[NodeId, Worker] = {}
        self._beat = beat or BeatSettings()
        self._link = LinkSettings(window=options.window)
        self._trains = trains
        self._lives = 0
        for name in self.members:
            self.add(name)

    def add(self, name: str) -> Worker:
        """Return a new worker that has no process yet."""
        rng = self.world.rng
        drift = rng.uniform(-1e-4, 1e-4) if self.options.has("drift") else 0.0
        clock = Clock(1 + drift, round(rng.uniform(0, 1e5)))
        worker = Worker(name, derive_node_id(RUN, name), len(self.workers), clock)
        self.workers.append(worker)
        self.by_node[worker.node] = worker
        return worker

    @property
    def up(self) -> list[Worker]:
        """Workers that have a process, stopped ones included."""
        return [worker for worker in self.workers if worker.is_up]

    @property
    def running(self) -> list[Worker]:
        """Workers whose process runs and stays."""
        return [worker for worker in self.workers if worker.runs]

    def start(self, worker: Worker, *, same_port: bool = True) -> Process:
        """Start a worker's next life."""
        if worker.is_up:
            raise AssertionError(f"{worker.name} runs already")
        if not same_port:
            worker.port += 2
        world, options = self.world, self.options
        settings = Settings(
            run=RUN,
            name=worker.name,
            members=self.members,
            seeds=(("", ""),) if worker.name not in self.members else (),
            key=b"sim",
            link=self._link,
            beat=self._beat,
            transport=TransportSettings(codec="raw"),
        )
        epoch = WALL + int((world.now + worker.wall_shift) * 1e9)
        plug = self.network.plug_in(worker.node, worker.name, worker.host, worker.port)
        process = Process(
            world, self.network, plug, settings, LAYOUT, epoch, worker.clock, self.folder, self.checker, self._lives
        )
        worker.process, worker.left = process, False
        worker.trainer = None
        if self._trains:
            step = options.step * world.rng.uniform(0.7, 1.5)
            worker.trainer = Trainer(world, process, step, options.fanout)
        self._lives += 1
        self.checker.add(process, worker.trainer)
        return process

    def start_all(self, skew: float) -> None:
        """Start everybody within ``skew`` seconds."""
        for worker in self.workers:
            self.world.after(skew * self.world.rng.random(), self._start_later, worker)

    def _start_later(self, worker: Worker, _: object) -> None:
        if not worker.is_up and not worker.left:
            self.start(worker)

    def crash(self, worker: Worker, *, host: bool = False) -> None:
        """Kill a worker, or lose its host, whose kernel then tells nobody."""
        if worker.process is not None and not worker.process.plug.dead:
            worker.process.die(host=host)

    def leave(self, worker: Worker) -> None:
        """Have a worker say goodbye and end."""
        if worker.process is not None and worker.runs:
            worker.left = True
            worker.process.leave()

    def join(self) -> Worker:
        """Start a worker that was not launched with the others."""
        worker = self.add(f"late{len(self.workers) - len(self.members)}")
        self.start(worker)
        return worker

    def name_of(self, node: NodeId) -> str:
        """Return a worker's name."""
        return self.by_node[node].name if node in self.by_node else node.hex()[:8]
