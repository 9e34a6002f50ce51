"""``dagrad run``: train with N workers, on this host or on many."""

from __future__ import annotations

import os
import platform
import secrets
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from dagrad_bus.errors import BusError, UsageError
from dagrad_bus.settings import PREFIX, Settings, from_environment
from dagrad_bus.settings import describe as describe_settings
from dagrad_bus.tools.finish import train_and_report
from dagrad_bus.tools.rehearsal import show_rehearsal
from dagrad_bus.tools.run_options import GroupedCommand, exchange_options, launch_options
from dagrad_bus.workers.launch.berths import Reach, describe, host_berths, local_berth
from dagrad_bus.workers.launch.brief import Berth, Launch
from dagrad_bus.workers.launch.command import CommandNotFound, resolve
from dagrad_bus.workers.launch.environment import common_environment, portable, without_identity
from dagrad_bus.workers.launch.folder import RunFolder, create, default_path, mark_process
from dagrad_bus.workers.launch.hostfile import Host, first, oversubscribe, parse_file, parse_list, select
from dagrad_bus.workers.launch.orders import RestartPolicy, Start
from dagrad_bus.workers.launch.rsync import copy_to_hosts
from dagrad_bus.workers.launch.ssh import is_local

ON_THIS_HOST = 2
"""Workers where nothing says how many."""
_NAMES = {"ray": "ray-{}.0", "slurm": "slurm.{}"}
"""Names of workers under engines, their numbers left out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for, checked, before anything is made or started."""

    words: tuple[str, ...]
    hosts: tuple[Host, ...]
    """Empty: this one, without a host file."""
    count: int
    """Workers, where there are no hosts."""
    name: str
    """Of each of those, its number left out."""
    base: dict[str, str]
    """Environment of an agent on this host."""
    env: dict[str, str]
    """What all workers get over their host's own."""
    settings: Settings

    @property
    def names(self) -> list[str]:
        """Names of all workers."""
        if not self.hosts:
            return [self.name.format(number) for number in range(self.count)]
        return [f"{host.label}.{slot}" for host in self.hosts for slot in host.slot_numbers]


