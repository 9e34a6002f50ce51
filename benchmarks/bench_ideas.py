"""A quick look at ideas for mixing, before any of them is built: all replicas in step, as one batched tensor.

Sixteen workers on digits, 64-64-64-10 (8970 parameters), 300 steps, SGD with momentum, each holding a contiguous range of
the sorted labels (or IID). A frame is mixed one step after it was chosen; nothing is lost, late or rounded unless an idea
says so. Accuracy is on the validation part: the test part is never looked at here. What wins here is tried again with
the production code (``dagrad bench ablations``); what loses is recorded in docs/results.md::

    python benchmarks/bench_ideas.py                       # every idea, five seeds: about five minutes on one core
    python benchmarks/bench_ideas.py --only w0 --seeds 3   # those whose name begins so

Columns: mean and worst over workers of the own replica's accuracy, that of the mean model, distance of the replicas, and
elements sent a worker and step in per cent of 2 P, what synchronous training moves.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import fmean

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dagrad_bus.ids import derive_node_id
from dagrad_bus.topology.live import TopologySpec, adjacency
from dagrad_bus.workers import problem
from dagrad_bus.workers.shards import Batches, Kind, partition

WIDTHS = (64, 64, 64, 10)
SIZE = sum(left * right + right for left, right in pairwise(WIDTHS))
MOMENTUM, SMOOTHING, BATCH, SETTLE = 0.9, 0.1, 32, 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Idea:
    """One way to exchange."""

    name: str
    kind: str = "state"
    """``state``, or one of the rules in :data:`RULES`; ``sync`` steps with the mean gradient."""
    w0: float = 0.85
    density: float = 0.01
    lr: float = 0.1
    interval: int = 1
    fanout: int = 4
    anybody: bool = False
    """Whether frames go to members drawn anew at each step instead of to the neighbours."""
    block: int = 1
    bits: int = 0
    """Bits of a value, one scale for 64 elements; 0: exact."""
    refresh: float = 1 / 16
    gain: float = 0.0
    """What the rule in ``kind`` is tuned by."""
    late: float = 1.0
    """Share of the steps, at the end, in which everything is sent, at a density so much higher."""
    shards: Kind = "sorted"


class Frames:
    """The state rule for all workers at once: x float32[N, P], anchors likewise.

    Args:
        idea: what is tried.
        x: all replicas at the start.
        near: float32[N, N], 1 where the row's worker hears the column's.
        seed: of random members.
    """

    def __init__(self, idea: Idea, x: Tensor, near: Tensor, seed: int) -> None:
        self.idea, self.anchor, self.near = idea, x.clone(), near
        self.sent = 0
        self.velocity = torch.zeros_like(x)
        self._rng = np.random.default_rng([seed, 77])
        self._waiting: tuple[Tensor, Tensor, Tensor] | None = None
        self._blocks = -(-SIZE // idea.block)
        self._cursor = 0

    def step(self, x: Tensor, gradient: Tensor, lr: float) -> None:
        """Take the local step of SGD with momentum."""
        self.velocity.mul_(MOMENTUM).add_(gradient)
        x.add_(self.velocity, alpha=-lr)

    def exchange(self, x: Tensor, step: int, steps: int, lr: float) -> None:
        """Mix what waits, then send."""
        self.mix(x, lr)
        idea = self.idea
        if (step + 1) % idea.interval == 0 and step >= steps * (1 - idea.late):
            self.send(x)

    def mix(self, x: Tensor, lr: float) -> None:
        """Move toward the versions gathered, as production does."""
        del lr
        if self._waiting is None:
            return
        indices, values, near = self._waiting
        self._waiting = None
        held, sums = torch.zeros_like(x), torch.zeros_like(x)
        held.scatter_(1, indices, 1.0)
        sums.scatter_(1, indices, values)
        count, total = near @ held, near @ sums
        x.add_(self.pull(count, total - count * x))

    def pull(self, count: Tensor, difference: Tensor) -> Tensor:
        """Return how far to go: ``difference`` is the sum over ``count`` versions."""
        q = self.idea.w0 / (1 - self.idea.w0)
        return q * difference / (1 + q * count)

    def send(self, x: Tensor) -> None:
        """Choose blocks, and let what they hold be mixed after the next step."""
        near = self._hearers()
        indices = self._choose(x)
        values = x.gather(1, indices)
        if self.idea.bits:
            values = quantize(values, self.idea.bits)
        self.anchor.scatter_(1, indices, values)
        self._waiting = indices, values, near
        self.sent += indices.numel() * int(near.sum(0).max())

    def _choose(self, x: Tensor) -> Tensor:
        idea, workers = self.idea, len(x)
        score = (x - self.anchor) ** 2
        padded = functional.pad(score, (0, self._blocks * idea.block - SIZE))
        score = padded.view(workers, self._blocks, idea.block).sum(2)
        count = max(1, round(idea.density / idea.late * self._blocks))
        stripe = round(count * idea.refresh)
        score[:, (torch.arange(stripe) + self._cursor) % self._blocks] = math.inf
        self._cursor = (self._cursor + stripe) % self._blocks
        chosen = torch.topk(score, count, dim=1).indices.sort(1).values
        whole = chosen.unsqueeze(2) * idea.block + torch.arange(idea.block)
        return whole.view(workers, -1).clamp(max=SIZE - 1)

    def _hearers(self) -> Tensor:
        """Return who hears whom this time."""
        workers, fanout = len(self.near), self.idea.fanout
        if not self.idea.anybody and fanout >= 4:
            return self.near
        drawn = torch.zeros_like(self.near)
        for sender in range(workers):
            known = [other for other in range(workers) if other != sender]
            pool = known if self.idea.anybody else [other for other in known if self.near[other, sender]]
            drawn[self._rng.choice(pool, fanout, replace=False).tolist(), sender] = 1
        return drawn


class Total(Frames):
    """All versions of a block together weigh w0, however many there are."""

    def pull(self, count: Tensor, difference: Tensor) -> Tensor:
        """Return w0 of the way to their mean."""
        return self.idea.w0 * difference / count.clamp(min=1)


class Remembered(Frames):
    """Pull densely, at every step, to what the neighbours last sent of every element."""

    def mix(self, x: Tensor, lr: float) -> None:
        """Go ``gain`` of the way to the mean of the neighbours' anchors."""
        del lr
        mean = (self.near @ self.anchor) / self.near.sum(1, keepdim=True)
        x.add_(self.idea.gain * (mean - x))


