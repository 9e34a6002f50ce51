"""How late the bus's loop is beside real training, which the times of failure detection must allow for.

One worker trains in this process while its bus runs on its thread; a task on that loop sleeps 10 ms again and again and
notes how late it wakes. Kinds of training thread:

idle        no training at all
compiled    large matrix products: torch holds the interpreter lock for moments only
python      a small model with an optimizer that loops over 200 tensors in Python
checkpoint  as ``python``, and every 50 steps the model (20 M parameters) is pickled in memory

    python benchmarks/bench_lag.py [--seconds 10] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.handoff import BusThread
from dagrad_bus.settings import BeatSettings, Settings

TICK = 0.01
SHARES = (50, 99, 99.9)
QUICK = 3.0


class Probe:
    """A task on the bus's loop that notes how late it wakes."""

    def __init__(self, bus: BusThread) -> None:
        self.late: list[float] = []
        self._stop = threading.Event()
        self._done = asyncio.run_coroutine_threadsafe(self._watch(), bus._bus.loop)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            due = loop.time() + TICK
            await asyncio.sleep(TICK)
            self.late.append(max(0.0, loop.time() - due))

    def stop(self) -> list[float]:
        """Return the lateness of each wake, in seconds."""
        self._stop.set()
        self._done.result(10)
        return self.late


def idle() -> Callable[[], None]:
    """Return a step that computes nothing."""
    return lambda: time.sleep(0.01)


def compiled() -> Callable[[], None]:
    """Return a step of large products."""
    model = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batch = torch.randn(256, 1024)

    def step() -> None:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()

    return step


def python() -> Callable[[], None]:
    """Return a step whose optimizer goes through many small tensors in Python."""
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(100)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, foreach=False)
    batch = torch.randn(32, 16)

    def step() -> None:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()

    return step


def checkpoint() -> Callable[[], None]:
    """Return such a step that pickles a model of 20 M parameters now and then."""
    train, large = python(), nn.Linear(4096, 4883)
    count = 0

    def step() -> None:
        nonlocal count
        train()
        count += 1
        if count % 50 == 0:
            torch.save(large.state_dict(), io.BytesIO())

    return step


KINDS: dict[str, Callable[[], Callable[[], None]]] = {
    "idle": idle,
    "compiled": compiled,
    "python": python,
    "checkpoint": checkpoint,
}


def measure(kind: str, seconds: float) -> dict[str, float]:
    """Return percentiles and the maximum of the lateness in ms, and the steps taken."""
    settings = Settings(run="lag", name="a", members=("a", "b"), beat=BeatSettings())
    step = KINDS[kind]()
    with BusThread(settings, Layout((Entry("x", (1 << 16,), "float32"),), (), 64)) as bus:
        step()
        probe = Probe(bus)
        end, steps = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            step()
            bus.view()
            steps += 1
        late = np.array(probe.stop()) * 1000
    figures = {f"p{share:g}": float(np.percentile(late, share)) for share in SHARES}
    return {**figures, "max": float(late.max()), "steps": float(steps)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all kinds and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each kind")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:g} s of each")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    found = {kind: measure(kind, QUICK if args.quick else args.seconds) for kind in KINDS}
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{'training thread':<16}" + "".join(f"{name:>11}" for name in ("p50 ms", "p99", "p99.9", "max", "steps")))
    for kind, figures in found.items():
        print(f"{kind:<16}" + "".join(f"{value:>11.2f}" for value in figures.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
