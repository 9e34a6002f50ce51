"""One run of N workers in one process and in virtual time: real models, real rules, made-up seconds.

Every worker is a thread of :class:`~dagrad_bus.lab.virtual.VirtualTime` that trains as ``workers/digits.py`` does and
exchanges through :func:`dagrad_bus.attach`; only the port, the clock and ``sleep`` are virtual. So what is learned here,
and what it costs in bytes, is what the production code learns and sends; seconds are as good as the cost model.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dagrad_bus.attach.attachment import attach
from dagrad_bus.codec import Codec
from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.network import ALL_CODECS, BEAT_RATE, VirtualNet, VirtualPort
from dagrad_bus.lab.parcels import usual_codec
from dagrad_bus.lab.task import Task, load_task
from dagrad_bus.lab.virtual import VirtualTime
from dagrad_bus.metrics import histogram_median, sum_bins
from dagrad_bus.settings import SERVED, ExchangeSettings, GraphName, LinkSettings, Settings
from dagrad_bus.topology.live import TopologySpec, adjacency
from dagrad_bus.workers.problem import Report, ScheduleName, rate_share
from dagrad_bus.workers.shards import Batches, Kind, partition

RUN = "lab"


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What is run. Equal experiments give equal results, bit for bit on one machine."""

    task: str = "digits-small"
    """See :mod:`dagrad_bus.lab.task`."""
    workers: int = 8
    steps: int = 150
    """Of each worker."""
    batch: int = 32
    """Samples of each worker in a step."""
    lr: float = 0.05
    """Learning rate at the first step."""
    schedule: ScheduleName = "cosine"
    """Of the rate, as the digits program has it."""
    momentum: float = 0.9
    smoothing: float = 0.1
    """Label smoothing."""
    shards: Kind = "iid"
    alpha: float = 0.1
    """Concentration of ``dirichlet``."""
    seed: int = 0
    """Of split, shards, model, batches, costs and the exchange."""
    report: Report = "val"
    """The part that accuracy is of: ``val`` for tuning, ``test`` for what is published."""
    exchange: ExchangeSettings = field(default_factory=ExchangeSettings)
    degree: int = 4
    topology: GraphName | None = None
    """None: what the rule needs (``complete`` with a server), else hash-rings."""
    costs: Costs = field(default_factory=Costs)
    link: LinkSettings = field(default_factory=LinkSettings)
    settle: float = 1.0
    """Times its density that a frame holds in steps whose rate is 0: the last 15 %, with a schedule."""
    linger: float = 5.0
    """Virtual seconds for which a worker that has done its steps goes on mixing until the others are done, at most."""
    compress: bool = True
    """Whether frames are compressed as in the laboratory's runs, where those of dense rules are not; False saves time and
    counts raw bytes."""
    probes: int = 0
    """Steps of worker 0 between two looks at the distance of all replicas; 0: only at the end."""

    def __post_init__(self) -> None:
        """Check what no other module checks."""
        if self.workers < 1 or self.steps < 1:
            raise UsageError(f"{self.workers} workers, {self.steps} steps: needs at least 1 of each")

    @property
    def key(self) -> dict[str, Any]:
        """Return what a store of results knows it by."""
        found = asdict(self)
        found["costs"]["slowdown"] = {str(worker): factor for worker, factor in self.costs.slowdown.items()}
        return found


@dataclass(frozen=True, slots=True)
class Result:
    """What it gave. Accuracies are shares, of each worker's own replica after its last step."""

    accuracy: float
    """Mean over the workers."""
    worst: float
    std: float
    loss: float
    """Cross entropy of the own replicas on the reported part, nats, mean over the workers."""
    mean_model: float
    """Accuracy of the mean of all replicas."""
    consensus: float
    """Mean over workers of ||x_i - mean|| / ||mean|| at the end."""
    curve: tuple[tuple[int, float], ...]
    """(step of worker 0, the same) where ``probes`` asks for it."""
    parameters: int
    bytes_per_step: float
    """Sent by a worker per local step, headers, receipts and heartbeats included."""
    dense_share: float
    """The same as a share of synchronous dense training, 8 P bytes."""
    rate: float
    """Steps a virtual second, mean over the workers."""
    efficiency: float
    """Throughput of N over N times the throughput of one that exchanges nothing."""
    healthy_efficiency: float
    """The same over the workers that are no stragglers."""
    median_age: float | None
    """Of the versions mixed, in steps of the receiver."""
    ages: tuple[int, ...]
    """Their histogram over ``metrics.AGE_EDGES``."""
    skipped: float
    """Share of the exchanges for which no link had credit."""
    seconds: float
    """Virtual length of the run."""
    diverged: bool
    """Whether a replica holds a value that is not finite."""