class Choco(Frames):
    """CHOCO-SGD: move by the difference of the public copies."""

    def mix(self, x: Tensor, lr: float) -> None:
        """Go ``gain`` of the way from the own public copy to the mean of the neighbours'."""
        del lr
        mean = (self.near @ self.anchor) / self.near.sum(1, keepdim=True)
        x.add_(self.idea.gain * (mean - self.anchor))


class Displaced(Frames):
    """What mixing did is fed to the optimizer's momentum: PI control."""

    def mix(self, x: Tensor, lr: float) -> None:
        """Mix, then add ``gain`` times the displacement."""
        before = x.clone()
        super().mix(x, lr)
        if lr > 1e-6:
            self.velocity.add_((x - before) / lr, alpha=-self.idea.gain)


class Corrected(Frames):
    """A correction of the gradient, learned from what mixing did: as SCAFFOLD, without a further exchange."""

    def __init__(self, idea: Idea, x: Tensor, near: Tensor, seed: int) -> None:
        super().__init__(idea, x, near, seed)
        self._correction = torch.zeros_like(x)

    def step(self, x: Tensor, gradient: Tensor, lr: float) -> None:
        """Step with the corrected gradient."""
        super().step(x, gradient + self._correction, lr)

    def mix(self, x: Tensor, lr: float) -> None:
        """Mix, then let the correction follow the displacement."""
        before = x.clone()
        super().mix(x, lr)
        if lr > 1e-6:
            self._correction.mul_(0.99).add_((x - before) / lr, alpha=-self.idea.gain)


class QuasiGlobal(Frames):
    """Momentum of the whole displacement, mixing included (Lin et al., arXiv:2102.04761)."""

    def step(self, x: Tensor, gradient: Tensor, lr: float) -> None:
        """Step with gradient and momentum."""
        self._before = x.clone()
        x.add_(gradient + MOMENTUM * self.velocity, alpha=-lr)

    def mix(self, x: Tensor, lr: float) -> None:
        """Mix, then let the momentum follow the displacement of this step."""
        super().mix(x, lr)
        if lr > 1e-6:
            self.velocity.mul_(MOMENTUM).add_((self._before - x) / lr, alpha=1 - MOMENTUM)


