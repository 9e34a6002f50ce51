"""``dagrad simulate``: the rules in virtual time: parallel efficiency, bytes and ages of a cluster that does not exist."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dagrad_bus.errors import UsageError

if TYPE_CHECKING:
    from dagrad_bus.lab.calibration import Calibration
    from dagrad_bus.lab.experiment import Experiment, Result
    from dagrad_bus.lab.scaling import Question, Row
    from dagrad_bus.settings import ExchangeSettings, RuleName

SCHEMA = "dagrad.simulate/1"
LISTS = ("--link", "--workers", "-n", "--scale", "--rules", "--against")
"""Options that take several words."""
FIGURE = "efficiency.png"
EXCHANGE = ("density", "block", "interval", "fanout", "wire")
"""Settings of the exchange that have an option here."""


class WordsCommand(click.Command):
    """A command without arguments some of whose options take several words: ``--workers 32 128``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the words of such options by commas before they are parsed."""
        from dagrad_bus.tools.bench_paper import join_words

        return super().parse_args(ctx, join_words(args, LISTS))


@click.command(cls=WordsCommand, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--profile", metavar="NAME", help="Model and machine: resnet50, bert-base, digits (calibrated).  [resnet50]"
)
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Samples of a worker in a step.  [the profile's]")
@click.option(
    "--link",
    "wires",
    multiple=True,
    metavar="NAME ...",
    help="10gbit, 1gbit, 100mbit.  [all; one with --scale, --train]",
)
@click.option(
    "-n", "--workers", multiple=True, metavar="N ...", help="Workers, each number a scenario of its own.  [32 128]"
)
@click.option("--scale", multiple=True, metavar="N ...", help="Like --workers, for many: --scale 32 128 1000 10000.")
@click.option(
    "--rules", "--rule", multiple=True, metavar="NAME ...", help="Exchange rules, or all-reduce for comparison.  [all]"
)
@click.option("--density", metavar="SHARE", help="Share of the model in one sparse frame.  [0.015]")
@click.option("--block", metavar="N", help="Elements a block; 0 chooses by model size.  [0]")
@click.option("--interval", metavar="STEPS", help="Local steps between two exchanges.  [1]")
@click.option("--fanout", metavar="N", help="Neighbours that get each frame; 0 means all.  [0]")
@click.option("--wire", metavar="TYPE", help="Value type of sparse frames: f32, f16, bf16, int8.  [int8]")
@click.option("--degree", type=int, default=4, show_default=True, metavar="N", help="Neighbours of each worker, even.")
@click.option("--stragglers", metavar="K:FACTOR", help="K workers whose steps take FACTOR times as long, as 3:5.")
@click.option("--swing", type=click.FloatRange(0, 1, max_open=True), default=0.0, metavar="SHARE",
              help="Share by which each card's bandwidth swings over time, out of step with the others.")  # fmt: skip
@click.option("--churn", type=click.FloatRange(0, 1, max_open=True), default=0.0, metavar="SHARE",
              help="Share of the workers that leave once and come back ten steps later.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1), metavar="N", help="Steps of a worker.  [what the rule needs; 150]")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of all chance.")
@click.option("--calibration", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="The calibration to rest on, or to write with --calibrate.  [the one shipped]")  # fmt: skip
@click.option("--sources", is_flag=True, help="Also say where each number of profile and links is from.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help=f"Write {FIGURE} and simulate.json to DIR.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--train", is_flag=True, help="Train for real, all workers in one process, in virtual time.")
@click.option("--task", default="digits-mlp", show_default=True, metavar="NAME", help="With --train: what is learned.")
@click.option(
    "--shards", default="iid", show_default=True, metavar="KIND", help="With --train: iid, dirichlet, sorted."
)
@click.option("--lr", type=float, default=0.05, show_default=True, help="With --train: learning rate at the start.")
@click.option("--momentum", type=float, default=0.9, show_default=True, help="With --train.")
@click.option("--report", type=click.Choice(["val", "test"]), default="test", show_default=True,
              help="With --train: the part that accuracy is of.")  # fmt: skip
@click.option(
    "--calibrate", "calibrates", is_flag=True, help="Measure this machine: real runs of 8 workers, 25 s each."
)
@click.option(
    "--against",
    multiple=True,
    metavar="SETTING ...",
    help="With --calibrate: the runs to foretell.  [density=0.04 rule=sync-ps]",
)
@click.option("--runs", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="DIR",
              help="With --calibrate: read DIR/0, DIR/1 ..., as an earlier one left them, and make no run.")  # fmt: skip
def simulate(train: bool, calibrates: bool, **options: Any) -> None:
    """Predict what a rule costs on a cluster you do not have: parallel efficiency, bytes, ages; or train on it.

    Without --train nothing is learned and 10 000 workers take a minute. Compute times come from a profile, bytes from
    the real frame sizes, links from their names; what a rule does at each step is what it does in a run. Every table
    ends with the error of the calibration: how far off predictions were for real runs on a real machine.

    \b
    dagrad simulate                                        # ResNet-50, three links, 32 and 128 workers, all rules
    dagrad simulate --profile bert-base --link 1gbit --workers 64 --rules state sync-ps all-reduce
    dagrad simulate --scale 32 128 1000 10000 --rules state gossip-dense --out figures
    dagrad simulate --link 10gbit --stragglers 3:5 --swing 0.5 --churn 0.1
    dagrad simulate --density 0.04 --interval 2 --sources --json

    \b
    dagrad simulate --train --rules state --workers 32     # real models, accuracy included; minutes
    dagrad simulate --calibrate --calibration mine.json    # four real runs: fit two, foretell the others
    dagrad simulate --calibration mine.json --profile digits

    How to read it: a rule that never waits keeps every worker busy whatever it sends, so its efficiency is near 100 %
    even where next to nothing arrives. Ages and contacts say how much it really exchanges.

    Exit code: 0; 1 --calibrate missed 10 %; 2 bad option.
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    if calibrates and train:
        raise UsageError("--calibrate and --train: one of them")
    if calibrates:
        _calibrate(options)
        return
    from dagrad_bus.lab.calibration import load_calibration

    calibration = load_calibration(options["calibration"])
    if train:
        _train(options, calibration)
    else:
        _predict(options, calibration)


