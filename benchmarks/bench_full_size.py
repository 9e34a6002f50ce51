"""Models of full size through a whole run: memory, bytes and the exchange's share of a step.

ResNet-50 (25.6 M parameters, 1000 classes; generated images of 64 x 64, four a step) and BERT-base (109.5 M; generated
sentences of at most 32 tokens, four a step), each on four workers of ``dagrad run`` with all settings as they come.
What is learned means nothing here; model, optimizer, exchange, frames and processes are those of a real run.

* peak memory: ``ru_maxrss`` of a worker. Pages that workers share, such as torch's own code, count in each.
* bytes: what a worker handed to ZeroMQ by its steps, beside neighbours times the size of a frame as ``dagrad plan`` has
  it: ``density`` of the blocks, their numbers and headers. Links without credit skip frames, so less may be sent.
* exchange: time of the training thread inside the exchange, between the optimizer's own work and the end of its step,
  as a share of the step. What other threads do meanwhile is not in it; on a machine with fewer cores than workers both
  wait for the processor.

The first fifth of the steps, in which links and buffers are made, is in the bytes and not in the times.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from launching import RunFailed, launched
from spread import Row, Spread, report

from dagrad_bus.settings import ExchangeSettings
from dagrad_bus.workers import images
from dagrad_bus.workers.launch.forecast import plan_frame
from dagrad_bus.workers.launch.journal import Record

CLASSES = 1000
SENTENCES, WORDS = 2000, 5000
LIMIT = 1500.0
"""Seconds a run may take."""
PARTS = 5
"""So often are times logged."""


def write_images(folder: Path) -> None:
    """Write the generated images, dealt to a thousand classes."""
    images.make_data(folder)
    for part in ("train", "val"):
        files = sorted((folder / part).rglob("*.JPEG"))
        for number, file in enumerate(files):
            target = folder / part / f"c{number % CLASSES:04}" / file.name
            target.parent.mkdir(exist_ok=True)
            file.rename(target)
        for place in (folder / part).glob("n*"):
            place.rmdir()


def write_sentences(folder: Path) -> None:
    """Write sentences of random words in the form of SST-2."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(WORDS)]
    for name, count in (("train", SENTENCES), ("dev", 50)):
        lines = [f"{' '.join(rng.choice(words, rng.integers(8, 25)))}\t{number % 2}" for number in range(count)]
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *lines]))


@dataclass(frozen=True, slots=True)
class Case:
    """A model and how it is run."""

    module: str
    make: Callable[[Path], None]
    flags: tuple[object, ...]


CASES = {
    "resnet50": Case("dagrad_bus.workers.imagenet", write_images, ("--image-size", 64)),
    "bert-base": Case("dagrad_bus.workers.glue", write_sentences, ("--task", "sst2", "--length", 32)),
}


def measure(name: str, workers: int, steps: int) -> list[Row]:
    """Run one model and return its rows: median and range over the workers, and for times over parts of the run."""
    case = CASES[name]
    with tempfile.TemporaryDirectory(prefix="dagrad-full-") as scratch:
        case.make(Path(scratch))
        flags = [*case.flags, "--data-dir", scratch, "--batch", 4, "--steps", steps, "--eval-every", steps // PARTS]
        flags += ["--eval-limit", 4, "--log-steps", "--no-finals", "--wait", 300, "--linger", 30]
        with launched(workers, {}, [], flags, module=case.module, limit=LIMIT) as running:
            records = running.finish()
    return rows_of(name, records, workers)


def rows_of(name: str, records: Sequence[Record], workers: int) -> list[Row]:
    """Return the figures that the workers' journals hold."""
    logs = [[line for line in record.logs if "peak_mb" in line] for record in records]
    if len(logs) < workers or any(len(lines) < 2 for lines in logs):
        raise RunFailed(f"{name}: a worker logged no times")
    settled = [line for lines in logs for line in lines[1:]]
    parameters = int(records[0].start["parameters"])
    neighbours = workers - 1  # up to five workers, the graph of degree 4 joins all
    frame = plan_frame(parameters, ExchangeSettings())
    formula = neighbours * frame.size / 1e6
    ends = [record.last for record in records]
    sent = [end["counters"]["bytes_sent"] / end["step"] / 1e6 for end in ends]
    frames = [end["counters"]["frames_sent"] / end["step"] for end in ends]
    share = Spread.over([100 * each / (8 * parameters / 1e6) for each in sent])
    return [
        Row(f"{name} exchanged values", Spread.over([parameters / 1e6]), "M"),
        Row(f"{name} peak memory", Spread.over([lines[-1]["peak_mb"] / 1000 for lines in logs]), "GB a worker"),
        Row(f"{name} sent", Spread.over(sent), "MB a worker and step", against=f"formula {formula:.3g}"),
        Row(f"{name} sent, of synchronous dense", share, "%"),
        Row(f"{name} frames", Spread.over(frames), "a step", against=f"{neighbours}"),
        Row(f"{name} step", Spread.over([line["step_p50_ms"] for line in settled]), "ms"),
        Row(f"{name} exchange", Spread.over([line["exchange_ms"] for line in settled]), "ms a step"),
        Row(f"{name} exchange's share", Spread.over([100 * line["exchange_share"] for line in settled]), "% of a step"),
    ]


def main() -> int:
    """Measure and print; exit code 2 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CASES), action="append", help="default both")
    parser.add_argument("--workers", type=int, choices=range(2, 6), default=4, help="default 4")
    parser.add_argument("--steps", type=int, default=25, help="of each worker, default 25, at least 10")
    parser.add_argument("--quick", action="store_true", help="ResNet-50 alone, 10 steps, 2 workers")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    if args.quick:
        args.only, args.workers, args.steps = ["resnet50"], 2, 10
    try:
        rows = [row for name in args.only or CASES for row in measure(name, args.workers, max(10, args.steps))]
    except RunFailed as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2
    report("full size", rows, as_json=args.json, workers=args.workers, steps=args.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
