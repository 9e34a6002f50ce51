"""``dagrad plan``: what a run will send and need, before anything runs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from dagrad_bus.errors import UsageError
from dagrad_bus.settings import PREFIX, Settings, from_environment
from dagrad_bus.tools.run_options import MOST_WORKERS, exchange_options

if TYPE_CHECKING:
    from dagrad_bus.workers.launch.forecast import Frame, Graph, Traffic
    from dagrad_bus.workers.launch.model_size import ModelSize

SCHEMA = "dagrad.plan/1"
ASSUMED_RATE = 10.0
"""Local steps a second where nothing is known."""
_BANDWIDTH = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(bit|b|B)(?:/s|ps)?")
_SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one worker will run."""

    name: str
    host: str
    """Label."""
    target: str
    """As ssh takes it; empty: this host."""
    slot: int
    address: str
    """What peers will be told, as far as it is known before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that ``dagrad plan`` says."""

    model: ModelSize
    settings: Settings
    rate: float
    rate_assumed: bool
    frame: Frame
    traffic: Traffic
    graph: Graph
    memory: dict[str, int]
    """Bytes a worker, by what for."""
    leaving: dict[str, float]
    """Bytes a second that leave each host."""
    bandwidth: float | None
    """Bytes a second of the slowest host, if it was given."""
    places: Sequence[Place]
    ports: tuple[int, int] | None
    """Range of the listening ports; None: any free ones, on loopback."""

    @property
    def is_carried(self) -> bool:
        """Whether the slowest host carries what leaves and reaches it."""
        return self.bandwidth is None or max(self.leaving.values(), default=0.0) <= self.bandwidth

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON takes it."""
        frame, transport = self.frame, self.settings.transport
        return {
            "schema": SCHEMA,
            "model": asdict(self.model),
            "exchange": asdict(self.settings.exchange) | {"codec": transport.codec},
            "rate": self.rate,
            "rate_assumed": self.rate_assumed,
            "frame": asdict(frame) | {"raw": frame.raw, "payload": frame.payload, "size": frame.size},
            "traffic": asdict(self.traffic),
            "graph": asdict(self.graph),
            "memory": self.memory | {"total": sum(self.memory.values())},
            "leaving_bytes_per_second": self.leaving,
            "bandwidth": self.bandwidth,
            "carried": self.is_carried,
            "ports": self.ports,
            "workers": [asdict(place) for place in self.places],
        }


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--model", required=True, metavar="SIZE|FILE|M:F",
              help="Parameters (25.6M, 1.1e8), FILE.safetensors, or module:factory, called in a child process.")  # fmt: skip
@click.option("-n", "--workers", type=click.IntRange(1, MOST_WORKERS), metavar="N",
              help="Workers in all.  [2 on this host; every slot of the hosts]")  # fmt: skip
@click.option("-H", "--hosts", "host_list", metavar="HOST:SLOTS,...", help="Hosts: a:2,b:2. Nothing is sent to them.")
@click.option("--hostfile", metavar="FILE", help="Hosts from a file, as for dagrad run; - reads stdin.")
@click.option("--include", metavar="SEL", help="Only these of the hosts: node1@node2:0,2.")
@click.option("--exclude", metavar="SEL", help="All but these.")
@click.option("--port-range", metavar="A-B", default="20000-32000", show_default=True,
              help="Ports that workers on several hosts listen on.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(0, min_open=True), metavar="STEPS/S",
              help=f"Local steps a second.  [assumed: {ASSUMED_RATE:g}]")  # fmt: skip
@click.option(
    "--bandwidth", metavar="RATE", help="Of the slowest host, one way: 1Gbit, 100MB. Exit 1 if it is too little."
)
@exchange_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(as_json: bool, **options: Any) -> None:
    """Say what a run will send and need: bytes by frame, link, worker and host, memory, graph, names and ports.

    The options of the exchange are those of dagrad run. Bytes are those of a run in which every link takes every
    frame; at full speed links skip some, and less is sent.

    \b
    dagrad plan --model 25.6M -n 16
    dagrad plan --model bert.safetensors --hostfile hosts --rate 4 --bandwidth 1Gbit
    dagrad plan --model mypackage.models:build -n 8 --density 0.005 --interval 2 --json

    Exit code: 0; 1 the bandwidth does not carry it; 2 bad option.
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    made = make_plan(options)
    if as_json:
        click.echo(json.dumps(made.to_json(), indent=2))
    else:
        from dagrad_bus.tools.plan_tables import plan_tables
        from dagrad_bus.tools.tables import make_console

        make_console().print(plan_tables(made))
    sys.exit(0 if made.is_carried else 1)


def make_plan(options: dict[str, Any]) -> Plan:
    """Return the plan for the command's options.

    Raises:
        UsageError: an option is wrong.
    """
    from dagrad_bus.tools.doctor import parse_ports
    from dagrad_bus.workers.launch import forecast
    from dagrad_bus.workers.launch.model_size import read_size

    settings = from_environment(
        {PREFIX + name[9:].upper(): value for name, value in options.items()
         if name.startswith("exchange_") and value is not None}
    )  # fmt: skip
    bandwidth = parse_bandwidth(options["bandwidth"]) if options["bandwidth"] else None
    ports = parse_ports(options["port_range"])
    places = _places(options)
    rate = options["rate"] or ASSUMED_RATE
    model = read_size(options["model"])
    frame = forecast.plan_frame(
        model.elements, settings.exchange, codec=settings.transport.codec, max_frame=settings.link.max_frame
    )
    graph, near = forecast.plan_graph([place.name for place in places], settings, frame)
    traffic = forecast.plan_traffic(
        model.elements, frame, graph.degree, rate, settings.exchange, settings.beat.interval
    )
    return Plan(
        model=model,
        settings=settings,
        rate=rate,
        rate_assumed=options["rate"] is None,
        frame=frame,
        traffic=traffic,
        graph=graph,
        memory=forecast.plan_memory(model.elements, frame, round(graph.degree), settings, copied=model.is_copied),
        leaving=forecast.plan_hosts({place.name: place.host for place in places}, near, traffic),
        bandwidth=bandwidth,
        places=places,
        ports=ports if any(place.target for place in places) else None,
    )


def _places(options: dict[str, Any]) -> list[Place]:
    """Return where the workers run, in the order in which they are started."""
    from dagrad_bus.tools.run import ON_THIS_HOST, read_hosts
    from dagrad_bus.workers.launch.ssh import is_local

    hosts = read_hosts(options | {"oversubscribe": False, "cwd": None})
    if not hosts:
        count = options["workers"] or ON_THIS_HOST
        return [Place(f"local.{slot}", "local", "", slot, "127.0.0.1") for slot in range(count)]
    return [
        Place(
            f"{host.label}.{slot}",
            host.label,
            "" if is_local(host) else f"{host.user}@{host.host}" if host.user else host.host,
            slot,
            host.addr or "",
        )
        for host in hosts
        for slot in host.slot_numbers
    ]


def parse_bandwidth(text: str) -> float:
    """Return bytes a second of ``1Gbit``, ``100MB``, ``12.5 MB/s``; a small b is bits.

    Raises:
        UsageError: it is no rate.
    """
    found = _BANDWIDTH.fullmatch(text.strip())
    if found is None or float(found[1]) <= 0:
        raise UsageError(f"--bandwidth is {text!r}: needs a rate such as 1Gbit, 100Mbit or 12.5MB")
    return float(found[1]) * _SCALES[found[2]] / (1 if found[3] == "B" else 8)