class _Worker:
    """One program: trains, exchanges, goes on mixing until all are done."""

    def __init__(self, lab: _Lab, index: int, name: str, node: NodeId) -> None:
        experiment = lab.experiment
        self.index, self.name, self.node = index, name, node
        self.model = lab.task.build(experiment.seed)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=experiment.lr, momentum=experiment.momentum)
        self.computed = 0.0
        """Seconds that its steps computed."""
        self.took = 0.0
        """Seconds from its start to the end of its last step."""
        self.boundaries = 0
        self.is_done = False
        self.port: VirtualPort | None = None
        self._lab = lab
        self._batches = Batches(lab.parts[index], experiment.batch, experiment.seed, name)
        self._rng = np.random.default_rng([experiment.seed, 12, index])

    def run(self) -> None:
        """Do all of it."""
        lab, experiment = self._lab, self._lab.experiment
        settings = Settings(
            run=RUN, name=self.name, members=lab.names, exchange=lab.exchange, degree=experiment.degree,
            topology=lab.graph, link=experiment.link,
        )  # fmt: skip
        port = self.port
        assert port is not None  # made before the clock starts
        attached = attach(self.model, self.optimizer, port, settings=settings, clock=lab.time.now)
        port.layout = attached.layout
        began = lab.time.now()
        for step in range(1, experiment.steps + 1):
            self._follow(step - 1)
            if experiment.settle != 1 and not self.optimizer.param_groups[0]["lr"]:
                attached.set_density(min(1.0, experiment.settle * lab.exchange.density))
            self.optimizer.zero_grad()
            loss = lab.task.loss(self.model, self._batches.next(), experiment.smoothing)
            loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types here
            seconds = experiment.costs.step_time(self.index, self._rng)
            self.computed += seconds
            lab.time.sleep(seconds)
            self._exchange()
            lab.probe(self.index, step)
        self.took = lab.time.now() - began
        self.is_done = True
        self._linger()
        attached.close()

    def _follow(self, step: int) -> None:
        """Set the rate after ``step`` steps; 0 for the last 15 % of them, which only mix."""
        experiment = self._lab.experiment
        for group in self.optimizer.param_groups:
            group["lr"] = experiment.lr * rate_share(experiment.schedule, step, experiment.steps)

    def _exchange(self) -> None:
        self.optimizer.step()
        self.boundaries += 1
        if self.port is not None:
            self._lab.time.sleep(self._lab.experiment.costs.boundary_time(self.port.take_load()))

    def _linger(self) -> None:
        """Mix without training, as the digits program does, until the last worker is done."""
        lab = self._lab
        deadline = lab.time.now() + lab.experiment.linger
        self.optimizer.zero_grad()
        while lab.time.now() < deadline and not all(worker.is_done for worker in lab.workers):
            lab.time.sleep(lab.experiment.costs.compute)
            self._exchange()