class Masked(Frames):
    """Where a version was mixed in, momentum is multiplied by ``gain``: it belongs to values that are gone."""

    def mix(self, x: Tensor, lr: float) -> None:
        """Mix, then damp."""
        before = x.clone()
        super().mix(x, lr)
        self.velocity.mul_(torch.where(x != before, self.idea.gain, 1.0))


RULES: dict[str, type[Frames]] = {
    "state": Frames, "total": Total, "remembered": Remembered, "choco": Choco, "displaced": Displaced,
    "corrected": Corrected, "quasi-global": QuasiGlobal, "masked": Masked,
}  # fmt: skip


def quantize(values: Tensor, bits: int) -> Tensor:
    """Round to ``bits`` with one scale for 64 consecutive elements of each row."""
    rows, count = values.shape
    groups = functional.pad(values, (0, -count % 64)).view(rows, -1, 64)
    scale = (groups.abs().amax(2, keepdim=True) / (2 ** (bits - 1) - 1)).clamp(min=1e-12)
    return ((groups / scale).round() * scale).view(rows, -1)[:, :count]


def forward(x: Tensor, images: Tensor) -> Tensor:
    """Return logits [N, b, 10] of each row of ``x`` on its own images [N, b, 64]."""
    at, hidden = 0, images
    for layer, (left, right) in enumerate(pairwise(WIDTHS)):
        weight = x[:, at : at + left * right].view(-1, right, left)
        at += left * right
        hidden = torch.baddbmm(x[:, at : at + right].unsqueeze(1), hidden, weight.transpose(1, 2))
        at += right
        hidden = torch.relu(hidden) if layer < len(WIDTHS) - 2 else hidden
    return hidden


def gradients(x: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Return each row's gradient of its own mean loss, float32[N, P]."""
    leaf = x.detach().requires_grad_(True)
    logits = forward(leaf, images).flatten(0, 1)
    loss = functional.cross_entropy(logits, labels.flatten(), label_smoothing=SMOOTHING, reduction="sum")
    (found,) = torch.autograd.grad(loss / images.shape[1], leaf)
    return found


def initial(seed: int) -> Tensor:
    """Return the flat parameters that all begin with."""
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(left, right) for left, right in pairwise(WIDTHS)]
    return torch.nn.utils.parameters_to_vector(p for layer in layers for p in layer.parameters()).detach()


def hearing(workers: int) -> Tensor:
    """Return the graph that a run of so many workers has, as a matrix."""
    nodes = [derive_node_id("lab", f"local.{number}") for number in range(workers)]
    near = adjacency(nodes, TopologySpec(degree=4))
    return torch.tensor([[float(other in near[node]) for other in nodes] for node in nodes])


@dataclass(frozen=True, slots=True)
class Found:
    """What one run gave: per cent, but for the distance."""

    mean: float
    worst: float
    mean_model: float
    distance: float
    sent: float


def try_out(idea: Idea, seed: int, workers: int, steps: int) -> Found:
    """Train all replicas in step."""
    data = problem.load(seed, "val")
    parts = partition(data.train_y.numpy(), workers, idea.shards, seed=seed)
    streams = [Batches(part, BATCH, seed, f"local.{number}") for number, part in enumerate(parts)]
    x = initial(seed).repeat(workers, 1)
    frames = RULES.get(idea.kind, Frames)(idea, x, hearing(workers), seed)
    for step in range(steps):
        batches = [data.batch(stream.next()) for stream in streams]
        images, labels = (torch.stack(column) for column in zip(*batches, strict=True))
        gradient = gradients(x, images, labels)
        lr = idea.lr * (1 + math.cos(math.pi * min(1.0, step / (steps * (1 - SETTLE))))) / 2
        if idea.kind == "sync":
            gradient = gradient.mean(0, keepdim=True).expand(workers, -1)
        frames.step(x, gradient, lr)
        if idea.kind != "sync":
            frames.exchange(x, step, steps, lr)
    mean = x.mean(0, keepdim=True)
    right = [accuracy(rows, data) for rows in (x, mean)]
    distance = float((x - mean).norm(dim=1).mean() / mean.norm())
    sent = 100 * frames.sent / (workers * steps * 2 * SIZE)
    return Found(float(right[0].mean()), float(right[0].min()), float(right[1][0]), distance, sent)