@click.command(
    cls=GroupedCommand,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "allow_interspersed_args": False,  # all after the command's first word is the command's
        "max_content_width": 110,
    },
    options_metavar="[OPTIONS]",
)
@click.option("-m", "as_module", is_flag=True, help="The command is a module of Python, as in python -m.")
@launch_options
@exchange_options
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND [ARGS]...")
def run(words: tuple[str, ...], as_module: bool, **options: Any) -> None:
    """Train with many workers and report what happened.

    The first word that is no option of ours begins COMMAND; everything after it is COMMAND's own. A .py file and
    -m MODULE are run by this Python, anything else as it is.

    \b
    dagrad run -n 8 -- python -m dagrad_bus.workers.digits       # on this host
    dagrad run -n 4 train.py --lr 0.1
    dagrad run -H node1:4,node2:4 train.py                       # on others, by ssh
    dagrad run --hostfile hosts --dry-run train.py               # look first
    dagrad run --on slurm -n 32 train.py                         # inside a job, or as one
    dagrad run -n 2 --dir runs/a --json --progress none train.py > summary.json

    Ctrl-C stops all workers, twice kills them. A worker that fails leaves the others running and is started again.
    SIGUSR1 and SIGUSR2 are passed on; SIGHUP reads the host file again.

    Exit code: 0 all good; a worker's own (128 + signal) of the first that failed for good; 130, 143 stopped; 3 hosts
    cannot be reached; 127 no such command; 2 bad option; 125 a fault of dagrad itself.
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    try:
        code = _run(("-m", *words) if as_module and words else words, options)
    except (click.ClickException, click.exceptions.Exit, UsageError):
        raise
    except BusError as error:
        click.echo(f"dagrad: {error}", err=True)
        code = error.code if isinstance(error, CommandNotFound) else 125
    except Exception:  # noqa: BLE001  # the outermost line: whatever it is, it is ours, and not a worker's exit code
        traceback.print_exc()
        click.echo("dagrad: this is a fault of dagrad itself, please report it", err=True)
        code = 125
    sys.exit(code)


def _run(words: Sequence[str], options: Mapping[str, Any]) -> int:
    engine = _choose_engine(options, os.environ)
    plan = _make_plan(words, options, engine)
    if engine in {"ray", "slurm"} and options["detach"]:
        raise UsageError(f"--detach cannot work with --on {engine}: workers end with the launcher")
    if options["dry_run"]:
        show_rehearsal(plan.names, plan.hosts, plan.words, plan.env, options, engine=engine)
        return 0
    if options["sync"] is not None:
        copy_to_hosts(options["sync"], plan.hosts, config=options["ssh_config"])
    folder, run_id = _make_folder(plan, options)
    if engine == "ray":
        from dagrad_bus.tools.run_ray import run_on_ray

        start = replace(_make_start(plan, folder, run_id, options), lease=0.0)
        return run_on_ray(folder, start, options)
    if engine == "slurm":
        from dagrad_bus.tools.run_slurm import run_on_slurm

        return run_on_slurm(plan.words, folder, run_id, {**without_identity(os.environ), **plan.env}, options)
    launch = _make_launch(plan, folder, run_id, options)
    return train_and_report(launch, plan.names, options)


def _choose_engine(options: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """Return who starts the workers."""
    engine: str = options["engine"]
    has_hosts = options["host_list"] is not None or options["hostfile"] is not None
    if engine in {"auto", "ssh"} and has_hosts:
        return "ssh"
    if engine == "ssh":
        raise UsageError("--on ssh needs hosts: -H a:2,b:2 or --hostfile FILE")
    if has_hosts:
        raise UsageError(f"--on {engine} chooses the hosts itself: leave -H and --hostfile out")
    inside = "SLURM_JOB_ID" in environ and "SLURM_STEP_ID" not in environ
    return ("slurm" if inside else "local") if engine == "auto" else engine


def _count_tasks(options: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Return how many workers are wanted: as said, else one a task of the job that this runs in."""
    inside = environ.get("SLURM_NTASKS", "")
    return options["workers"] or (int(inside) if inside.isdigit() else ON_THIS_HOST)


def _make_plan(words: Sequence[str], options: Mapping[str, Any], engine: str) -> Plan:
    hosts = read_hosts(options)
    here = Path.cwd()
    if not hosts:
        words = resolve(words, cwd=here).words  # what is wrong is said before anything is made
    elif not words:
        raise UsageError("no command given: dagrad run --hostfile FILE train.py")
    slots = _count_tasks(options, os.environ) if engine == "slurm" else options["workers"] or ON_THIS_HOST
    base = common_environment(os.environ, workers=slots, keep_ranks=options["keep_rank_env"])
    if hosts:
        base = common_environment(os.environ, workers=1, keep_ranks=options["keep_rank_env"])
    env = portable(
        os.environ, options["env_words"], options["env_files"], everything=bool(hosts) and options["export_all"]
    )
    env |= {PREFIX + name[9:].upper(): value for name, value in options.items()
            if name.startswith("exchange_") and value is not None}  # fmt: skip
    if engine == "ray":  # the carrier of each agent knows the address of its node
        env = {name: value for name, value in env.items() if name not in {f"{PREFIX}BIND", f"{PREFIX}ADVERTISE"}}
    if not all(is_local(host) for host in hosts):
        env.setdefault(f"{PREFIX}PORT_RANGE", options["port_range"])
    elif engine not in _NAMES:
        base.setdefault(f"{PREFIX}BIND", "127.0.0.1")
    settings = from_environment({**base, **env})
    return Plan(tuple(words), tuple(hosts), slots, _NAMES.get(engine, "local.{}"), base, env, settings)


