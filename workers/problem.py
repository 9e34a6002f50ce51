"""The problem that the reference programs learn: handwritten digits, two small models, one recipe.

The data are scikit-learn's 1797 digits of 8x8 pixels: real, and part of an installed package, so nothing is downloaded.
They are split by the seed into 1437 for training and 360 for tests, evenly over the classes, and standardised by the
training part. Rates and settings are tuned with ``report="val"``: then 240 of the training samples are held out and
reported on, and nobody sees the test part. Whoever holds the same :class:`Recipe` holds the same data, the same initial
model and the same shards.

========  ==========================================  ==========
model     layers                                      parameters
========  ==========================================  ==========
``mlp``   64-512-512-10                               301 066
``conv``  3x3 convolutions to 16 and 32, 512-32-10    21 546
========  ==========================================  ==========
"""

from __future__ import annotations

import argparse
import gzip
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import shards

ModelName = Literal["mlp", "conv"]
OptimizerName = Literal["sgd", "adam"]
ScheduleName = Literal["none", "cosine", "wsd"]
Report = Literal["test", "val"]

TEST_SAMPLES, VALIDATION_SAMPLES = 360, 240
SETTLE = 0.15
"""Share of a run with a schedule, at its end, with rate 0: replicas that learn no more come to agree."""
DECAY = 0.2
"""Share of the steps that learn, at their end, in which ``wsd`` lets the rate fall."""
PIXEL_FLOOR = 0.1
"""Least standard deviation a pixel is divided by: some are blank in all images but one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is learned and how; equal on all workers of a run."""

    model: ModelName = "mlp"
    """``mlp`` or ``conv``."""
    shards: shards.Kind = "iid"
    """How the training data are spread over the workers: ``iid``, ``dirichlet`` or ``sorted`` (by label)."""
    alpha: float = 0.1
    """Concentration of ``dirichlet``: the smaller, the fewer classes a worker has."""
    steps: int = 150
    """Steps of each worker."""
    batch: int = 32
    """Samples of each worker in a step."""
    lr: float = 0.05
    """Learning rate at the first step."""
    momentum: float = 0.9
    """Momentum of ``sgd``."""
    optimizer: OptimizerName = "sgd"
    """``sgd`` or ``adam``."""
    schedule: ScheduleName = "cosine"
    """``none``, or down to 0 at 85 % of the steps, the rest only mixes: ``cosine`` all the way, ``wsd`` in a line, late."""
    smoothing: float = 0.1
    """Share of the label that training spreads over all classes; bounds how far a worker with few classes drifts."""
    seed: int = 0
    """Seed of split, shards, initial model and (with the worker's name) batches."""
    eval_every: int = 10
    """Steps between two evaluations; the last step is always evaluated."""
    report: Report = "test"
    """What evaluations are of: the ``test`` part, or ``val``: samples held out of the training part, for tuning."""

    def __post_init__(self) -> None:
        """Check what argparse has not."""
        for name in ("steps", "batch", "eval_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}: needs at least 1")
        if not 0 < self.lr < math.inf:
            raise UsageError(f"lr is {self.lr}: needs a rate over 0")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum is {self.momentum}: needs a share in [0, 1)")
        if not 0 <= self.smoothing < 1:
            raise UsageError(f"smoothing is {self.smoothing}: needs a share in [0, 1)")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}: needs 0 or more")

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar training loss of one batch: mean cross entropy in nats, with smoothed labels."""
        return nn.functional.cross_entropy(model(images), labels, label_smoothing=self.smoothing)

    def evaluates(self, step: int) -> bool:
        """Return whether the model is evaluated after ``step`` steps."""
        return step % self.eval_every == 0 or step == self.steps


CHOICES: dict[str, Sequence[str]] = {
    "model": get_args(ModelName),
    "shards": get_args(shards.Kind),
    "optimizer": get_args(OptimizerName),
    "schedule": get_args(ScheduleName),
    "report": get_args(Report),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give a program one flag for each field of :class:`Recipe`; :func:`from_flags` reads them."""
    for field in fields(Recipe):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=cast("Callable[[str], object]", type(field.default)),
            default=field.default,
            choices=CHOICES.get(field.name),
            metavar=None if field.name in CHOICES else field.name[0].upper(),
            help=f"default {field.default}",
        )


