"""Accuracy at equal bytes: the exchange rules beside synchronous SGD, on digits, IID and label-sorted shards.

Each cell of the grid (shards, rule, learning rate, seed) is one ``dagrad run``; the reference is computed in this
process. Results are kept in ``results.jsonl`` as they come, so a benchmark that was stopped goes on where it was::

    python benchmarks/bench_accuracy.py                        # the default grid, about seven minutes on two cores
    python benchmarks/bench_accuracy.py --rates 0.02 0.05 0.1  # more cells; those at hand are not run again

At the end it prints rows of Markdown, each rule at its best rate, writes ``accuracy.json`` and ``accuracy.md`` beside
the results, and says whether the targets are met. Exit code 1: one is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

RUN_LIMIT = 300.0
"""Seconds one run may take."""
IID_GAP, SORTED_MEAN, SORTED_WORST = 0.005, 0.93, 0.90
"""Targets of the state rule: distance from the reference on IID shards; mean and worst on label-sorted ones."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the grid; ``rule`` is ``reference`` for the oracle."""

    shards: str
    rule: str
    lr: float
    seed: int
    workers: int
    steps: int
    density: float
    w0: float | None
    pace: float
    """Least seconds of a step: eight workers on two cores then exchange at each step."""
    extra: tuple[str, ...]
    """Further flags of the training program."""

    @property
    def key(self) -> str:
        """What the results know the cell by."""
        return json.dumps(asdict(self), sort_keys=True)

    def words(self) -> list[str]:
        """Return the recipe as flags of the training program."""
        recipe = {"--shards": self.shards, "--lr": self.lr, "--seed": self.seed, "--steps": self.steps}
        return [str(word) for pair in recipe.items() for word in pair] + list(self.extra)


@dataclass(frozen=True, slots=True)
class Result:
    """What one cell gave. Accuracies are shares of the test set, each worker's own replica after its last step."""

    mean: float
    worst: float
    std: float
    mean_model: float | None
    dense_share: float | None
    """Bytes a worker and step as a share of synchronous dense training."""
    consensus: float | None
    mixing: str | None
    seconds: float


def measure(cell: Cell, folder: Path) -> Result:
    """Compute one cell.

    Raises:
        RuntimeError: the run failed; the message holds the end of what it said.
    """
    start = time.monotonic()
    program = [sys.executable, "-m", "dagrad_bus.workers.digits", *cell.words()]
    if cell.rule == "reference":
        program[2] = "dagrad_bus.workers.reference"
        last = _call([*program, "--workers", str(cell.workers)]).splitlines()[-1]
        accuracy = float(last.rpartition(" ")[2])
        return Result(accuracy, accuracy, 0.0, accuracy, None, None, None, time.monotonic() - start)
    program += ["--pace", str(cell.pace)]
    options = ["-n", cell.workers, "--rule", cell.rule, "--density", cell.density, "--seed", cell.seed]
    options += ["--w0", cell.w0] if cell.w0 is not None else []
    target = folder / f"{cell.shards}-{cell.rule}-lr{cell.lr}-seed{cell.seed}-{time.time_ns() // 10**6}"
    options += ["--dir", target, "--json", "--progress", "none", "--no-figures"]
    launcher = [sys.executable, "-c", "from dagrad_bus.tools.cli import main; main()", "run", *map(str, options)]
    summary: dict[str, Any] = json.loads(_call([*launcher, "--", *program]))
    accuracy_of = summary["accuracy"]
    consensus = summary.get("consensus") or [[0, None]]
    return Result(
        mean=accuracy_of["mean"],
        worst=accuracy_of["worst"],
        std=accuracy_of["std"],
        mean_model=_mean_model(target),
        dense_share=summary["dense_share"],
        consensus=consensus[-1][1],
        mixing=summary["mixing"]["verdict"],
        seconds=time.monotonic() - start,
    )


def _call(words: Sequence[str]) -> str:
    answer = subprocess.run(words, capture_output=True, text=True, timeout=RUN_LIMIT, check=False)
    if answer.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {answer.returncode}\n{answer.stderr[-2000:]}")
    return answer.stdout


def _mean_model(folder: Path) -> float | None:
    """Return the accuracy of the mean model that the last worker to finish has logged."""
    found: float | None = None
    for file in sorted((folder / "workers").glob("*.jsonl")):
        for line in file.read_text().splitlines():
            if "mean_model_accuracy" in line:
                found = json.loads(line)["mean_model_accuracy"]
    return found


def read_results(file: Path) -> dict[str, Result]:
    """Return the results at hand by the key of their cell."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {entry["key"]: Result(**entry["result"]) for entry in map(json.loads, lines)}


def fill(cells: Sequence[Cell], folder: Path) -> dict[str, Result]:
    """Measure what is missing, one after the other, and return all results."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "results.jsonl"
    results = read_results(file)
    for number, cell in enumerate(cells, 1):
        name = f"[{number}/{len(cells)}] {cell.shards:9} {cell.rule:9} lr {cell.lr:<6} seed {cell.seed}"
        if cell.key in results:
            print(f"{name}  at hand", flush=True)
            continue
        result = results[cell.key] = measure(cell, folder)
        with file.open("a") as out:
            out.write(json.dumps({"key": cell.key, "result": asdict(result)}) + "\n")
        print(f"{name}  mean {result.mean:.4f} worst {result.worst:.4f}  {result.seconds:.1f} s", flush=True)
    return results


