"""Does it pay to choose whom a frame goes to? Random, complementary and similar peers at equal bytes, with liars too.

Sixteen workers train in one process, each through ``dagrad_bus.attach`` as in a real run; only the network is a list.
Every worker sends one frame a step to one peer (``fanout`` 1), whichever way it is chosen, so all rows cost the same
bytes. The peer is one of four neighbours, or any member. A liar trains and receives as the others do, but sends

* ``noise``: random values as large as its own, and a random sketch each time, or
* ``mirror``: its accumulated change with the sign reversed, and the sketch reversed.

::

    python benchmarks/bench_choice.py            # about ten minutes on one core
    python benchmarks/bench_choice.py --quick    # one seed, fewer steps

Columns: accuracy of the honest workers' own replicas on the test set, mean over workers and seeds (with the standard
deviation over seeds) and worst; ``overlap``: cosine of the label counts of sender and receiver, mean over frames;
``to liar``: frames that honest workers sent to the liar, as a multiple of what random choice would send.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from statistics import fmean, pstdev
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dagrad_bus.attach.attachment import attach
from dagrad_bus.codec import from_wire
from dagrad_bus.events import Arrival, LinkState, Outcome, Outgoing, PeerNews, Selection, View
from dagrad_bus.ids import NodeId, Step, derive_node_id
from dagrad_bus.messages import StateRej, StateReq
from dagrad_bus.metrics import Metrics
from dagrad_bus.settings import ChoiceName, ExchangeSettings, Settings
from dagrad_bus.topology.live import TopologySpec, adjacency
from dagrad_bus.workers import problem
from dagrad_bus.workers.shards import Batches, Kind

Pool = Literal["neighbours", "members"]
Liar = Literal["none", "noise", "mirror"]
WORKERS = 16
HIDDEN = 64
STEP = 0.25
"""Simulated seconds a step: a sketch every fourth."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulated run."""

    shards: Kind
    pool: Pool
    choice: ChoiceName
    liar: Liar
    seed: int
    steps: int
    density: float


@dataclass(frozen=True, slots=True)
class Result:
    """What it gave; see the columns in the head of this file."""

    mean: float
    worst: float
    overlap: float
    to_liar: float
    blocks: int
    """Blocks sent by all workers: the bytes."""


class Net:
    """Everybody's ports, and who sent how often to whom after the first third of the steps."""

    def __init__(self, nodes: Sequence[NodeId], seed: int) -> None:
        self.ports: dict[NodeId, MemoryPort] = {}
        self.news: dict[NodeId, PeerNews] = {}
        self.place = {node: place for place, node in enumerate(nodes)}
        self.sent = np.zeros((len(nodes), len(nodes)))
        self.rng = np.random.default_rng([seed, 4])
        self.now = 0.0
        self.counts = False


