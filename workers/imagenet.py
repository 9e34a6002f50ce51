"""ResNet-50 on ImageNet-1K, or on any images in folders of its form.

Alone, or as one of many::

    dagrad run -n 8 -- python -m dagrad_bus.workers.imagenet --data-dir imagenet --loaders 4
    python -m dagrad_bus.workers.imagenet --make-data data/digits     # 1797 small JPEG files of the same form
    dagrad run -n 2 -- python -m dagrad_bus.workers.imagenet --size small --data-dir data/digits --lr 0.1

=========  ============================================  ==========================
size       layers                                        parameters
=========  ============================================  ==========================
``base``   ResNet-50, images of 224 x 224                25 557 032 (1000 classes)
``small``  two basic blocks of 32 and 64, 32 x 32        75 290 (10 classes)
=========  ============================================  ==========================

SGD with momentum and label smoothing. The rate climbs in a line, then falls along a cosine to 0 at 85 % of the steps: the
rest only mixes. Source: He et al., Deep Residual Learning, arXiv:1512.03385; Goyal et al., arXiv:1706.02677, and He et al.,
Bag of Tricks, arXiv:1812.01187, for the recipe.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import images, loop, shards
from dagrad_bus.workers.extras import need
from dagrad_bus.workers.problem import SETTLE, Evaluation, Report

Size = Literal["base", "small"]
Batch = tuple[Tensor, Tensor]
SMALL = {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1], "layer_type": "basic"}
SIDES: dict[Size, int] = {"base": 224, "small": 32}
LEAST_AREAS: dict[Size, float] = {"base": 0.08, "small": 0.5}
EVALUATED_AT_ONCE = 64
PRELOAD = ["dagrad_bus.workers.images", "dagrad_bus.workers.loop", "PIL.Image", "PIL.JpegImagePlugin"]
"""What loaders need: their server imports it once, before it forks them. This program itself is not in it: each loader
imports it under another name, and would warn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is learned and how; equal on all workers of a run."""

    data_dir: Path | None = None
    """Folder with ``train`` and ``val``; None asks the hub for ImageNet-1K."""
    size: Size = "base"
    image_size: int = 0
    """Side of an image; 0: the size's own."""
    least_area: float = 0.0
    """Least share of an image that training sees at once; 0: the size's own."""
    shards: shards.Kind = "iid"
    alpha: float = 0.1
    steps: int = 1000
    batch: int = 32
    lr: float = 0.0125
    """0.1 for 256 images a step, as in the source: 0.0125 for 32."""
    momentum: float = 0.9
    decay: float = 1e-4
    """Weight decay; biases and norms have none."""
    warm_up: float = 0.05
    """Share of the steps in which the rate climbs."""
    smoothing: float = 0.1
    seed: int = 0
    eval_every: int = 100
    eval_limit: int = 0
    """Most images of an evaluation, chosen by the seed; 0: all."""
    report: Report = "test"
    loaders: int = 0
    """Processes that read images for this worker; 0: it reads them itself."""

    def __post_init__(self) -> None:
        """Check what argparse has not."""
        for name in ("steps", "batch", "eval_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}: needs at least 1")
        if self.lr <= 0:
            raise UsageError(f"lr is {self.lr}: needs a rate over 0")
        for name in ("momentum", "smoothing", "least_area"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}: needs a share in [0, 1)")
        if not 0 <= self.warm_up < 1 - SETTLE:
            raise UsageError(f"warm_up is {self.warm_up}: needs a share in [0, {1 - SETTLE:g})")
        if self.image_size and self.image_size < 32:
            raise UsageError(f"image_size is {self.image_size}: needs 32 pixels at least")
        if self.loaders < 0:
            raise UsageError(f"loaders is {self.loaders}: needs 0 or more")

    @property
    def side(self) -> int:
        """Side of an image, in pixels."""
        return self.image_size or SIDES[self.size]

    @property
    def area(self) -> float:
        """Least share of an image that training sees at once."""
        return self.least_area or LEAST_AREAS[self.size]

    def rate(self, step: int) -> float:
        """Return the learning rate after ``step`` steps."""
        climb, rest = self.steps * self.warm_up, self.steps * (1 - SETTLE)
        if step < climb:
            return self.lr * (step + 1) / (climb + 1)
        return self.lr * (1 + math.cos(math.pi * min(1.0, (step - climb) / (rest - climb)))) / 2


def build_model(recipe: Recipe, classes: int) -> nn.Module:
    """Return a new model; the same seed, the same weights.

    It takes float32[n, 3, side, side]; ``.logits`` of what it returns are float32[n, classes].
    """
    library = need("transformers")
    shape: dict[str, Any] = SMALL if recipe.size == "small" else {}  # the library's own figures are ResNet-50's
    with torch.random.fork_rng(devices=[]):  # the caller's stream of chance goes on as if nothing had been drawn
        torch.manual_seed(recipe.seed)
        return cast(
            "nn.Module", library.ResNetForImageClassification(library.ResNetConfig(num_labels=classes, **shape))
        )


def build_optimizer(model: nn.Module, recipe: Recipe) -> tuple[torch.optim.Optimizer, Callable[[int], None]]:
    """Return SGD and what is told the number of steps taken, to follow the schedule."""
    kernels = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": kernels}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.decay)

    def follow(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)

    return optimizer, follow


def read_batches(loaders: int, drawn: images.Drawn, draws: Any) -> Iterator[Batch]:
    """Go through batches: images float32[n, 3, side, side] and labels int64[n].

    Args:
        loaders: processes that read them; 0 reads them here.
        drawn: the images.
        draws: iterable of batches of draws.

    Raises:
        UsageError: an image that cannot be read, at its batch.
    """
    context = None
    if loaders:  # never a fork of this process: it would take the bus's sockets and locks along, without its thread
        context = get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
    loader: Any = DataLoader(
        cast("Any", drawn), batch_sampler=draws, num_workers=loaders, multiprocessing_context=context
    )
    return _plainly(iter(loader))  # which starts the processes now, not at the first step


