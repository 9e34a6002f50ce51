"""``dagrad doctor``: what would keep a run from working, or keeps one, and how each is put right."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dagrad_bus.errors import UsageError

if TYPE_CHECKING:
    from dagrad_bus.workers.launch.examination.judgement import Examined, Fault
    from dagrad_bus.workers.launch.hostfile import Host

SCHEMA = "dagrad.doctor/1"
_PORTS = re.compile(r"(\d{1,5})-(\d{1,5})")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("run_dir", required=False, type=click.Path(path_type=Path), metavar="[RUN_DIR]")
@click.option("-H", "--hosts", "host_list", metavar="HOST:SLOTS,...", help="Hosts, reached by ssh: a:2,b:2.")
@click.option("--hostfile", metavar="FILE", help="Hosts from a file, as for dagrad run; - reads stdin.")
@click.option("--include", metavar="SEL", help="Only these of the hosts: node1@node2:0,2.")
@click.option("--exclude", metavar="SEL", help="All but these.")
@click.option("--ssh-config", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
              help="Configuration of ssh instead of the user's.")  # fmt: skip
@click.option("--python", metavar="PATH", help="Interpreter on other hosts.  [the path of this one]")
@click.option("--cwd", metavar="DIR", help="Working folder on other hosts.  [the same path as here]")
@click.option("--port-range", metavar="A-B", default="20000-32000", show_default=True,
              help="Ports that workers on several hosts listen on.")  # fmt: skip
@click.option("--throughput", is_flag=True, help="Also measure, for a second a path, how much it carries.")
@click.option("--timeout", type=click.FloatRange(0.1, 60), default=3.0, show_default=True, metavar="S",
              help="Seconds that a connection between two hosts may take.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: faults, and the facts behind them.")
def doctor(run_dir: Path | None, as_json: bool, **options: Any) -> None:
    """Say what would keep a run from working, and how it is put right, before anything is started.

    Without an argument: this host. With hosts: each of them, and every path between them, over the same ssh as dagrad
    run. With RUN_DIR: the live run there, as seen from here.

    \b
    dagrad doctor
    dagrad doctor --hostfile hosts
    dagrad doctor -H node1:4,node2:4 --throughput --json | jq .faults
    dagrad doctor runs/a

    All checks, their thresholds and reasons: docs/doctor.md.

    Exit code: 0 no fault, warnings perhaps; 1 a fault; 2 bad option; 3 no host, or no worker, can be reached.
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    if run_dir is not None:
        if options["hostfile"] is not None or options["host_list"] is not None:
            raise UsageError("RUN_DIR is a live run, -H and --hostfile are hosts before one: give one of them")
        code = _examine_run(run_dir, options["timeout"], as_json=as_json)
    else:
        code = _examine_hosts(options, as_json=as_json)
    sys.exit(code)


def _examine_hosts(options: dict[str, Any], *, as_json: bool) -> int:
    from dagrad_bus.workers.launch.examination.collect import Examination, collect
    from dagrad_bus.workers.launch.examination.host_checks import check_hosts
    from dagrad_bus.workers.launch.examination.judgement import exit_code, in_order
    from dagrad_bus.workers.launch.examination.path_checks import check_paths

    first, last = parse_ports(options["port_range"])
    wanted = Examination(
        subjects=_read_hosts(options),
        first_port=first,
        last_port=last,
        throughput=options["throughput"],
        timeout=options["timeout"],
        ssh_config=options["ssh_config"],
        env=os.environ,
        cwd=options["cwd"] or os.getcwd(),
    )
    examined = asyncio.run(collect(wanted, lambda text: click.echo(f"dagrad: {text}", err=True)))
    faults = in_order([*check_hosts(examined), *check_paths(examined)])
    code = exit_code(faults, reached=bool(examined.reached))
    if as_json:
        _print_json("hosts", code, faults, examined.to_json())
    else:
        _print_hosts(examined, faults)
    return code


def _examine_run(path: Path, timeout: float, *, as_json: bool) -> int:
    from dagrad_bus.workers.launch.examination.judgement import exit_code, in_order
    from dagrad_bus.workers.launch.examination.live import check_run
    from dagrad_bus.workers.launch.examination.live_facts import collect_run

    facts = collect_run(path, timeout)
    faults = in_order(check_run(facts))
    code = exit_code(faults, reached=facts.is_reached)
    if as_json:
        _print_json("run", code, faults, asdict(facts))
    else:
        from dagrad_bus.tools.doctor_tables import faults_table, run_table
        from dagrad_bus.tools.tables import make_console

        console = make_console()
        console.print(run_table(facts))
        console.print(faults_table(faults))
    return code


def _read_hosts(options: dict[str, Any]) -> Sequence[Host]:
    from dagrad_bus.tools.run import read_hosts
    from dagrad_bus.workers.launch.hostfile import Host

    hosts = read_hosts(options | {"workers": None, "oversubscribe": False})
    if not hosts:
        return [Host(label="local", host="localhost", slot_numbers=(0,))]
    return [replace(host, python=host.python or options["python"] or "") for host in hosts]


def parse_ports(text: str) -> tuple[int, int]:
    """Return first and last port of ``A-B``.

    Raises:
        UsageError: it is no range of ports.
    """
    found = _PORTS.fullmatch(text)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= first <= last <= 65535:
        raise UsageError(f"--port-range is {text!r}: needs A-B, two ports from 1 to 65535")
    return first, last


def _print_json(kind: str, code: int, faults: Sequence[Fault], facts: dict[str, Any]) -> None:
    shown = [{"level": f.level, "check": f.check, "where": f.where, "what": f.what, "repair": f.repair} for f in faults]
    click.echo(
        json.dumps({"schema": SCHEMA, "examined": kind, "exit": code, "faults": shown, "facts": facts}, indent=2)
    )


def _print_hosts(examined: Examined, faults: Sequence[Fault]) -> None:
    from dagrad_bus.tools.doctor_tables import faults_table, host_table, path_table
    from dagrad_bus.tools.tables import make_console

    console = make_console()
    console.print(host_table(examined))
    if examined.paths:
        console.print(path_table(examined))
    console.print(faults_table(faults))
