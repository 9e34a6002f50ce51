"""What handing a frame to the bus thread costs the training thread, and how soon the loop runs.

The training thread computes in pure Python, the worst case for the interpreter lock, and hands over an item now and
then: through :class:`dagrad_bus.handoff.Inbox` (deque and eventfd) or by ``loop.call_soon_threadsafe``, in turn, on one
loop. The third side is :meth:`BusThread.publish` of a real bus without neighbours, so the loop encodes each frame while
the caller goes on; its latency is not seen from outside. The bus sets the switch interval to 20 us; the table of the
design has CPython's 5 ms as well, so both are measured.

    python benchmarks/bench_handoff.py [--rounds 7] [--items 300] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from spread import Row, Spread, interleave, report, spread_of_ratios

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.codec import Value
from dagrad_bus.doorbell import Inbox
from dagrad_bus.events import Outgoing, Selection
from dagrad_bus.handoff import SWITCH_INTERVAL, BusThread, loop_factory, tighten_timers
from dagrad_bus.ids import JobId, Step
from dagrad_bus.settings import Settings, TransportSettings
from dagrad_bus.wire import Kind

COST_TARGET, LATENCY_TARGET = 20.0, 100.0
"""Microseconds, medians."""
PAUSE = 0.002
"""Seconds of pure Python between two items."""
DEFAULT_SWITCH = 0.005


@dataclass(frozen=True, slots=True)
class Timing:
    """One repetition, in microseconds."""

    cost_p50: float
    cost_p99: float
    latency_p50: float
    latency_p99: float


class Loop:
    """A loop on a thread, with an inbox."""

    def __init__(self, name: str) -> None:
        self.delays: list[float] = []
        self.inbox: Inbox[int] = Inbox(self._deliver, 1024)
        self._name = name
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loop")
        self._thread.start()
        self._ready.wait()

    def _deliver(self, sent: int) -> None:
        self.delays.append((time.perf_counter_ns() - sent) / 1000)

    def call_soon(self, sent: int) -> None:
        """Hand over as asyncio does it."""
        self.loop.call_soon_threadsafe(self._deliver, sent)

    def _run(self) -> None:
        tighten_timers()
        with asyncio.Runner(loop_factory=loop_factory(self._name)) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self.inbox.start(self.loop, _raise)
        self._ready.set()
        await self._over.wait()
        self.inbox.close()

    def close(self) -> None:
        """Stop loop and thread."""
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join()


def _raise(error: Exception) -> None:
    raise error


def compute(seconds: float) -> int:
    """Compute in pure Python for so long."""
    end, total = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        for number in range(50):
            total += number * number
    return total


def time_items(hand_over: Callable[[int], object], delays: list[float], items: int, switch: float) -> Timing:
    """Hand over ``items`` between stretches of pure Python; ``delays`` is what the loop's side fills."""
    sys.setswitchinterval(switch)
    delays.clear()
    costs = []
    for _ in range(items):
        compute(PAUSE)
        began = time.perf_counter_ns()
        hand_over(began)
        costs.append((time.perf_counter_ns() - began) / 1000)
    compute(4 * DEFAULT_SWITCH)  # the last ones arrive
    latencies = delays or [float("nan")]
    return Timing(*np.percentile(costs, [50, 99]).tolist(), *np.percentile(latencies, [50, 99]).tolist())


def outgoing(number: int) -> Outgoing:
    """Return a frame of 47 blocks of 64, what 1 % of 301 066 elements makes."""
    indices = np.arange(0, 470, 10, dtype=np.int64)
    chosen = Selection(indices, np.zeros((47, 64), np.uint16))
    return Outgoing(JobId(number), (), Kind.STATE, Value.BF16, chosen, Step(1), 10.0, time.monotonic())


def measure(name: str, rounds: int, items: int) -> list[Row]:
    """Return the rows of one kind of loop."""
    loop = Loop(name)
    layout = Layout((Entry("x", (301_066,), "float32"),), (), 64)
    with BusThread(Settings(transport=TransportSettings(loop=name)), layout) as bus:  # type: ignore[arg-type]  # choices
        frame = outgoing(1)
        nothing: list[float] = []
        sides: dict[str, Callable[[], Timing]] = {
            f"{what} {switch * 1000:g} ms": partial(time_items, hand_over, delays, items, switch)
            for switch in (SWITCH_INTERVAL, DEFAULT_SWITCH)
            for what, hand_over, delays in (
                ("Inbox.put", loop.inbox.put, loop.delays),
                ("call_soon_threadsafe", loop.call_soon, loop.delays),
                ("BusThread.publish", lambda _: bus.publish(frame), nothing),
            )
        }
        found = interleave(sides, rounds)
        sys.setswitchinterval(SWITCH_INTERVAL)  # for the bus to close with
    loop.close()
    return rows_of(name, found)


def rows_of(name: str, found: dict[str, list[Timing]]) -> list[Row]:
    """Return cost and latency of each side, then the ratios."""
    rows = []
    for side, timings in found.items():
        ours = not side.startswith("call_soon") and side.endswith(f" {SWITCH_INTERVAL * 1000:g} ms")
        label = f"{name:7} {side}"
        cost = Spread.over([t.cost_p50 for t in timings])
        rows.append(Row(f"{label} caller p50", cost, "us", at_most=COST_TARGET if ours else None))
        rows.append(Row(f"{label} caller p99", Spread.over([t.cost_p99 for t in timings]), "us"))
        if side.startswith("BusThread"):
            continue
        late = Spread.over([t.latency_p50 for t in timings])
        rows.append(Row(f"{label} latency p50", late, "us", at_most=LATENCY_TARGET if ours else None))
        rows.append(Row(f"{label} latency p99", Spread.over([t.latency_p99 for t in timings]), "us"))
    for switch in (SWITCH_INTERVAL, DEFAULT_SWITCH):
        label = f"{switch * 1000:g} ms"
        ours_, theirs = found[f"Inbox.put {label}"], found[f"call_soon_threadsafe {label}"]
        ratio = spread_of_ratios([t.latency_p50 for t in ours_], [t.latency_p50 for t in theirs])
        rows.append(Row(f"{name:7} latency p50, ratio {label}", ratio, "x", against="call_soon_threadsafe"))
    return rows


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="repetitions of each side, default 7")
    parser.add_argument("--items", type=int, default=300, help="items a repetition, default 300")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], action="append", help="default both")
    parser.add_argument("--quick", action="store_true", help="3 repetitions of 100 items")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    rounds, items = (3, 100) if args.quick else (args.rounds, args.items)
    rows = [row for name in args.loop or ("uvloop", "asyncio") for row in measure(name, rounds, items)]
    note = f"caller computes {PAUSE * 1000:g} ms of pure Python between items; the switch interval is named in ms"
    report("handoff", rows, as_json=args.json, notes=[note], rounds=rounds, items=items)
    return 0


if __name__ == "__main__":
    sys.exit(main())
