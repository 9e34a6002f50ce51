"""The oracle that decentralized training is measured against: synchronous SGD over the same shards.

One process, one model. In each step every worker of a run that does not exist draws the batch that it would have
drawn there (same shards, same seeds), and the optimizer steps with the mean of their gradients. On shards of any kind
this is what an exchange without delay, loss or compression would compute.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dagrad_bus.errors import BusError, UsageError
from dagrad_bus.workers.problem import (
    Digits,
    Evaluation,
    Recipe,
    add_flags,
    build_model,
    build_optimizer,
    evaluate,
    from_flags,
    load,
)
from dagrad_bus.workers.shards import Batches


def worker_names(count: int) -> tuple[str, ...]:
    """Return the names that ``dagrad run -n COUNT`` gives: they seed the batches."""
    return tuple(f"local.{number}" for number in range(count))


def train(recipe: Recipe, count: int) -> list[Evaluation]:
    """Train as ``count`` synchronous workers would.

    Args:
        recipe: as the workers have it; ``recipe.batch`` is the size of one worker's batch.
        count: workers, from 1.

    Returns:
        The evaluations of the one model, the last after ``recipe.steps`` steps.

    Raises:
        UsageError: a count without a partition.
    """
    digits = load(recipe.seed, recipe.report)
    model = build_model(recipe.model, recipe.seed)
    return list(run(model, digits, recipe, count))


def run(model: nn.Module, digits: Digits, recipe: Recipe, count: int) -> Iterator[Evaluation]:
    """Train ``model`` in place and yield its evaluations as they come; its dtype must be that of the images."""
    if count < 1:
        raise UsageError(f"workers is {count}: needs at least 1")
    parts = digits.shards(recipe, count)
    streams = [
        Batches(part, recipe.batch, recipe.seed, name) for part, name in zip(parts, worker_names(count), strict=True)
    ]
    optimizer, follow_schedule = build_optimizer(model, recipe)
    for step in range(1, recipe.steps + 1):
        set_mean_gradient(recipe, model, [digits.batch(stream.next()) for stream in streams])
        optimizer.step()
        follow_schedule(step)
        if recipe.evaluates(step):
            yield evaluate(model, digits, step)


def set_mean_gradient(recipe: Recipe, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Set each parameter's ``grad`` to the mean, over the batches, of the gradient of the batch's mean loss."""
    model.zero_grad()
    for images, labels in batches:
        loss = recipe.loss(model, images, labels) / len(batches)
        loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types here


def main(argv: Sequence[str] | None = None) -> int:
    """Train and print one line an evaluation; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dagrad_bus.workers.reference", description=__doc__)
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="workers that are imitated, default 8")
    add_flags(parser)
    flags = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        for result in train(from_flags(flags), flags.workers):
            print(f"step {result.step} loss {result.loss:.4f} accuracy {result.accuracy:.4f}", flush=True)
    except BusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