def read_hosts(options: Mapping[str, Any], *, taken: Mapping[str, str] | None = None) -> tuple[Host, ...]:
    """Return the hosts that the options name, none for a run on this host.

    Args:
        options: of the command line.
        taken: labels of hosts known before, which they keep.

    Raises:
        UsageError: a host file with mistakes, all of them listed; a filter that leaves nothing.
    """
    name, given, wanted = options["hostfile"], options["host_list"], options["workers"]
    if name is not None and given is not None:
        raise UsageError("--hostfile and -H are two lists of hosts: give one")
    if name is None and given is None:
        return ()
    found = parse_file(_read(name), name, taken=taken) if name is not None else parse_list(given or "", taken=taken)
    for note in found.notes if taken is None else ():
        click.echo(f"dagrad: {note}", err=True)
    hosts = select(found.hosts, options["include"] or "", options["exclude"] or "")
    if wanted is not None:
        more = wanted > sum(host.slots for host in hosts) and options["oversubscribe"]
        hosts = oversubscribe(hosts, wanted) if more else first(hosts, wanted)
    cwd, python = options["cwd"] or os.getcwd(), options.get("python") or sys.executable
    return tuple(replace(host, cwd=host.cwd or cwd, python=host.python or python) for host in hosts)


def _read(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from None


def _make_folder(plan: Plan, options: Mapping[str, Any]) -> tuple[RunFolder, str]:
    """Make the run folder; return it and the run's id."""
    run_id, now = secrets.token_hex(8), time.time()
    facts = {
        "created": now,
        "command": plan.words,
        "settings": describe_settings(plan.settings),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "cwd": os.getcwd(),
        "launcher": os.getpid(),
        "launcher_mark": mark_process(os.getpid()),
        "omp_threads": plan.base.get("OMP_NUM_THREADS", "1"),
        "hosts": describe(plan.hosts),
        "launch": {name: options[name] for name in ("grace", "lease", "detach")}
        | {"ssh_config": str(options["ssh_config"].absolute()) if options["ssh_config"] else None},
    }
    path = options["directory"] or default_path(run_id, now=now)
    folder = create(path, run=run_id, names=plan.names, facts=facts)
    if options["log_dir"] is not None:
        folder.keep_logs_in(options["log_dir"].absolute(), plan.names)
    return folder, run_id


def _make_start(plan: Plan, folder: RunFolder, run_id: str, options: Mapping[str, Any]) -> Start:
    """Return what every host is told."""
    policy = RestartPolicy(
        on_failure="restart" if options["on_failure"] == "restart" else "continue",
        most=options["max_restarts"],
        wedged=options["restart_wedged"],
    )
    lease = -1.0 if options["detach"] else options["lease"] if plan.hosts else 0.0
    return Start(
        run=run_id,
        host="",
        key=folder.key.read_text().strip(),
        roster=plan.names,
        command=list(plan.words),
        cwd=os.getcwd(),
        env=plan.env,
        keep_ranks=options["keep_rank_env"],
        fork=not options["spawn"],
        preload=list(options["preload"]),
        split=options["log_dir"] is not None,
        grace=options["grace"],
        lease=lease,
        restart=policy,
    )


def _make_launch(plan: Plan, folder: RunFolder, run_id: str, options: Mapping[str, Any]) -> Launch:
    reach = Reach(
        folder=folder.path,
        env=plan.base,
        ssh_config=options["ssh_config"],
        outlives=options["detach"],
    )
    berths = host_berths(plan.hosts, reach) if plan.hosts else [local_berth(plan.count, reach)]
    return Launch(
        folder=folder,
        berths=berths,
        start=_make_start(plan, folder, run_id, options),
        min_workers=options["min_workers"],
        min_success=options["min_success"],
        abort=options["on_failure"] == "abort",
        detach=options["detach"],
        reread=_rereader(plan.hosts, reach, options),
    )


def _rereader(hosts: Sequence[Host], reach: Reach, options: Mapping[str, Any]) -> Callable[[], Sequence[Berth]] | None:
    """Return what reads the host file again; None where there is none, or it was stdin."""
    if options["hostfile"] in {None, "-"}:
        return None
    labels = {host.host: host.label for host in hosts}

    def read_again() -> Sequence[Berth]:
        found = read_hosts(options, taken=labels)
        labels.update({host.host: host.label for host in found})
        RunFolder(reach.folder).update_run(hosts=describe(found))  # for a launcher that takes over
        return host_berths(found, reach)

    return read_again
