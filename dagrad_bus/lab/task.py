"""What is learned in virtual time: small models on real data, with a validation and a test part of their own.

Tuning and research look at the validation part (``report="val"``) and never at the test part; what is published is
then measured once on the test part.

==================  ============================================================  ==========
task                model                                                         parameters
==================  ============================================================  ==========
``digits-mlp``      64-512-512-10, that of :mod:`dagrad_bus.workers.problem`      301 066
``digits-conv``     two convolutions, that of :mod:`dagrad_bus.workers.problem`   21 546
``digits-small``    64-64-64-10                                                   8 970
``digits-wide``     64-256-10                                                     19 210
==================  ============================================================  ==========
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import problem
from dagrad_bus.workers.shards import Indices


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One learning problem, split and ready."""

    train_x: Tensor
    """float32[n, ...]"""
    train_y: Tensor
    """int64[n]"""
    test_x: Tensor
    """What accuracy is reported on; the validation part where that was asked for."""
    test_y: Tensor
    build: Callable[[int], nn.Module]
    """Seed to a new model: equal seeds, equal weights."""
    groups: NDArray[np.int64] | None = None
    """int64[n], the natural group of each training sample, where the data have some."""

    def loss(self, model: nn.Module, numbers: Indices, smoothing: float) -> Tensor:
        """Return the mean cross entropy of some training samples, in nats, with smoothed labels."""
        chosen = torch.from_numpy(numbers)
        return nn.functional.cross_entropy(
            model(self.train_x[chosen]), self.train_y[chosen], label_smoothing=smoothing
        )  # fmt: skip

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        """Return the share of right answers on the reported part, and the mean cross entropy there in nats."""
        was_training = model.training
        model.eval()
        logits: Tensor = model(self.test_x)
        model.train(was_training)
        right = logits.argmax(dim=1) == self.test_y
        return float(right.double().mean()), float(nn.functional.cross_entropy(logits, self.test_y))


def _mlp(*widths: int) -> Callable[[int], nn.Module]:
    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            for left, right in pairwise(widths):
                layers += [nn.Linear(left, right), nn.ReLU()]
            return nn.Sequential(*layers[:-1])

    return build


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "digits-mlp": lambda seed: problem.build_model("mlp", seed),
    "digits-conv": lambda seed: problem.build_model("conv", seed),
    "digits-small": _mlp(64, 64, 64, 10),
    "digits-wide": _mlp(64, 256, 10),
}


def load_task(name: str, seed: int, report: problem.Report) -> Task:
    """Load a task; equal arguments, equal data.

    Raises:
        UsageError: a name not in the table.
    """
    if name not in MODELS:
        raise UsageError(f"no task {name!r}: there are {', '.join(MODELS)}")
    data = problem.load(seed, report)
    return Task(data.train_x, data.train_y, data.test_x, data.test_y, MODELS[name])
