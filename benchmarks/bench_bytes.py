"""Bytes a worker sends at each step, read at the network interface, beside the closed formula.

All runs are in a network namespace of their own (see ``dagrad_bus/lab/interface.py``), one after the other, so the
transmit counter of ``lo`` between start and end of a run is its traffic and nothing else: headers of TCP and IP,
acknowledgements of both kinds, handshakes, heartbeats. Start-up and idle traffic are told apart by two runs that differ
in nothing but their steps: bytes and steps of the shorter are taken from those of the longer. Heartbeats and the mixing
at the end count where they happen.

A worker skips a neighbour that has no credit left, and then sends less. So the frames that left are counted too, and
the figure that is compared is scaled to four frames a step; ``--pace`` gives each step the time that a larger model
would take, and lets nearly all exchanges happen.

    bytes = 4 * (raw payload * share the codec leaves + 330),   raw payload = values + scales + index of T blocks

int8 is measured at the density of the defaults, 1.5 %, 16-bit types at 1 %: about the same raw bytes.
330 is what goes with a frame: 126 for its header, 66 twice for TCP/IP and its own acknowledgement, the rest for ACK.

    python benchmarks/bench_bytes.py [--steps 100] [--rounds 3] [--codec raw|auto] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
from launching import RunFailed, counted, launched, steps_of
from spread import Row, Spread, report

from dagrad_bus.attach.exchange import VALUES
from dagrad_bus.blocks import frame_budget
from dagrad_bus.codec import encode, to_wire
from dagrad_bus.lab.interface import count_here, enclosed, why_not
from dagrad_bus.settings import ExchangeSettings

INSIDE = "DAGRAD_BENCH_INSIDE"
PARAMETERS = 301_066
DENSITIES, DEGREE = {"int8": ExchangeSettings().density, "bf16": 0.01, "f16": 0.01}, 4
OVERHEAD = 330
TARGETS = {64: 26.0, 1: 38.0}
"""Kilobytes a worker and step, of 16-bit values at 1 %."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """One run."""

    interface: int
    """Bytes sent on ``lo``."""
    steps: int
    """Of all workers together, those that only mixed included."""
    frames: float
    accepted: float
    payload: float
    """Bytes of the frames' payloads."""

    def less(self, other: Traffic) -> Traffic:
        """Return what this run has more than ``other``."""
        return Traffic(
            self.interface - other.interface,
            self.steps - other.steps,
            self.frames - other.frames,
            self.accepted - other.accepted,
            self.payload - other.payload,
        )


def raw_frame(block: int, wire: str) -> int:
    """Return the payload of one frame before the codec: values, scales, and evenly spread block numbers."""
    blocks = -(-PARAMETERS // block)
    count, _ = frame_budget(DENSITIES[wire], blocks, 1 / 16)
    indices = np.linspace(0, blocks - 1, count).astype(np.int64)
    values, scales = to_wire(np.zeros((count, block), np.float32), VALUES[wire])
    return encode(indices, values, scales, total=blocks, allow=frozenset()).raw_size


def run(args: argparse.Namespace, block: int, wire: str, steps: int) -> Traffic:
    """Run once and count."""
    options = {"block": block, "wire": wire, "density": DENSITIES[wire], "degree": DEGREE, "codec": args.codec}
    program = ["--steps", steps, "--eval-every", steps, "--pace", args.pace, "--linger", 2]
    before = count_here()
    with launched(args.workers, options, [], program) as running:
        records = running.finish()
    return Traffic(
        count_here().less(before).sent,
        steps_of(records),
        counted(records, "frames_sent"),
        counted(records, "frames_accepted"),
        counted(records, "payload_bytes_sent"),
    )


def measure(args: argparse.Namespace, block: int, wire: str) -> list[Row]:
    """Return the rows of one block size and value type."""
    found = []
    for _ in range(args.rounds):
        short, long = (run(args, block, wire, steps) for steps in (args.steps, 3 * args.steps))
        found.append(long.less(short))
    if any(t.steps <= 0 or t.frames <= 0 for t in found):
        raise RunFailed("the longer run has no more steps or frames than the shorter")
    raw = raw_frame(block, wire)
    share = sum(t.payload for t in found) / sum(t.frames for t in found) / raw
    formula = DEGREE * (raw * share + OVERHEAD) / 1000
    label, target = f"{wire} B={block}", TARGETS[block] if wire != "int8" else None
    per_step = [t.interface / t.steps / 1000 for t in found]
    per_frame = [t.interface / t.frames for t in found]
    whole = Spread.over([DEGREE * size / 1000 for size in per_frame])
    overhead = [t.interface / t.frames - t.payload / t.frames for t in found]
    return [
        Row(f"{label} sent", Spread.over(per_step), "kB/step", at_most=target),
        Row(f"{label} frames sent", Spread.over([t.frames / t.steps for t in found]), "/step", against=f"{DEGREE}"),
        Row(f"{label} frames accepted", Spread.over([t.accepted / t.frames for t in found]), "of those sent"),
        Row(f"{label} scaled to 4 frames", whole, "kB/step", target, against=f"formula {formula:.1f}"),
        Row(f"{label} beside the payload", Spread.over(overhead), "B/frame", against=f"formula {OVERHEAD}"),
        Row(f"{label} payload by raw payload", Spread.over([share]), "x", against=f"codec {args.codec}, raw {raw} B"),
    ]


def enter_namespace() -> int:
    """Run this program again with a network of its own; return its exit code."""
    if reason := why_not():
        print(f"cannot measure: {reason}", file=sys.stderr)
        return 2
    words = enclosed([sys.executable, *sys.argv])
    return subprocess.run(words, env={**os.environ, INSIDE: "1"}, check=False).returncode


def main() -> int:
    """Measure and print; exit code 2 without a network namespace, or if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, default 3")
    parser.add_argument("--workers", type=int, default=8, help="default 8")
    parser.add_argument("--steps", type=int, default=100, help="of the shorter run, default 100; the longer has 3 x")
    parser.add_argument("--pace", type=float, default=0.1, help="seconds a step takes at least, default 0.1")
    parser.add_argument("--codec", choices=["raw", "auto"], default="auto", help="default auto, as in a run")
    parser.add_argument("--wire", choices=list(DENSITIES), action="append", help="default all")
    parser.add_argument("--block", type=int, choices=[64, 1], action="append", help="default both")
    parser.add_argument("--quick", action="store_true", help="1 repetition of 30 and 90 steps")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    if INSIDE not in os.environ:
        return enter_namespace()
    if args.quick:
        args.rounds, args.steps = 1, 30
    wires, blocks = args.wire or list(DENSITIES), args.block or [64, 1]
    try:
        rows = [row for block in blocks for wire in wires for row in measure(args, block, wire)]
    except RunFailed as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2
    facts = {"workers": args.workers, "steps": f"{args.steps} and {3 * args.steps}", "pace": args.pace}
    report("bytes", rows, as_json=args.json, codec=args.codec, parameters=PARAMETERS, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