def _tell(line: str) -> None:
    click.echo(line, err=True)


# Predicting --------------------------------------------------------------------------------------------------------


def _predict(options: Mapping[str, Any], calibration: Calibration) -> None:
    from dagrad_bus.lab.scaling import answer

    question = make_question(options, calibration)
    rows = answer(question, _say_row)
    told = to_json(question, rows, calibration)
    if options["out"] is not None:
        from dagrad_bus.lab.scaling_figure import draw

        file = draw(question, rows, options["out"] / FIGURE, calibration.describe())
        (options["out"] / "simulate.json").write_text(json.dumps(told, indent=1) + "\n")
        _tell(f"dagrad: wrote {file} and simulate.json")
    if options["as_json"]:
        click.echo(json.dumps(told, indent=1))
        return
    from dagrad_bus.tools.simulate_tables import scaling_tables, sources_table
    from dagrad_bus.tools.tables import make_console

    console = make_console()
    if options["sources"]:
        console.print(sources_table(question))
    console.print(scaling_tables(question, rows, calibration))


def _say_row(row: Row, number: int, count: int) -> None:
    timing = row.timing
    if count > 1 and (timing.workers >= 1000 or number % 9 == 0):
        _tell(f"[{number}/{count}] {row.wire} {timing.workers} {timing.rule}: {100 * timing.efficiency:.1f} %")


def make_question(options: Mapping[str, Any], calibration: Calibration) -> Question:
    """Return what the options ask for.

    Raises:
        UsageError: an option that makes no sense.
    """
    from dagrad_bus.lab.profiles import WIRES, find_profile, find_wire, rebatch
    from dagrad_bus.lab.scaling import Question

    profile = find_profile(options["profile"] or "resnet50", {"digits": calibration.profile()})
    if options["batch"]:
        profile = rebatch(profile, options["batch"])
    names = split(options["wires"]) or (tuple(WIRES)[:1] if options["scale"] else tuple(WIRES))
    stragglers, factor = parse_stragglers(options["stragglers"])
    return Question(
        profile=profile,
        wires={name: find_wire(name) for name in names},
        workers=_workers(options),
        rules=_rules(options),
        exchange=_exchange(options),
        degree=options["degree"],
        stragglers=stragglers,
        factor=factor,
        swing=options["swing"],
        churn=options["churn"],
        steps=options["steps"] or 0,
        seed=options["seed"],
    )