class _Lab:
    """Everything that the workers of one experiment share."""

    def __init__(self, experiment: Experiment, task: Task) -> None:
        self.experiment, self.task = experiment, task
        self.exchange = replace(experiment.exchange, seed=experiment.seed)
        self.graph: GraphName = experiment.topology or ("complete" if self.exchange.rule in SERVED else "hash-rings")
        self.time = VirtualTime(experiment.seed)
        self.names = tuple(f"local.{index}" for index in range(experiment.workers))
        nodes = [derive_node_id(RUN, name) for name in self.names]
        labels: NDArray[np.int64] = task.train_y.numpy()
        self.parts = partition(
            labels, experiment.workers, experiment.shards, alpha=experiment.alpha, seed=experiment.seed
        )
        compressed = experiment.compress and usual_codec(self.exchange.rule) != "raw"
        codecs: frozenset[Codec] = ALL_CODECS if compressed else frozenset()
        self.net = VirtualNet(self.time, experiment.costs, experiment.seed, experiment.link, codecs)
        near = adjacency(nodes, TopologySpec(kind=self.graph, degree=experiment.degree))
        self.workers = [
            _Worker(self, index, name, node) for index, (name, node) in enumerate(zip(self.names, nodes, strict=True))
        ]
        for worker in self.workers:
            actor = self.time.spawn(worker.name, worker.run)
            worker.port = self.net.port(worker.node, worker.name, near[worker.node], actor)
        self.curve: list[tuple[int, float]] = []

    def probe(self, index: int, step: int) -> None:
        """Look at all replicas, if worker 0 is at a step where that is wanted."""
        every = self.experiment.probes
        if index == 0 and every and step % every == 0:
            self.curve.append((step, distance(self.replicas())))

    def replicas(self) -> NDArray[np.float64]:
        """Return all replicas' parameters, float64[N, P]."""
        rows = [nn.utils.parameters_to_vector(worker.model.parameters()).detach() for worker in self.workers]
        return torch.stack(rows).double().numpy()


def distance(replicas: NDArray[np.float64]) -> float:
    """Return the mean over workers of ||x_i - mean|| / ||mean||."""
    mean = replicas.mean(axis=0)
    norm = float(np.linalg.norm(mean))
    return float(np.linalg.norm(replicas - mean, axis=1).mean()) / norm if norm else 0.0


def run_experiment(experiment: Experiment, task: Task | None = None) -> Result:
    """Run it.

    Args:
        experiment: what.
        task: loaded already, for many runs on one; None loads it.

    Raises:
        UsageError: a task, a rule or costs that do not fit.
    """
    known = task if task is not None else load_task(experiment.task, experiment.seed, experiment.report)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on how many share them: results must not depend on the caller's machine
    try:
        lab = _Lab(experiment, known)
        lab.time.run()
        return _summarize(lab)
    finally:
        torch.set_num_threads(threads)


def _summarize(lab: _Lab) -> Result:
    experiment, workers = lab.experiment, lab.workers
    replicas = lab.replicas()
    finite = bool(np.isfinite(replicas).all())
    accuracies, losses = zip(*(lab.task.evaluate(worker.model) for worker in workers), strict=True)
    twin = lab.task.build(experiment.seed)
    nn.utils.vector_to_parameters(torch.from_numpy(replicas.mean(axis=0)).float(), twin.parameters())
    ports = [worker.port for worker in workers if worker.port is not None]
    steps = sum(worker.boundaries for worker in workers)
    beats = BEAT_RATE * lab.time.now() * len(workers) if len(workers) > 1 else 0.0
    sent = (sum(port.sent_bytes for port in ports) + beats) / steps
    bins = sum_bins([port.ages for port in ports])
    healthy = [worker for worker in workers if worker.index not in experiment.costs.slowdown] or workers
    skips = sum(port.metrics["exchanges_without_link"] for port in ports)
    return Result(
        accuracy=fmean(accuracies), worst=min(accuracies), std=pstdev(accuracies),
        loss=fmean(losses), mean_model=lab.task.evaluate(twin)[0],
        consensus=distance(replicas) if finite else math.inf, curve=tuple(lab.curve), parameters=replicas.shape[1],
        bytes_per_step=sent, dense_share=sent / (8 * replicas.shape[1]),
        rate=fmean(experiment.steps / worker.took for worker in workers),
        efficiency=_efficiency(workers), healthy_efficiency=_efficiency(healthy),
        median_age=histogram_median(bins), ages=tuple(bins), skipped=skips / steps, seconds=lab.time.now(), diverged=not finite,
    )  # fmt: skip


def _efficiency(workers: list[_Worker]) -> float:
    return fmean(worker.computed / worker.took for worker in workers)