def from_flags(flags: argparse.Namespace) -> Recipe:
    """Return the recipe that the flags of :func:`add_flags` describe.

    Raises:
        UsageError: a number out of range.
    """
    return Recipe(**{field.name: getattr(flags, field.name) for field in fields(Recipe)})


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """The data: ``train_x`` float32[1437, 64] standardised, ``train_y`` int64[1437] in 0..9; ``test_*`` likewise."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def batch(self, numbers: shards.Indices) -> tuple[Tensor, Tensor]:
        """Return images and labels of some training samples."""
        chosen = torch.from_numpy(numbers)
        return self.train_x[chosen], self.train_y[chosen]

    def shards(self, recipe: Recipe, count: int) -> list[shards.Indices]:
        """Return the training samples of each of ``count`` workers."""
        labels = cast("NDArray[np.int64]", self.train_y.numpy())
        return shards.partition(labels, count, recipe.shards, alpha=recipe.alpha, seed=recipe.seed)


def load(seed: int, report: Report = "test") -> Digits:
    """Load, split and standardise the digits; the same arguments give the same split.

    With ``val`` the samples held out of the training part take the place of the test part, which is not returned.
    """
    table = _read_table()
    pixels, labels = table[:, :-1].astype(np.float32) / 16, table[:, -1].astype(np.int64)
    train, held = shards.split(labels, TEST_SAMPLES, seed)
    if report == "val":
        kept, chosen = shards.split(labels[train], VALIDATION_SAMPLES, seed)
        train, held = train[kept], train[chosen]
    pixels = (pixels - pixels[train].mean(axis=0)) / np.maximum(pixels[train].std(axis=0), PIXEL_FLOOR)
    parts = pixels[train], labels[train], pixels[held], labels[held]
    return Digits(*(torch.from_numpy(part) for part in parts))


def _read_table() -> NDArray[np.uint8]:
    """Return uint8[1797, 65]: 64 pixels of 0..16 and the label.

    The file is read where scikit-learn keeps it, without importing the library: that would take each worker a second.
    """
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UsageError("the digits come with scikit-learn: pip install 'dagrad-bus[digits]'")
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.exists():
        return _ask_sklearn()
    numbers = np.array(
        gzip.decompress(file.read_bytes()).decode().replace("\n", ",").rstrip(",").split(","), np.float64
    )
    return numbers.reshape(-1, 65).astype(np.uint8)


def _ask_sklearn() -> NDArray[np.uint8]:
    from sklearn.datasets import load_digits

    pixels, labels = cast("tuple[NDArray[np.float64], NDArray[np.int64]]", load_digits(return_X_y=True))
    return np.column_stack([pixels, labels]).astype(np.uint8)


def build_model(name: ModelName, seed: int) -> nn.Module:
    """Return a new model that takes float32[n, 64] to logits float32[n, 10]; the same seed, the same weights."""
    with torch.random.fork_rng(devices=[]):  # the caller's stream of chance goes on as if nothing had been drawn
        torch.manual_seed(seed)
        if name == "mlp":
            return nn.Sequential(
                nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
            )  # fmt: skip
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10)),
        )


def build_optimizer(model: nn.Module, recipe: Recipe) -> tuple[torch.optim.Optimizer, Callable[[int], None]]:
    """Return the recipe's optimizer and what is told the number of steps taken, to follow the schedule.

    It may be told any number: a worker that copied its peers' state goes on at their step.
    """
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum)

    def follow(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate_share(recipe.schedule, step, recipe.steps)

    return optimizer, follow


def rate_share(schedule: ScheduleName, step: int, steps: int) -> float:
    """Return the rate after ``step`` of ``steps`` steps as a share of the first one, in [0, 1].

    ``wsd`` (a plateau, then a line to 0) learns more in a short run where the largest rate that a rule bears is what binds it:
    see docs/results.md. Source: Hu et al., MiniCPM (2404.06395); Haegele et al. (2405.18392).
    """
    done = min(1.0, step / (steps * (1 - SETTLE)))
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return min(1.0, (1 - done) / DECAY) if schedule == "wsd" else 1.0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a model does on the held-out samples after ``step`` steps: mean cross entropy (nats), share of right answers."""

    step: int
    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(model: nn.Module, digits: Digits, step: int) -> Evaluation:
    """Evaluate a model on all held-out samples; its training mode stays as it was."""
    was_training = model.training
    model.eval()
    logits = cast("Tensor", model(digits.test_x))
    model.train(was_training)
    loss = nn.functional.cross_entropy(logits, digits.test_y)
    right = (logits.argmax(dim=1) == digits.test_y).double().mean()
    return Evaluation(step, loss.item(), right.item())
