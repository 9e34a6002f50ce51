"""What ``dagrad plan`` shows on the terminal, by rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dagrad_bus.tools.tables import format_number, format_share, format_size
from dagrad_bus.workers.launch.examination.judgement import plural

if TYPE_CHECKING:
    from dagrad_bus.tools.plan import Place, Plan

_MOST_ROWS = 32


def plan_tables(plan: Plan) -> RenderableType:
    """Return everything."""
    parts: list[RenderableType] = [_facts(plan), _places(plan.places, plan)]
    if plan.bandwidth is not None:
        parts.append(_verdict(plan))
    return Group(*parts)


def _facts(plan: Plan) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in (*_model_rows(plan), *_traffic_rows(plan), *_memory_rows(plan), *_graph_rows(plan)):
        table.add_row(name, value)
    return table


def _model_rows(plan: Plan) -> list[tuple[str, str]]:
    frame, exchange = plan.frame, plan.settings.exchange
    more = f", and {format_number(plan.model.integers, 0)} integers" if plan.model.integers else ""
    kind = "single elements" if frame.block == 1 else f"blocks of {frame.block}"
    scales = f" + {format_size(frame.scale_bytes)} scales" if frame.scale_bytes else ""
    return [
        ("model", f"{format_number(plan.model.elements, 0)} elements ({plan.model.source}){more}"),
        ("frame", f"{format_number(frame.count, 0)} of {format_number(frame.blocks, 0)} {kind}, {exchange.wire}"),
        ("", (f"{format_size(frame.value_bytes)} values + {format_size(frame.index_bytes)} index{scales}, "
             f"compressed to {format_share(frame.compressed)}, {frame.header_bytes} B headers: "
             f"{format_size(frame.size)}")),
    ]  # fmt: skip


def _traffic_rows(plan: Plan) -> list[tuple[str, str]]:
    traffic, rate = plan.traffic, plan.rate
    assumed = " (assumed; --rate)" if plan.rate_assumed else ""
    worst = max(plan.leaving.values(), default=0.0)
    return [
        ("rate", f"{rate:g} steps/s{assumed}"),
        ("a link", (f"{format_size(traffic.link_bytes_per_step)} a step, "
                   f"{format_size(traffic.link_bytes_per_step * rate)}/s")),
        ("a worker", (f"{format_size(traffic.bytes_per_step)} a step, {format_size(traffic.bytes_per_second)}/s; "
                     f"{format_size(traffic.wire_bytes_per_second)}/s with TCP/IP")),
        ("", f"= {format_share(traffic.dense_share)} of synchronous dense"),
        ("heartbeats", f"{format_size(traffic.heartbeat_bytes_per_second)}/s of that"),
        *([("a host", f"at most {format_size(worst)}/s leave it, as many come in")] if len(plan.leaving) > 1 else []),
    ]  # fmt: skip


def _memory_rows(plan: Plan) -> list[tuple[str, str]]:
    parts = ", ".join(f"{name} {format_size(size)}" for name, size in plan.memory.items() if size)
    total = format_size(sum(plan.memory.values()))
    return [("memory", f"{total} a worker, beside model, gradients and optimizer"), ("", parts)]


def _graph_rows(plan: Plan) -> list[tuple[str, str]]:
    graph = plan.graph
    gap = f", spectral gap {graph.gap:.3f}" if graph.gap is not None else ""
    rows = [
        ("graph", f"{graph.kind}, {graph.workers} workers, degree {graph.degree:g}, {plural(graph.links, 'link')}{gap}")
    ]
    if graph.rounds is not None:
        rows.append(("mixing", f"{plural(graph.rounds, 'round')} to 1e-3, if each exchanged everything"))
    if graph.refresh_steps and graph.links:
        rows.append(("", f"every block within {format_number(graph.refresh_steps, 0)} steps, whatever changes"))
    return rows


def _places(places: Sequence[Place], plan: Plan) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("", justify="right")
    for name in ("worker", "host", "slot", "address", "ports"):
        table.add_column(name)
    ports = "any two" if plan.ports is None else f"two of {plan.ports[0]}-{plan.ports[1]}"
    for number, place in enumerate(places[:_MOST_ROWS], 1):
        host = place.target or "this one"
        told = place.address or ("this host's" if not place.target else "where ssh comes in")
        table.add_row(str(number), place.name, host, str(place.slot), told, ports)
    left = len(places) - _MOST_ROWS
    return Group(table, Text(f"and {left} more", style="dim")) if left > 0 else table


def _verdict(plan: Plan) -> Text:
    worst = max(plan.leaving, key=lambda host: plan.leaving[host])
    need, has = plan.leaving[worst], plan.bandwidth or 0.0
    share = f"{format_size(need)}/s of {format_size(has)}/s ({format_share(need / has)}) at {worst}"
    if plan.is_carried:
        return Text(f"the bandwidth carries it: {share}", style="bold green")
    steps = plan.rate * has / need
    more = f"a smaller --density, a larger --interval, or at most {steps:.2g} steps/s"
    return Text(f"TOO LITTLE BANDWIDTH: {share}; {more}", style="bold red")
