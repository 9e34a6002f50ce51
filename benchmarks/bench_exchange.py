"""What one exchange costs beside one pass over the model: ratios to ``torch.sub(x, a, out=o)``, one core.

An exchange is score, select, gather, convert and move the anchor, for 1 % of the model; mixing takes four waiting
frames of 1 % each. Measured and reference calls alternate in one process, so that a busy machine shifts both.

    python benchmarks/bench_exchange.py [--elements 25600000] [--rounds 15] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dagrad_bus.attach.blend import Blender
from dagrad_bus.attach.chooser import Chooser
from dagrad_bus.attach.kernels import gather, scatter
from dagrad_bus.mixing import Version

DENSITY = 0.01
FRAMES = 4
TARGETS = {"exchange": {1: 4.0, 64: 1.6, 128: 1.6}, "mix": {1: 3.0, 64: 0.3, 128: 0.3}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=25_600_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for block in (64, 128, 1) for row in measure(args.elements // block * block, block, args.rounds)]
    if args.json:
        print(
            json.dumps({"elements": args.elements, "torch": torch.__version__, "numpy": np.__version__, "rows": rows})
        )
        return
    for row in rows:
        print(f"{row['what']:9} B={row['block']:<4} p50 {row['p50']:5}  p99 {row['p99']:5}  target {row['target']}")
    sys.stdout.flush()


def measure(size: int, block: int, rounds: int) -> list[dict[str, object]]:
    """Return the ratios of one block size."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(size, generator=generator)
    a = x + 0.01 * torch.randn(size, generator=generator)
    out = torch.empty_like(x)
    blocks = size // block
    count = int(DENSITY * blocks)
    chooser = Chooser(blocks, block, 1, x.device)
    blender = Blender(blocks, block, 2.0, x.device)
    rng = np.random.default_rng(3)
    frames = [_frame(rng, blocks, block, count) for _ in range(FRAMES)]

    def reference() -> None:
        torch.sub(x, a, out=out)

    measured = {
        "exchange": lambda: exchange(chooser, x, a, block, count),
        "mix": lambda: blender.blend(x, frames),
    }
    return [
        {"what": what, "block": block, **ratios(call, reference, rounds), "target": TARGETS[what][block]}
        for what, call in measured.items()
    ]


def exchange(chooser: Chooser, x: Tensor, a: Tensor, block: int, count: int) -> Tensor:
    """Do what the state rule does when it publishes."""
    indices = chooser.top(x, a, count)
    values = gather(x, block, indices)
    wire = torch.from_numpy(values).to(torch.bfloat16)
    scatter(a, block, indices, values)
    return wire


def ratios(call: Callable[[], object], reference: Callable[[], object], rounds: int) -> dict[str, float]:
    """Time both in turn; return quantiles of their ratio."""
    found: list[float] = []
    for _ in range(rounds + 1):
        before, measured, after = _seconds(reference), _seconds(call), _seconds(reference)
        found.append(2 * measured / (before + after))
    ordered = np.sort(found[1:])  # the first round warms the caches
    return {"p50": round(float(np.median(ordered)), 3), "p99": round(float(np.quantile(ordered, 0.99)), 3)}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _frame(rng: np.random.Generator, blocks: int, block: int, count: int) -> Version:
    indices = np.sort(rng.choice(blocks, count, replace=False)).astype(np.int64)
    return Version(indices, rng.standard_normal((count, block), dtype=np.float32), 1.0)


if __name__ == "__main__":
    main()
