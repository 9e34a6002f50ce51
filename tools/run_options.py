"""The options of ``dagrad run``, in the groups in which ``--help`` shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

MOST_WORKERS = 512
Decorator = Callable[[Callable[..., None]], Callable[..., None]]
EXCHANGE = (
    ("rule", "NAME", "state, gradient, gossip-dense, gossip-qsgd, choco, sync-ps, async-ps, or local: none.  [state]"),
    ("density", "SHARE", "Share of the model in one frame, (0, 1].  [0.015]"),
    ("block", "N", "Elements a block, a power of two; 0 chooses by model size.  [0]"),
    ("interval", "STEPS", "Local steps between two exchanges.  [1]"),
    ("fanout", "N", "Neighbours that get each frame; 0 means all.  [0]"),
    ("choice", "random|complementary|similar", "How they are drawn: by chance, or by how peers move.  [random]"),
    ("explore", "N", "Members beyond the neighbours to hold a link with, 0 to 2.  [0]"),
    ("w0", "WEIGHT", "Weight of one fresh version against the own value, (0, 1).  [0.9]"),
    ("tau", "STEPS", "Age up to which a version counts fully; 0 tunes it.  [0]"),
    ("age-power", "P", "Beyond tau the weight falls as (tau / age)^P; 0 is off.  [1]"),
    ("clip", "X", "A frame moves values by at most X times their own norm.  [2]"),
    ("refresh", "SHARE", "Share of each frame that goes round robin over all blocks.  [0.0625]"),
    ("dirty", "SHARE", "At most this share of each frame repeats what a link missed.  [0.5]"),
    ("wire", "f32|f16|bf16|int8", "Value type on the wire.  [int8]"),
    ("degree", "N", "Neighbours of each worker in the graph, even.  [4]"),
    ("topology", "KIND", "Graph to start with: hash-rings, ring or complete.  [hash-rings]"),
    ("seed", "N", "Seed of the exchange's random choices.  [0]"),
    ("codec", "auto|raw|zlib|blosc2", "Compression of frames.  [auto]"),
    ("loop", "uvloop|asyncio", "Event loop of the bus.  [uvloop]"),
)
"""Option, metavar, help. Values are checked by ``dagrad_bus.settings`` and travel as DAGRAD_<OPTION>."""
_FILE = click.Path(path_type=Path, dir_okay=False)
WHERE: tuple[Decorator, ...] = (
    click.option("-n", "--workers", type=click.IntRange(1, MOST_WORKERS), metavar="N",
                 help="Workers in all.  [2 on this host; every slot of the hosts]"),
    click.option("-H", "--hosts", "host_list", metavar="HOST:SLOTS,...", help="Hosts, reached by ssh: a:2,b:2."),
    click.option("--hostfile", metavar="FILE",
                 help="Hosts from a file of Open MPI's, DeepSpeed's or Horovod's form; - reads stdin."),
    click.option("--include", metavar="SEL", help="Only these of the hosts: node1@node2:0,2."),
    click.option("--exclude", metavar="SEL", help="All but these."),
    click.option("--oversubscribe", is_flag=True, help="With -n: more workers than slots, up to max_slots."),
    click.option("--on", "engine", type=click.Choice(["auto", "local", "ssh", "slurm", "ray"]), default="auto",
                 show_default=True, help="Who starts the workers; auto: ssh with hosts, slurm inside a job, else local."),
    click.option("--ssh-config", type=_FILE, metavar="FILE", help="Configuration of ssh instead of the user's."),
    click.option("--python", metavar="PATH", help="Interpreter on other hosts.  [the path of this one]"),
    click.option("--cwd", metavar="DIR", help="Working folder on other hosts.  [the same path as here]"),
    click.option("--sync", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="DIR",
                 help="First copy DIR to the same path on every host by rsync; nothing is deleted there."),
    click.option("--port-range", metavar="A-B", default="20000-32000", show_default=True,
                 help="Ports that workers on several hosts listen on."),
    click.option("--srun-arg", "srun_args", multiple=True, metavar="ARG", help="One argument more for srun: --srun-arg=--partition=gpu."),
    click.option("--cpus", type=click.FloatRange(0), default=1.0, show_default=True, help="Ray: CPUs a worker."),
    click.option("--gpus", type=click.FloatRange(0), default=0.0, show_default=True, help="Ray: GPUs a worker."),
    click.option("--strategy", type=click.Choice(["PACK", "SPREAD", "STRICT_SPREAD"]), default="SPREAD",
                 show_default=True, help="Ray: how workers are placed on nodes."),
)  # fmt: skip
"""Options that say where workers run."""
LIFE: tuple[Decorator, ...] = (
    click.option("--on-failure", type=click.Choice(["restart", "continue", "abort"]), default="restart",
                 show_default=True, help="What follows when a worker fails."),
    click.option("--max-restarts", type=click.IntRange(0, 1000), default=3, show_default=True, metavar="N",
                 help="Restarts of one slot in a row."),
    click.option("--restart-wedged", type=click.FloatRange(0), default=0.0, metavar="S",
                 help="Kill and restart a worker without a step for S seconds; 0: never.  [0]"),
    click.option("--min-workers", type=click.IntRange(1), metavar="N",
                 help="Begin with N workers where hosts are missing; give up below N."),
    click.option("--min-success", type=click.IntRange(1), metavar="K",
                 help="Exit with 0 if K workers ended with 0.  [all]"),
    click.option("--grace", type=click.FloatRange(0, 3600), default=10.0, show_default=True, metavar="S",
                 help="Seconds a worker has to stop before it is killed."),
    click.option("--lease", type=click.FloatRange(1, 86400), default=60.0, show_default=True, metavar="S",
                 help="Workers on other hosts end when they heard nothing of the launcher for S seconds."),
    click.option("--detach", is_flag=True, help="Return once all workers run, and leave them alone."),
)  # fmt: skip
"""Options about failures, ends and leaving."""
ENVIRONMENT: tuple[Decorator, ...] = (
    click.option("--env", "env_words", multiple=True, metavar="K[=V]",
                 help="Set K on all workers, or hand on its value from here."),
    click.option("--env-file", "env_files", multiple=True, type=_FILE, metavar="FILE", help="Lines of K=V."),
    click.option("--export-all", is_flag=True, help="Hand the whole environment on to other hosts."),
    click.option("--torch-env", "--keep-rank-env", "keep_rank_env", is_flag=True,
                 help="Leave RANK, WORLD_SIZE and their kin in the environment."),
    click.option("--spawn", is_flag=True, help="One new interpreter a worker instead of forks of a warm one."),
    click.option("--preload", multiple=True, metavar="MOD",
                 help="Also import MOD once before forking; 'none' drops the usual list."),
)  # fmt: skip
"""Options about the workers' processes."""
SHOWN: tuple[Decorator, ...] = (
    click.option("--dir", "directory", type=click.Path(path_type=Path), help="Run folder.  [runs/<time>-<id>]"),
    click.option("--log-dir", type=click.Path(path_type=Path), metavar="DIR",
                 help="Also keep stdout and stderr apart: DIR/<host>.<slot>/stdout.log, stderr.log."),
    click.option("--progress", type=click.Choice(["auto", "table", "lines", "none"]), default="auto", show_default=True,
                 help="Live table, a line a worker every few seconds, or nothing."),
    click.option("--figures/--no-figures", default=True, show_default=True, help="Draw figures at the end."),
    click.option("--json", "as_json", is_flag=True, help="Print the summary to stdout, all else to stderr."),
    click.option("--dry-run", is_flag=True, help="Show hosts, workers, commands and environment; start nothing."),
)  # fmt: skip
"""Options about what is written and shown."""


class GroupedCommand(click.Command):
    """A command whose options stand under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group; what belongs to none comes last."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in (*_TITLES, "Exchange", "Other")}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)) is not None:
                sections[_title_of(option)].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _title_of(option: click.Parameter) -> str:
    if (option.name or "").startswith("exchange_"):
        return "Exchange"
    return next((title for title, names in _TITLES.items() if option.name in names), "Other")


def _names(group: tuple[Decorator, ...]) -> set[str]:
    """Return the names of the options that decorators add."""

    def bare() -> None:
        pass

    for decorate in group:
        decorate(bare)
    options: list[click.Option] = getattr(bare, "__click_params__", [])
    return {option.name for option in options if option.name}


_TITLES = {
    "Where": _names(WHERE),
    "Failures and ends": _names(LIFE),
    "Processes": _names(ENVIRONMENT),
    "Output": _names(SHOWN),
}


def exchange_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the exchange."""
    for name, metavar, text in reversed(EXCHANGE):
        function = click.option(f"--{name}", f"exchange_{name.replace('-', '_')}", metavar=metavar, help=text)(function)
    return function


def launch_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add all others."""
    for decorate in reversed((*WHERE, *LIFE, *ENVIRONMENT, *SHOWN)):
        function = decorate(function)
    return function