@dataclass
class MemoryPort:
    """The port of one worker: what it publishes waits at once where it goes."""

    me: NodeId
    net: Net
    links: tuple[NodeId, ...]
    liar: Liar
    start: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    """Its parameters before the first step."""
    waiting: list[Arrival] = field(default_factory=list[Arrival])
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    metrics: Metrics = field(default_factory=Metrics)

    def snapshot(self) -> Mapping[str, Mapping[str, object]]:
        """Return the numbers."""
        return self.metrics.snapshot()

    def view(self) -> View:
        """Swap out what waits; news is what all others last said."""
        news = {peer: said for peer, said in self.net.news.items() if peer != self.me}
        links = tuple(LinkState(peer, ready=True, generation=1) for peer in self.links)
        view = View(links, tuple(self.waiting), tuple(self.outcomes), news=news)
        self.waiting, self.outcomes = [], []
        return view

    def wait(self, seconds: float) -> None:
        """Return: what was published has arrived."""

    def publish(self, outgoing: Outgoing) -> bool:
        """Deliver at once."""
        chosen = outgoing.selection
        values = np.asarray(from_wire(chosen.values, chosen.scales, outgoing.value_type), np.float32)
        selection = Selection(chosen.indices, self._told(chosen.indices, values))
        arrival = Arrival(
            self.me, outgoing.kind, outgoing.value_type, selection, outgoing.step, outgoing.rate, 0.0, self.net.now
        )
        for peer in outgoing.links:
            self.net.ports[peer].waiting.append(arrival)
            self.outcomes.append(Outcome(outgoing.job, peer, accepted=True))
            self.net.sent[self.net.place[self.me], self.net.place[peer]] += self.net.counts
        return True

    def _told(self, indices: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.liar == "noise":
            noise = self.net.rng.standard_normal(values.shape).astype(np.float32)
            return noise * np.float32(np.linalg.norm(values) / np.linalg.norm(noise))
        if self.liar == "mirror":
            return 2 * self.start.reshape(-1, values.shape[1])[indices] - values
        return values

    def note_sketch(self, step: int, sketch: bytes) -> None:
        """Tell all."""
        if self.liar == "noise":
            sketch = self.net.rng.bytes(8)
        if self.liar == "mirror":
            sketch = bytes(255 - byte for byte in sketch)
        self.net.news[self.me] = PeerNews(Step(step), 1 / STEP, sketch)

    def tell(self, peer: NodeId, message: StateReq | StateRej) -> bool:
        """Take nothing."""
        return False

    def set_syncing(self, syncing: bool) -> None:
        """Do nothing."""

    def explore(self, peers: tuple[NodeId, ...]) -> None:
        """Do nothing."""

    def members(self) -> Mapping[str, str]:
        """Return nobody: neighbours are all that matters here."""
        return {}

    def rewire(self, spec: TopologySpec) -> bool:
        """Take nothing."""
        return False

    def note_step(self, step: int, rate: float) -> None:
        """Do nothing."""

    def sample(self, step: int, values: NDArray[np.float32]) -> None:
        """Do nothing."""

    def log(self, **numbers: float) -> None:
        """Do nothing."""

    def failure(self) -> Exception | None:
        """Return None: nothing fails here."""
        return None

    def close(self) -> None:
        """Do nothing."""


def build(seed: int) -> nn.Module:
    """Return the model: 64-64-64-10, 8970 parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)
        return nn.Sequential(*layers)


def simulate(cell: Cell) -> Result:
    """Run one cell: all workers step in turn."""
    recipe = problem.Recipe(shards=cell.shards, seed=cell.seed, steps=cell.steps)
    digits = problem.load(cell.seed)
    names = [f"local.{place}" for place in range(WORKERS)]
    nodes = [derive_node_id("bench-choice", name) for name in names]
    net = Net(nodes, cell.seed)
    near = adjacency(nodes, TopologySpec(kind="hash-rings" if cell.pool == "neighbours" else "complete"))
    settings = Settings(
        exchange=ExchangeSettings(density=cell.density, fanout=1, choice=cell.choice, seed=cell.seed, tau=1.0)
    )
    parts = digits.shards(recipe, WORKERS)
    train: list[tuple[nn.Module, torch.optim.Optimizer, Callable[[int], None], Batches]] = []
    for place, (node, name) in enumerate(zip(nodes, names, strict=True)):
        port = net.ports[node] = MemoryPort(node, net, near[node], cell.liar if place == 0 else "none")
        model = build(cell.seed)
        optimizer, follow = problem.build_optimizer(model, recipe)
        attach(model, optimizer, port, settings=settings, clock=lambda: net.now)
        port.start = nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy()
        train.append((model, optimizer, follow, Batches(parts[place], recipe.batch, cell.seed, name)))
    for step in range(1, cell.steps + 1):
        net.now = STEP * step
        net.counts = step > cell.steps // 3  # before that nothing is known of anybody
        for model, optimizer, follow, batches in train:
            optimizer.zero_grad()
            recipe.loss(model, *digits.batch(batches.next())).backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
            follow(step)
    honest = range(0 if cell.liar == "none" else 1, WORKERS)
    accuracies = [problem.evaluate(train[place][0], digits, cell.steps).accuracy for place in honest]
    counts = np.stack([np.bincount(digits.train_y.numpy()[part], minlength=10) for part in parts]).astype(float)
    counts /= np.linalg.norm(counts, axis=1, keepdims=True)
    sent = net.sent[honest.start :]
    overlap = float((sent * (counts @ counts.T)[honest.start :]).sum() / sent.sum())
    blocks = sum(port.metrics["blocks_sent"] for port in net.ports.values())
    fair = sum(net.sent[place].sum() / len(near[nodes[place]]) for place in honest if nodes[0] in near[nodes[place]])
    return Result(fmean(accuracies), min(accuracies), overlap, float(net.sent[1:, 0].sum() / fair), blocks)


def make_grid(flags: argparse.Namespace) -> list[Cell]:
    """Return all cells; similar peers are a control, without liars, and random choice does not look at who lies how."""
    rows: list[tuple[ChoiceName, Liar]] = [("random", "none"), ("complementary", "none"), ("similar", "none")]
    lied: list[tuple[ChoiceName, Liar]] = [("random", "noise"), ("complementary", "noise"), ("complementary", "mirror")]
    return [
        Cell(shards, pool, choice, liar, seed, flags.steps, flags.density)
        for shards, pool, (choice, liar), seed in product(flags.shards, flags.pools, rows + lied, range(flags.seeds))
        if liar in flags.liars
    ]


def show(cells: Sequence[Cell], results: Sequence[Result]) -> list[dict[str, object]]:
    """Print one line for the seeds of a row, and return the rows."""
    groups: dict[Cell, list[Result]] = {}
    for cell, result in zip(cells, results, strict=True):
        groups.setdefault(replace(cell, seed=0), []).append(result)
    print("| shards | chosen among | choice | liar | mean | worst | overlap | to liar | blocks |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, object]] = []
    for cell, found in groups.items():
        means = [100 * result.mean for result in found]
        overlap, to_liar = fmean(result.overlap for result in found), fmean(result.to_liar for result in found)
        print(
            f"| {cell.shards} | {cell.pool} | {cell.choice} | {cell.liar} | {fmean(means):.1f} +- {pstdev(means):.1f} | "
            f"{100 * min(result.worst for result in found):.1f} | {overlap:.2f} | "
            f"{'-' if cell.liar == 'none' else f'{to_liar:.2f}'} | {fmean(result.blocks for result in found):.0f} |"
        )
        rows.append({**asdict(cell), "results": [asdict(result) for result in found]})
    return rows


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 150 steps: about a minute")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--density", type=float, default=0.02)
    parser.add_argument("--shards", nargs="+", default=list(get_args(Kind)), choices=get_args(Kind))
    parser.add_argument("--pools", nargs="+", default=list(get_args(Pool)), choices=get_args(Pool))
    parser.add_argument("--liars", nargs="+", default=list(get_args(Liar)), choices=get_args(Liar))
    parser.add_argument("--json", action="store_true", help="one JSON object after the table")
    flags = parser.parse_args(argv)
    if flags.quick:
        flags.seeds, flags.steps = 1, 150
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate the grid and print it."""
    flags = parse(argv)
    torch.set_num_threads(1)
    cells, start = make_grid(flags), time.monotonic()
    results: list[Result] = []
    for cell in cells:
        results.append(simulate(cell))
        print(f"{len(results)}/{len(cells)} {time.monotonic() - start:.0f} s", end="\r", file=sys.stderr, flush=True)
    rows = show(cells, results)
    if flags.json:
        print(json.dumps({"seconds": time.monotonic() - start, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
