"""How far the state rule is behind synchronous training on IID digits, in virtual time, over many seeds.

Three seeds of 360 test samples cannot tell 0.2 points from 0.7. Here a run takes some seconds, so that twenty seeds are cheap;
settings are those of ``dagrad bench paper``: 8 workers, 150 steps, the MLP of 301 066 parameters, frames of four times the
density in the steps of rate 0. Rows of ``few`` ask the other question: 600 steps with a frame of 1 % at every 4th step, and no
larger ones at the end, unless said::

    python benchmarks/bench_gap.py                                   # every row of 150 steps, twenty seeds: half an hour
    python benchmarks/bench_gap.py --only wsd --report test          # what is published of the two rules compared
    python benchmarks/bench_gap.py --only 300                        # twice as many steps
    python benchmarks/bench_gap.py --only few --seeds 10             # few bytes: a quarter of an hour

Differences are to the first row shown, seed by seed, with their standard error; bytes are in per cent of 8 P, before the codec.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import fmean, stdev

from dagrad_bus.lab.costs import Costs
from dagrad_bus.lab.experiment import Experiment
from dagrad_bus.lab.paper.cells import SETTLE_FACTOR
from dagrad_bus.lab.pool import Found, Pool
from dagrad_bus.settings import ExchangeSettings

BASE = Experiment(
    task="digits-mlp", lr=0.2, schedule="wsd", settle=SETTLE_FACTOR, costs=Costs(compute=0.06), compress=False
)
STATE, SYNC = BASE.exchange, ExchangeSettings(rule="sync-ps")
LONG = replace(BASE, steps=600, settle=1.0)
FEW = replace(LONG, exchange=replace(STATE, density=0.01, interval=4))
ROWS: dict[str, Experiment] = {
    "cosine: sync-ps, rate 0.4": replace(BASE, exchange=SYNC, lr=0.4, schedule="cosine"),
    "cosine: state, rate 0.2": replace(BASE, schedule="cosine"),
    "wsd: sync-ps, rate 0.4": replace(BASE, exchange=SYNC, lr=0.4),
    "wsd: state, rate 0.2": BASE,
    "state, rate 0.15": replace(BASE, lr=0.15),
    "state, density 0.024": replace(BASE, exchange=replace(STATE, density=0.024)),
    "state, w0 0.65": replace(BASE, exchange=replace(STATE, w0=0.65)),
    "state, w0 0.8": replace(BASE, exchange=replace(STATE, w0=0.8)),
    "state, w0 0.97": replace(BASE, exchange=replace(STATE, w0=0.97)),
    "state, momentum 0.8, rate 0.4": replace(BASE, momentum=0.8, lr=0.4),
    "state, momentum 0.95, rate 0.1": replace(BASE, momentum=0.95, lr=0.1),
    "gossip-dense, rate 0.2": replace(BASE, exchange=ExchangeSettings(rule="gossip-dense")),
    "300 steps: sync-ps, rate 0.4": replace(BASE, steps=300, exchange=SYNC, lr=0.4),
    "300 steps: state, rate 0.2": replace(BASE, steps=300),
    "few: sync-ps, wsd, rate 0.2": replace(LONG, exchange=SYNC),
    "few: sync-ps, wsd, rate 0.4": replace(LONG, exchange=SYNC, lr=0.4),
    "few: state, wsd, rate 0.1": replace(FEW, lr=0.1),
    "few: state, wsd, rate 0.2": FEW,
    "few: state, cosine, rate 0.2": replace(FEW, schedule="cosine"),
    "few: state, wsd, 0.7 %, at last 2.8": replace(FEW, settle=4.0, exchange=replace(FEW.exchange, density=0.007)),
}


def main() -> None:
    """Run the rows asked for and print each as it is whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="default 20")
    parser.add_argument(
        "--report", choices=("val", "test"), default="val", help="part that accuracy is of; default val"
    )
    parser.add_argument("--only", default="", metavar="WORD", help="rows whose name begins so")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; default 2")
    args = parser.parse_args()
    first: list[float] = []
    with Pool(args.jobs) as pool:
        for name, experiment in ROWS.items():
            if name.startswith(args.only) and (args.only or experiment.steps == BASE.steps):
                runs = [replace(experiment, seed=seed, report=args.report) for seed in range(args.seeds)]
                found, share = measure(pool, runs)
                first = first or found
                print(f"{name:34} {share:6.2f} % {describe(found, first)}", flush=True)


def measure(pool: Pool, runs: list[Experiment]) -> tuple[list[float], float]:
    """Return the accuracy of each run, mean over its workers, and the bytes of all as a share of 8 P; both in per cent."""
    by_seed: dict[int, Found] = {}
    pool.run(runs, lambda experiment, found: by_seed.update({experiment.seed: found}))
    accuracies = [100 * by_seed[run.seed]["accuracy"] for run in runs]
    return accuracies, 100 * fmean(found["dense_share"] for found in by_seed.values())


def describe(found: list[float], first: list[float]) -> str:
    """Return mean and spread, and the difference to the first row."""
    spread = stdev(found) if len(found) > 1 else 0.0
    text = f"{fmean(found):6.2f} ± {spread:.2f}"
    if found is first:
        return text
    behind = [own - other for own, other in zip(found, first, strict=True)]
    error = stdev(behind) / len(behind) ** 0.5 if len(behind) > 1 else 0.0
    return f"{text}   difference {fmean(behind):+.2f} (standard error {error:.2f})"


if __name__ == "__main__":
    main()
