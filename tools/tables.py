"""Tables of a run on the terminal, by rich."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dagrad_bus.metrics import histogram_median
from dagrad_bus.tools.summary import Summary, WorkerSummary
from dagrad_bus.workers.launch.journal import Record
from dagrad_bus.workers.launch.outcome import Exit, Worker

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")
"""Colours of the workers' names, in turn."""
_STATES = {
    "done": "green",
    "running": "cyan",
    "joined": "cyan",
    "starting": "yellow",
    "waiting": "dim",
    "stopped": "yellow",
    "restarting": "yellow",
    "cut off": "yellow",
    "unknown": "yellow",
}
_COMMANDS = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b\[[0-9;:?<=>!]*[ -/]*[@-ln-~]|\x1b[^\[\]]|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]"
)
"""Operating system commands, control sequences other than colours, other escapes, control characters but the tab."""
_MIXING = {"mixed": "green", "drifting": "bold yellow", "not mixed": "bold red", "unknown": "bold yellow"}
_NO_FRAMES = {"link_closed", "late_hello_ok", "late_pong", "unexpected"}
"""Reasons that count harmless messages: goodbyes of links and late answers. They stay in summary.json."""
_PLAIN_WIDTH = 120
"""Columns where the output is no terminal: tables in a log file do not fold."""


def make_console(*, to_stderr: bool = False) -> Console:
    """Return a console; where it is no terminal, wide enough for the tables."""
    console = Console(stderr=to_stderr, highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(stderr=to_stderr, highlight=False, width=_PLAIN_WIDTH)


def display_name(name: str) -> str:
    """Return ``host:slot`` for the worker ``host.slot``, as it stands before each line of its output."""
    host, _, slot = name.rpartition(".")
    return f"{host}:{slot}" if host and slot.isdigit() else name


def without_commands(text: str) -> str:
    """Return a line of somebody's output without what would steer the terminal: all escapes but colours."""
    return _COMMANDS.sub("", text)


def format_number(value: float | None, digits: int = 1) -> str:
    """Return ``value`` with thousands separated, a dash for None."""
    return "-" if value is None else f"{value:,.{digits}f}".replace(",", " ")


def format_loss(value: float | None) -> str:
    """Return a number that a script logged: four decimals, or an exponent where that says little."""
    if value is None or value == 0 or 5e-5 <= abs(value) < 1e5:
        return format_number(value, 4)
    return f"{value:.3g}"


def format_size(size: float | None) -> str:
    """Return a number of bytes as B, kB or MB."""
    if size is None:
        return "-"
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.{1 if size >= 10 * scale else 2}f} {unit}"
    return f"{size:.0f} B"


def format_share(share: float | None) -> str:
    """Return a share as a percentage with three digits that count."""
    return "-" if share is None else f"{100 * share:.3g} %"


def _state(state: str) -> Text:
    return Text(state, style=_STATES.get(state, "bold red"))


def live_table(workers: Sequence[Worker], *, seconds: float) -> Table:
    """Return the table that is shown while workers train."""
    table = _table_of_workers()
    for name, width in (("step", 7), ("steps/s", 8), ("loss", 8), ("accuracy", 8), ("sent/step", 9), ("age", 5)):
        table.add_column(name, justify="right", min_width=width)  # or the table would jump as numbers grow
    table.add_column("peers", justify="right")
    table.add_column(f"after {seconds:.0f} s", min_width=11)
    for slot, worker in enumerate(workers):
        cells = live_cells(worker.record)
        table.add_row(Text(worker.name, style=COLOURS[slot % len(COLOURS)]), *cells, _state(worker.state))
    return table


def live_cells(record: Record) -> tuple[str, ...]:
    """Return step, steps/s, loss, accuracy, bytes a step, median age and peers as text."""
    per_step = record.counter("bytes_sent") / record.step if record.step else None
    return (
        format_number(record.step, 0) if record.last else "-",
        format_number(record.last.get("rate")),
        format_loss(record.latest.get("loss")),
        format_number(record.latest.get("accuracy"), 4),
        format_size(per_step),
        format_number(histogram_median(record.ages)),
        format_number(record.gauge("peers"), 0),
    )


def print_summary(console: Console, summary: Summary) -> None:
    """Print the table of the workers, the run's own numbers and whether mixing happened."""
    console.print(_worker_table(summary.workers))
    console.print(_totals(summary))
    _print_verdict(console, summary)


