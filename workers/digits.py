"""The reference training program: small, real, nothing to download.

Alone it is a plain training loop; under a launcher the one line ``dagrad_bus.attach`` makes it one of many::

    python -m dagrad_bus.workers.digits
    dagrad run -n 8 -- python -m dagrad_bus.workers.digits --shards sorted

Each worker trains on its own shard (see :mod:`dagrad_bus.workers.shards`) and evaluates its own replica on the whole
test set. The loop, with its waiting at both ends, is :mod:`dagrad_bus.workers.loop`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from torch import Tensor

from dagrad_bus.workers import loop
from dagrad_bus.workers.problem import Recipe, add_flags, build_model, build_optimizer, evaluate, from_flags, load
from dagrad_bus.workers.shards import Batches


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dagrad_bus.workers.digits", description="Train on handwritten digits, alone or with peers."
    )
    add_flags(parser)
    loop.add_flags(parser)
    return parser.parse_args(argv)


def make_task(recipe: Recipe) -> loop.Task:
    """Load the data and build the model of a recipe."""
    digits = load(recipe.seed, recipe.report)
    model = build_model(recipe.model, recipe.seed)
    optimizer, follow = build_optimizer(model, recipe)

    def deal(index: int, count: int, name: str) -> loop.NextLoss:
        batches = Batches(digits.shards(recipe, count)[index], recipe.batch, recipe.seed, name)

        def next_loss() -> Tensor:
            return recipe.loss(model, *digits.batch(batches.next()))

        return next_loss

    return loop.Task(
        model=model,
        optimizer=optimizer,
        steps=recipe.steps,
        eval_every=recipe.eval_every,
        follow=follow,
        deal=deal,
        evaluate=lambda replica, step: evaluate(replica, digits, step),
        build=lambda: build_model(recipe.model, recipe.seed),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train and return the exit code; a known error is one line."""
    flags = parse(argv)
    return loop.run(flags, lambda: make_task(from_flags(flags)))


if __name__ == "__main__":
    sys.exit(main())