@dataclass(frozen=True, slots=True)
class Row:
    """One rule on one kind of shards at its best rate, over the seeds: means, and the worst of the worst."""

    shards: str
    rule: str
    lr: float
    seeds: int
    mean: float
    worst: float
    std: float
    mean_model: float | None
    dense_share: float | None
    gap: float
    """Accuracy of the reference at its own best rate minus this mean."""

    def markdown(self) -> str:
        """Return the row of the table."""
        numbers = [
            f"{100 * self.mean:.2f}",
            f"{100 * self.worst:.2f}",
            f"{100 * self.std:.2f}",
            _percent(self.mean_model),
        ]
        return f"| {self.shards} | {self.rule} | {self.lr} | {_percent(self.dense_share)} | " + (
            " | ".join([*numbers, f"{100 * self.gap:+.2f}"]) + " |"
        )


HEAD = """\
| shards | rule | rate | bytes, % of sync dense | mean | worst | std | mean model | behind reference |
|---|---|---|---|---|---|---|---|---|"""


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _mean(numbers: Iterable[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return fmean(known) if known else None


def tabulate(cells: Sequence[Cell], results: dict[str, Result]) -> list[Row]:
    """Return one row for each kind of shards and rule, in the order of the grid."""
    rows: list[Row] = []
    oracle: dict[str, float] = {}
    for shards, rule in dict.fromkeys((cell.shards, cell.rule) for cell in cells):
        by_rate: dict[float, list[Result]] = {}
        for cell in cells:
            if (cell.shards, cell.rule) == (shards, rule):
                by_rate.setdefault(cell.lr, []).append(results[cell.key])
        lr, best = max(by_rate.items(), key=lambda item: fmean(result.mean for result in item[1]))
        mean = fmean(result.mean for result in best)
        oracle.setdefault(shards, mean)  # the reference is the first rule of the grid
        worst, std = min(result.worst for result in best), fmean(result.std for result in best)
        model, share = _mean(result.mean_model for result in best), _mean(result.dense_share for result in best)
        rows.append(Row(shards, rule, lr, len(best), mean, worst, std, model, share, oracle[shards] - mean))
    return rows


def judge(rows: Sequence[Row]) -> list[tuple[str, bool]]:
    """Return the targets that the rows speak about, and whether each is met."""
    found: list[tuple[str, bool]] = []
    for row in rows:
        if row.rule == "state" and row.shards == "iid":
            text = f"iid: {100 * row.gap:+.2f} points behind the reference, at most {100 * IID_GAP}"
            found.append((text, row.gap <= IID_GAP))
        if row.rule == "state" and row.shards == "sorted":
            found.append((f"sorted: mean {row.mean:.4f}, at least {SORTED_MEAN}", row.mean >= SORTED_MEAN))
            found.append((f"sorted: worst {row.worst:.4f}, at least {SORTED_WORST}", row.worst >= SORTED_WORST))
    return found


def make_grid(flags: argparse.Namespace) -> list[Cell]:
    """Return the cells, the reference first for each kind of shards."""
    rules = ["reference", *(rule for rule in flags.rules if rule != "reference")]
    grid = product(flags.shards, rules, flags.rates, flags.seeds)
    fixed = (flags.workers, flags.steps, flags.density, flags.w0, flags.pace, tuple(flags.extra))
    return [Cell(shards, rule, lr, seed, *fixed) for shards, rule, lr, seed in grid]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags."""
    parser = argparse.ArgumentParser(
        description="Accuracy of the exchange rules beside synchronous SGD, at equal bytes."
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench-accuracy"), help="folder of the results")
    parser.add_argument("--shards", nargs="+", default=["iid", "sorted"], choices=["iid", "dirichlet", "sorted"])
    parser.add_argument("--rules", nargs="+", default=["state", "gradient", "local"])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.05], help="learning rates; the best counts")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--density", type=float, default=0.01)
    parser.add_argument("--w0", type=float, help="default: that of the settings")
    parser.add_argument("--pace", type=float, default=0.1, help="least seconds of a step of a worker")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="further flags of the training program")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Fill the grid, print the table and the verdicts; return the exit code."""
    flags = parse(argv)
    cells = make_grid(flags)
    rows = tabulate(cells, fill(cells, flags.out))
    verdicts = judge(rows)
    lines = [HEAD, *(row.markdown() for row in rows), ""]
    lines += [f"- {'met' if met else 'MISSED'}: {text}" for text, met in verdicts]
    report = {"rows": [asdict(row) for row in rows], "targets": [{"text": text, "met": met} for text, met in verdicts]}
    (flags.out / "accuracy.json").write_text(json.dumps(report, indent=1) + "\n")
    (flags.out / "accuracy.md").write_text("\n".join(lines) + "\n")
    print("", *lines, sep="\n")
    return 0 if all(met for _, met in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