def _table_of_workers() -> Table:
    """Return an empty table for a terminal of 80 columns; names of workers are never cut."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    table.add_column("worker", no_wrap=True, overflow="ignore")
    return table


def _worker_table(workers: Sequence[WorkerSummary]) -> Table:
    table = _table_of_workers()
    judged = any(worker.accuracy is not None for worker in workers)
    accuracy = ("accuracy",) if judged else ()
    for name in ("steps", "steps/s", "loss", *accuracy, "sent/step", "frames", "accepted", "mixed", "age"):
        table.add_column(name, justify="right")
    table.add_column("state", no_wrap=True)
    for slot, worker in enumerate(workers):
        table.add_row(
            Text(worker.name, style=COLOURS[slot % len(COLOURS)]),
            format_number(worker.steps, 0),
            format_number(worker.rate),
            format_loss(worker.loss),
            *((format_number(worker.accuracy, 4),) if judged else ()),
            format_size(worker.bytes_per_step),
            format_number(worker.frames_sent, 0),
            format_number(worker.frames_accepted, 0),
            format_number(worker.frames_mixed, 0),
            format_number(worker.median_age),
            _state(worker.state),
        )
    return table


def _totals(summary: Summary) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 1))
    grid.add_column(style="dim")
    grid.add_column()
    if summary.accuracy is not None:
        accuracy = summary.accuracy
        grid.add_row(
            "accuracy",
            f"mean {accuracy['mean']:.4f}   worst {accuracy['worst']:.4f}   std {accuracy['std']:.4f}   (own replicas)",
        )
    if summary.loss is not None:
        grid.add_row("loss", f"mean {format_loss(summary.loss['mean'])}   worst {format_loss(summary.loss['worst'])}")
    share = f" = {format_share(summary.dense_share)} of synchronous dense" if summary.dense_share is not None else ""
    grid.add_row("sent", f"{format_size(summary.bytes_per_step)} per worker and step{share}")
    grid.add_row(
        "speed", f"{format_number(summary.rate)} steps/s, all workers; {format_number(summary.steps, 0)} steps"
    )
    if summary.median_age is not None:
        grid.add_row("age", f"median {summary.median_age:.1f} local steps")
    if summary.consensus:
        values = [value for _, value in summary.consensus]
        text = f"last {values[-1]:.4f}   largest {max(values):.4f}   (||x_i - mean|| / ||mean||)"
        grid.add_row("consensus distance", text)
    if lost := {reason: count for reason, count in summary.dropped.items() if reason not in _NO_FRAMES}:
        grid.add_row("dropped", ", ".join(f"{reason} {count}" for reason, count in lost.items()))
    if summary.mixing.verdict in {"mixed", "not asked"}:
        grid.add_row("mixing", Text(summary.mixing.verdict, style=_MIXING.get(summary.mixing.verdict, "")))
    return grid


def _print_verdict(console: Console, summary: Summary) -> None:
    verdict = summary.mixing.verdict
    if verdict in {"mixed", "not asked"}:
        return
    heading = {
        "not mixed": "THESE WORKERS DID NOT TRAIN TOGETHER",
        "drifting": "THE REPLICAS DRIFT APART",
        "unknown": "NOT KNOWN WHETHER THE REPLICAS MIXED",
    }[verdict]
    lines = [Text(reason) for reason in summary.mixing.reasons]
    if summary.dropped.get("poisoned"):
        lines.append(Text("values that are not finite went round: did the training diverge?"))
    elif verdict == "not mixed":
        lines.append(Text("does the script call dagrad_bus.attach(model, optimizer)? are frames dropped, above?"))
    console.print(Panel(Group(*lines), title=heading, style=_MIXING[verdict], expand=False, box=box.HEAVY))


def print_failures(console: Console, failures: Sequence[Exit], *, began: float, name: str, tail: Sequence[str]) -> None:
    """Print who failed and when, and the last lines of the first one.

    Args:
        console: where to.
        failures: the first one first.
        began: unix time of the start.
        name: the worker whose output ``tail`` is.
        tail: its last lines.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title="failed workers", title_justify="left")
    table.add_column("worker")
    table.add_column("code", justify="right")
    table.add_column("how")
    table.add_column("after", justify="right")
    for ended in failures:
        table.add_row(ended.name, str(ended.status), ended.text, f"{ended.time - began:.1f} s")
    console.print(table)
    console.print(Text(f"last lines of {name}:", style="bold"))
    for line in tail:
        console.print(Text(f"  {line}"), soft_wrap=True)
