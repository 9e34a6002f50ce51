"""What ``dagrad doctor`` shows on the terminal, by rich."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dagrad_bus.tools.tables import format_number
from dagrad_bus.workers.launch.examination.judgement import (
    Examined,
    Fault,
    HostFacts,
    PathFacts,
    list_of,
    plural,
    table_of,
)

if TYPE_CHECKING:
    from dagrad_bus.workers.launch.examination.live import RunFacts

_STYLES = {"fault": "bold red", "warning": "yellow"}
_MOST_PATHS = 40


def faults_table(faults: Sequence[Fault]) -> RenderableType:
    """Return a line and its repair for each fault, and how many there are."""
    serious = sum(fault.level == "fault" for fault in faults)
    mild = len(faults) - serious
    if not faults:
        return Text("no faults", style="bold green")
    lines: list[RenderableType] = []
    for fault in faults:
        head = (f"{fault.level:8}", _STYLES[fault.level])
        lines += [Text.assemble(head, (fault.where, "bold"), f": {fault.what}"), Text(f"         {fault.repair}")]
    style = "bold red" if serious else "bold green"
    return Group(*lines, Text(f"{plural(serious, 'fault')}, {plural(mild, 'warning')}", style=style))


def host_table(examined: Examined) -> Table:
    """Return a row for each host."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for name in ("host", "address", "python", "dagrad", "torch"):
        table.add_column(name, no_wrap=name in {"host", "address"}, overflow="fold")
    for name in ("login", "clock", "files", "memory", "slots", "/tmp free"):
        table.add_column(name, justify="right")
    for host in examined.hosts:
        table.add_row(*_host_row(host))
    return table


def _host_row(host: HostFacts) -> list[str | Text]:
    if not host.reached:
        return [host.label, Text("not reached", style="bold red")]
    facts = host.facts
    packages, memory, cores, temporary = (table_of(facts, n) for n in ("packages", "memory", "cores", "temporary"))
    usable = min(cores["usable"], cores.get("quota") or cores["usable"]) if cores else None
    clock = "-" if host.local else f"{1000 * host.offset:+.0f} ± {1000 * host.offset_error:.1f} ms"
    soft = next(iter(list_of(facts, "fds")), None)
    return [
        host.label,
        host.address,
        str(facts.get("python", "-")),
        packages.get("dagrad-bus") or Text("-", style="red"),
        packages.get("torch") or Text("-", style="red"),
        f"{host.login:.1f} s",
        clock,
        format_number(soft, 0),
        f"{memory['available'] / 2**30:.1f} GiB" if memory else "-",
        f"{host.slots}/{format_number(usable, 0)}",
        f"{temporary['free'] / 2**30:.1f} GiB" if temporary else "-",
    ]


def path_table(examined: Examined) -> RenderableType:
    """Return a row for each pair of hosts, the worst port of it; of many pairs the ones with errors, then the slowest."""
    pairs: defaultdict[tuple[str, str], list[PathFacts]] = defaultdict(list)
    for path in examined.paths:
        pairs[path.source, path.target].append(path)
    worst = [max(paths, key=_badness) for paths in pairs.values()]
    shown = worst if len(worst) <= _MOST_PATHS else sorted(worst, key=_badness, reverse=True)[:_MOST_PATHS]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("from")
    table.add_column("to")
    for name in ("round trip", "MTU", "MB/s"):
        table.add_column(name, justify="right")
    table.add_column("")
    for path in shown:
        table.add_row(
            path.source,
            f"{path.target} ({path.address})",
            "-" if path.rtt is None else f"{1000 * path.rtt:.2f} ms",
            format_number(path.mtu, 0),
            format_number(path.rate / 1e6 if path.rate is not None else None, 0),
            Text(f"{path.error}, port {path.port}", style="bold red") if path.error else Text("good", style="green"),
        )
    left = len(worst) - len(shown)
    return Group(table, Text(f"and {left} better ones", style="dim")) if left else table


def _badness(path: PathFacts) -> tuple[bool, float]:
    return bool(path.error), path.rtt or 0.0


def run_table(facts: RunFacts) -> Table:
    """Return a row for each worker of a live run."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("worker", "address", "state"):
        table.add_column(name, overflow="fold")
    for name in ("links", "step", "silent"):
        table.add_column(name, justify="right")
    for worker in facts.workers:
        links = "-" if worker.links is None else f"{worker.links}/{format_number(worker.expected_links, 0)}"
        state = Text(worker.state, style={"alive": "green", "ended": "dim"}.get(worker.state, "bold red"))
        quiet = "-" if worker.quiet is None else f"{worker.quiet:.1f} s"
        table.add_row(worker.name, worker.inbox or "-", state, links, format_number(worker.step, 0), quiet)
    return table