def accuracy(x: Tensor, data: problem.Digits) -> Tensor:
    """Return each row's share of right answers, in per cent."""
    logits = forward(x, data.test_x.expand(len(x), -1, -1))
    return 100 * (logits.argmax(2) == data.test_y).double().mean(1)


def ideas() -> list[Idea]:
    """Return everything that is tried, in the order of the table."""
    base = Idea(name="w0 0.85")
    found = [replace(base, name=f"sync, rate {lr}", kind="sync", lr=lr) for lr in (0.05, 0.1, 0.2)]
    found += [replace(base, name=f"w0 {w0}", w0=w0) for w0 in (0.5, 0.65, 0.8, 0.85, 0.9, 0.95)]
    found += [replace(base, name=f"density {d}", density=d) for d in (0.015, 0.02, 0.03)]
    found += [replace(base, name=f"interval {k}, density {k} %", interval=k, density=0.01 * k) for k in (2, 4, 8)]
    found += [replace(base, name=f"fanout {f}, equal elements", fanout=f, density=0.04 / f) for f in (1, 2)]
    found += [replace(base, name="anybody, 4 at random", anybody=True)]
    found += [replace(base, name="anybody, 1 at random, density 4 %", anybody=True, fanout=1, density=0.04)]
    found += [replace(base, name=f"refresh {r}", refresh=r) for r in (0.0, 0.25)]
    found += [replace(base, name="int8", bits=8), replace(base, name="int8, density 1.5 %", bits=8, density=0.015)]
    found += [replace(base, name="4 bits", bits=4), replace(base, name="4 bits, density 2 %", bits=4, density=0.02)]
    equal = ((1, 0.0093), (2, 0.013), (4, 0.0155), (8, 0.0174), (16, 0.0185))
    found += [replace(base, name=f"int8, B = {b}, equal bytes", bits=8, block=b, density=d) for b, d in equal]
    found += [replace(base, name=f"total weight {w0}", kind="total", w0=w0) for w0 in (0.65, 0.85)]
    tuned = {"remembered": (0.1, 0.3, 0.6), "choco": (0.03, 0.065, 0.1), "displaced": (0.03, 0.1), "masked": (0.0, 0.5)}
    tuned |= {"corrected": (0.001, 0.003), "quasi-global": (1.0,)}
    found += [
        replace(base, name=f"{kind} {gain}", kind=kind, gain=gain) for kind, gains in tuned.items() for gain in gains
    ]
    found += [replace(base, name=f"iid, {one.name}", shards="iid") for one in found if one.name[:4] in ("sync", "w0 0")]
    few = replace(base, shards="iid", density=0.0025)
    found += [replace(few, name=f"few bytes, iid, w0 {w0}", w0=w0) for w0 in (0.5, 0.65, 0.85)]
    found += [replace(few, name=f"few bytes, iid, last {late:.0%} only", late=late) for late in (0.5, 0.2)]
    found += [replace(few, name="few bytes, iid, interval 4", interval=4, density=0.01)]
    found += [replace(few, name="few bytes, iid, fanout 1", fanout=1, density=0.01)]
    found += [
        replace(few, name="few bytes, iid, no refresh", refresh=0.0),
        replace(few, name="few bytes, iid, rate 0.2", lr=0.2),
    ]
    found += [replace(few, name="few bytes, iid, anybody", anybody=True)]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Try the ideas and print a row of each as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="ideas whose name begins so")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", action="store_true", help="one JSON object after the table")
    flags = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    print("| idea | mean | worst | mean model | distance | elements, % of sync |")
    print("|---|---|---|---|---|---|", flush=True)
    start = time.monotonic()
    average: Callable[[str, list[Found]], float] = lambda name, found: fmean(getattr(one, name) for one in found)
    for idea in [one for one in ideas() if one.name.startswith(flags.only)]:
        found = [try_out(idea, seed, flags.workers, flags.steps) for seed in range(flags.seeds)]
        mean = {name: average(name, found) for name in ("mean", "worst", "mean_model", "distance", "sent")}
        shown = f"{mean['mean']:.2f} | {mean['worst']:.2f} | {mean['mean_model']:.2f} | {mean['distance']:.4f}"
        print(f"| {idea.name} | {shown} | {mean['sent']:.2f} |", flush=True)
        rows.append({**asdict(idea), "seeds": [asdict(one) for one in found]})
    if flags.json:
        print(json.dumps({"seconds": time.monotonic() - start, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
