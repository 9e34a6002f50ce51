"""What ``dagrad simulate`` shows on the terminal, by rich."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dagrad_bus.lab.paper.published import SETTING, find_published
from dagrad_bus.lab.scaling import Question, Row, find_row
from dagrad_bus.tools.tables import format_number, format_share, format_size

if TYPE_CHECKING:
    from dagrad_bus.lab.calibration import Calibration
    from dagrad_bus.lab.experiment import Result

STALENESS = (
    "efficiency counts steps, not what they learn: a rule that never waits reaches 100 %; read age and contacts."
)
REFERENCE = "all-reduce is no rule of dagrad: the same barrier without a server, by a ring, as a reference."


def scaling_tables(question: Question, rows: Sequence[Row], calibration: Calibration) -> RenderableType:
    """Return all tables of a question."""
    parts: list[RenderableType] = [_heading(question), _overview(question, rows)]
    parts += [_details(question, rows, wire) for wire in question.wires]
    return Group(*parts, Text(f"{STALENESS}\n{REFERENCE}"), Text(calibration.describe(), style="bold"))


def _heading(question: Question) -> Text:
    profile, trouble = question.profile, list[str]()
    if question.stragglers:
        trouble.append(f"{question.stragglers} stragglers, {question.factor:g} times slower")
    if question.swing:
        trouble.append(f"bandwidth swings by {100 * question.swing:g} %")
    if question.churn:
        trouble.append(f"{100 * question.churn:g} % of the workers leave and come back")
    size = f"{format_number(profile.parameters, 0)} parameters, batch {profile.batch}"
    sparse = f"sparse rules: density {format_share(question.exchange.density)}, degree {question.degree}"
    alone = f"{1000 * profile.compute:.1f} ms a step alone"
    return Text(f"{profile.title}: {size}, {alone}\n" + "; ".join([sparse, *trouble]))


def _overview(question: Question, rows: Sequence[Row]) -> Table:
    """Return parallel efficiency of every rule, by link and number of workers, and the paper's beside it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title="parallel efficiency, %", title_justify="left")
    table.add_column("rule")
    for wire in question.wires:
        for count in question.workers:
            table.add_column(f"{wire}\nN = {count}", justify="right")
    table.add_column("the paper's\nN = 32", justify="right", style="dim")
    table.add_column("the paper's\nN = 128", justify="right", style="dim")
    for rule in question.rules:
        cells = [find_row(rows, wire, count, rule) for wire in question.wires for count in question.workers]
        paper = find_published(rule)
        table.add_row(
            rule,
            *[f"{100 * cell.timing.efficiency:.1f}" if cell else "-" for cell in cells],
            f"{paper.efficiency:g}" if paper else "",
            f"{paper.efficiency_at_128:g}" if paper and paper.efficiency_at_128 else "",
        )
    table.caption = f"the paper's figures are its own: {SETTING}; nothing of them was measured here"
    table.caption_justify = "left"
    return table


def _details(question: Question, rows: Sequence[Row], wire: str) -> Table:
    source = question.wires[wire]
    title = f"{wire}: {format_size(source.bandwidth)}/s each way, {1000 * source.latency:g} ms"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title=title, title_justify="left")
    table.add_column("rule")
    for name in (
        "N",
        "efficiency",
        "steps/s",
        "samples/s",
        "sent/step",
        "of dense",
        "age",
        "p99",
        "contacts",
        "skipped",
    ):
        table.add_column(name, justify="right")
    for count in question.workers:
        for rule in question.rules:
            row = find_row(rows, wire, count, rule)
            if row is not None:
                table.add_row(rule, *_cells(row))
        table.add_section()
    return table


def _cells(row: Row) -> list[str]:
    timing = row.timing
    nothing = "-" if timing.rule == "local" or timing.workers == 1 else f"> {timing.steps}"
    ages = [nothing if age is None else f"{age:.1f}" for age in (timing.median_age, timing.p99_age)]
    return [
        str(timing.workers), f"{100 * timing.efficiency:.1f} %", f"{timing.rate:.3g}", format_number(row.samples, 0),
        format_size(timing.bytes_per_step), format_share(timing.dense_share), *ages, f"{timing.contacts:.3g}",
        format_share(timing.skipped),
    ]  # fmt: skip


def sources_table(question: Question) -> Table:
    """Return where each number of a profile and of the links is from."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, source in question.profile.sources.items():
        table.add_row(name, source)
    for name, wire in question.wires.items():
        table.add_row(name, wire.source)
    return table


def calibration_table(calibration: Calibration) -> RenderableType:
    """Return what was fitted, and every run measured and foretold."""
    costs = calibration.costs
    bandwidth = "" if math.isinf(costs.bandwidth) else f", {1e9 / costs.bandwidth:.2f} ms a MB"
    fitted = (
        f"fitted: {1000 * costs.compute:.2f} ms computing (sigma {costs.spread:.2f}), {1000 * costs.exchange:.2f} ms "
        f"an exchange, {1000 * costs.latency:.2f} ms a flight{bandwidth}; {calibration.setup.workers} workers, steps of "
        f"{1000 * calibration.setup.pace:g} ms and more"
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("run")
    for name in ("steps/s", "foretold", "sent/step", "foretold", "age", "foretold", "errors"):
        table.add_column(name, justify="right")
    for check in calibration.checks:
        seen, said = check.measured, check.predicted
        table.add_row(
            (check.setting or "defaults") + (" (fitted)" if check.fitted else ""),
            f"{seen.rate:.3f}", f"{said.rate:.3f}", format_size(seen.bytes_per_step), format_size(said.bytes_per_step),
            format_number(seen.median_age, 2), format_number(said.median_age, 2),
            ", ".join(f"{name} {100 * error:+.1f} %" for name, error in check.errors.items()),
        )  # fmt: skip
    return Group(Text(fitted), table, Text(calibration.describe(), style="bold"))


def training_table(results: Sequence[tuple[str, int, str, Result]], calibration: Calibration) -> RenderableType:
    """Return what runs with training gave: link, workers and rule of each, and its result."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("rule")
    for name in ("N", "link", "accuracy", "worst", "std", "mean model", "efficiency", "sent/step", "of dense",
                 "age", "skipped"):  # fmt: skip
        table.add_column(name, justify="right")
    for wire, count, rule, found in results:
        table.add_row(
            rule, str(count), wire, f"{100 * found.accuracy:.1f} %", f"{100 * found.worst:.1f} %",
            f"{100 * found.std:.1f}", f"{100 * found.mean_model:.1f} %", f"{100 * found.efficiency:.1f} %",
            format_size(found.bytes_per_step), format_share(found.dense_share), format_number(found.median_age, 1),
            format_share(found.skipped),
        )  # fmt: skip
    return Group(table, Text(calibration.describe(), style="bold"))