def _plainly(stream: Iterator[Batch]) -> Iterator[Batch]:
    try:
        yield from stream
    except UsageError as error:  # that of a loader says its whole traceback, and what is wrong last
        raise UsageError(str(error).rstrip().splitlines()[-1].rpartition("UsageError: ")[2]) from None


class Judge:
    """Evaluates models on held-out images, in their middle."""

    def __init__(self, recipe: Recipe, found: images.Images) -> None:
        self._loaders = recipe.loaders
        self._drawn = images.Drawn(found, recipe.side, recipe.area, recipe.seed, "")
        numbers = found.held
        if 0 < recipe.eval_limit < len(numbers):
            numbers = np.sort(np.random.default_rng([recipe.seed, 5]).permutation(numbers)[: recipe.eval_limit])
        self.draws: list[images.Draw] = [(number, -1) for number in numbers.tolist()]

    @torch.no_grad()
    def evaluate(self, model: nn.Module, step: int) -> Evaluation:
        """Evaluate a model; its training mode stays as it was."""
        was_training = model.training
        model.eval()
        loss = right = 0.0
        parts = [self.draws[at : at + EVALUATED_AT_ONCE] for at in range(0, len(self.draws), EVALUATED_AT_ONCE)]
        for pixels, labels in read_batches(self._loaders, self._drawn, parts):
            logits = cast("Tensor", model(pixels).logits)
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            right += (logits.argmax(dim=1) == labels).sum().item()
        model.train(was_training)
        return Evaluation(step, loss / len(self.draws), right / len(self.draws))


def make_task(recipe: Recipe) -> loop.Task:
    """List the images and build the model of a recipe."""
    found = images.load(recipe.data_dir, recipe.seed, recipe.report)
    model = build_model(recipe, found.classes).train()
    optimizer, follow = build_optimizer(model, recipe)

    def deal(index: int, count: int, name: str) -> loop.NextLoss:
        labels = found.labels[found.train]
        part = shards.partition(labels, count, recipe.shards, alpha=recipe.alpha, seed=recipe.seed)[index]
        batches = shards.Batches(found.train[part], recipe.batch, recipe.seed, name)
        drawn = images.Drawn(found, recipe.side, recipe.area, recipe.seed, name)
        stream = read_batches(recipe.loaders, drawn, images.Draws(batches))

        def next_loss() -> Tensor:
            pixels, chosen = next(stream)
            return nn.functional.cross_entropy(model(pixels).logits, chosen, label_smoothing=recipe.smoothing)

        return next_loss

    return loop.Task(
        model=model,
        optimizer=optimizer,
        steps=recipe.steps,
        eval_every=recipe.eval_every,
        follow=follow,
        deal=deal,
        evaluate=Judge(recipe, found).evaluate,
        build=lambda: build_model(recipe, found.classes),
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dagrad_bus.workers.imagenet", description="Train a ResNet on images, alone or with peers."
    )
    add = parser.add_argument
    add("--make-data", type=Path, metavar="DIR", help="write small JPEG files of ten classes to DIR, and end")
    add("--data-dir", type=Path, metavar="DIR", help="folder with train and val; without it: ImageNet from the hub")
    add("--size", choices=get_args(Size), default="base", help="default base: ResNet-50")
    add("--image-size", type=int, default=0, metavar="N", help="side of an image; default 224, small 32")
    add("--least-area", type=float, default=0.0, metavar="A", help="least share of an image; default 0.08, small 0.5")
    add("--shards", choices=get_args(shards.Kind), default="iid", help="default iid")
    add("--alpha", type=float, default=0.1, metavar="A", help="of dirichlet, default 0.1")
    add("--steps", type=int, default=1000, metavar="N", help="default 1000")
    add("--batch", type=int, default=32, metavar="N", help="default 32")
    add("--lr", type=float, default=0.0125, metavar="R", help="default 0.0125")
    add("--momentum", type=float, default=0.9, metavar="M", help="default 0.9")
    add("--decay", type=float, default=1e-4, metavar="D", help="weight decay, default 1e-4")
    add(
        "--warm-up", type=float, default=0.05, metavar="W", help="share of steps in which the rate climbs, default 0.05"
    )
    add("--smoothing", type=float, default=0.1, metavar="S", help="of the labels, default 0.1")
    add("--seed", type=int, default=0, metavar="N", help="default 0")
    add("--eval-every", type=int, default=100, metavar="N", help="steps between evaluations, default 100")
    add("--eval-limit", type=int, default=0, metavar="N", help="images of an evaluation; default 0: all")
    add("--report", choices=get_args(Report), default="test", help="test: the folder val; val: a part of train")
    add("--loaders", type=int, default=0, metavar="N", help="processes that read images, default 0")
    loop.add_flags(parser)
    return parser.parse_args(argv)


def from_flags(flags: argparse.Namespace) -> Recipe:
    """Return the recipe that the flags describe.

    Raises:
        UsageError: a number out of range.
    """
    return Recipe(**{name: getattr(flags, name) for name in Recipe.__dataclass_fields__})


def main(argv: Sequence[str] | None = None) -> int:
    """Train, or make data, and return the exit code; a known error is one line."""
    flags = parse(argv)
    if flags.make_data is None:
        return loop.run(flags, lambda: make_task(from_flags(flags)))
    return loop.prepare(lambda: f"wrote {images.make_data(flags.make_data)} images to {flags.make_data}")


if __name__ == "__main__":
    sys.exit(main())