def split(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words of an option that takes several, behind one or each with the option's name before it."""
    return tuple(part for word in words for part in word.split(",") if part)


def _workers(options: Mapping[str, Any]) -> tuple[int, ...]:
    words = (*split(options["workers"]), *split(options["scale"])) or ("32", "128")
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise UsageError(f"--workers {' '.join(words)}: needs whole numbers over 0, as --workers 32 128")
    return tuple(sorted({int(word) for word in words}))


def _rules(options: Mapping[str, Any]) -> tuple[Any, ...]:
    from dagrad_bus.lab.scenario import RULES

    asked = split(options["rules"])
    unknown = [rule for rule in asked if rule not in (*RULES, "all")]
    if unknown:
        raise UsageError(f"--rules {unknown[0]}: needs all, or some of {', '.join(RULES)}")
    return RULES if not asked or "all" in asked else tuple(rule for rule in RULES if rule in asked)


def _exchange(options: Mapping[str, Any]) -> ExchangeSettings:
    from dagrad_bus.settings import PREFIX, from_environment

    given = {PREFIX + name.upper(): options[name] for name in EXCHANGE if options[name] is not None}
    return from_environment(given).exchange


def parse_stragglers(text: str | None) -> tuple[int, float]:
    """Return how many stragglers ``K:FACTOR`` asks for, and how slow they are.

    Raises:
        UsageError: another form.
    """
    if not text:
        return 0, 1.0
    count, colon, factor = text.partition(":")
    try:
        found = int(count), float(factor)
    except ValueError:
        found = -1, 0.0
    if not colon or found[0] < 0 or not found[1] >= 1:
        raise UsageError(f"--stragglers {text}: needs K:FACTOR with a factor of 1 or more, as 3:5")
    return found


def to_json(question: Question, rows: list[Row], calibration: Calibration) -> dict[str, Any]:
    """Return everything as JSON takes it."""
    asked = asdict(question) | {"rules": list(question.rules)}
    return {
        "schema": SCHEMA,
        "question": asked,
        "rows": [row.to_json() for row in rows],
        "calibration": calibration.to_json() | {"error": calibration.worst},
        "paper": _paper(),
    }


def _paper() -> dict[str, Any]:
    from dagrad_bus.lab.paper.published import ROWS, SETTING

    return {"setting": SETTING, "rows": [asdict(row) for row in ROWS], "note": "published elsewhere, not measured here"}


# Training ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trained:
    """One run with training."""

    wire: str
    workers: int
    rule: str
    result: Result


def _train(options: Mapping[str, Any], calibration: Calibration) -> None:
    from dagrad_bus.lab.experiment import run_experiment
    from dagrad_bus.tools.simulate_tables import training_table
    from dagrad_bus.tools.tables import make_console

    found: list[Trained] = []
    for wire, workers, rule, experiment in make_experiments(options, calibration):
        found.append(Trained(wire, workers, rule, run_experiment(experiment)))
        _tell(f"{wire} {workers} {rule}: accuracy {found[-1].result.accuracy:.4f}")
    if options["as_json"]:
        rows = [asdict(run) for run in found]
        told = {"schema": SCHEMA, "runs": rows, "calibration": calibration.to_json() | {"error": calibration.worst}}
        click.echo(json.dumps(told, indent=1))
        return
    table = training_table([(run.wire, run.workers, run.rule, run.result) for run in found], calibration)
    make_console().print(table)


def make_experiments(options: Mapping[str, Any], calibration: Calibration) -> list[tuple[str, int, str, Experiment]]:
    """Return link, workers and rule of each run with training, and the run itself.

    Raises:
        UsageError: an option that training has no use for.
    """
    from dataclasses import replace

    from dagrad_bus.lab.experiment import Experiment

    if options["churn"]:
        raise UsageError("--train and --churn: nobody leaves while training in virtual time; dagrad soak does that")
    link = {} if options["wires"] else {"wires": ("10gbit",)}
    question = make_question({**options, **link, "profile": options["profile"] or "digits"}, calibration)
    rules: list[RuleName] = [rule for rule in question.rules if rule != "all-reduce"]
    made: list[tuple[str, int, str, Experiment]] = []
    for wire in question.wires:
        for workers in question.workers:
            for rule in rules:
                experiment = Experiment(
                    task=options["task"], workers=workers, steps=options["steps"] or 150, batch=question.profile.batch,
                    lr=options["lr"], momentum=options["momentum"], shards=options["shards"], seed=options["seed"],
                    report=options["report"], exchange=replace(question.exchange, rule=rule), degree=question.degree,
                    costs=question.scenario(rule, workers, wire).costs,
                )  # fmt: skip
                made.append((wire, workers, rule, experiment))
    return made


# Calibrating -------------------------------------------------------------------------------------------------------


def _calibrate(options: Mapping[str, Any]) -> None:
    from dagrad_bus.lab.calibration import AGAINST, TARGET, calibrate, save_calibration
    from dagrad_bus.lab.fitting import Setup, observe
    from dagrad_bus.tools.simulate_tables import calibration_table
    from dagrad_bus.tools.tables import make_console

    file: Path = options["calibration"] or Path("runs") / "calibration.json"
    against = _against(options["against"]) or AGAINST
    setup = Setup(steps=options["steps"] or Setup().steps)
    folder: Path = options["runs"] or file.parent / f"{file.stem}-runs"
    if options["runs"] is None:
        _empty(folder)
        made = calibrate(setup, against, folder, _tell)
    else:
        made = calibrate(setup, against, folder, make=lambda setup, setting, run: observe(run, setup))
    save_calibration(made, file)
    if options["as_json"]:
        click.echo(json.dumps(made.to_json(), indent=1))
    else:
        make_console().print(calibration_table(made))
    _tell(f"dagrad: wrote {file}; use it by --calibration {file}")
    sys.exit(0 if all(error <= TARGET for error in made.worst.values()) else 1)


def _against(words: Sequence[str]) -> tuple[str, ...]:
    """Return the settings to foretell: words that hold several pairs were given with ``+`` between them."""
    from dagrad_bus.lab.fitting import parse_setting

    settings = tuple(word.replace("+", ",") for word in split(words))
    for setting in settings:
        parse_setting(setting)
    return settings


def _empty(folder: Path) -> None:
    """Remove the runs of an earlier calibration."""
    import shutil

    if folder.exists():
        shutil.rmtree(folder)
