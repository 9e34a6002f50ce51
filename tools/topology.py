"""``dagrad topology``: make graphs, look at them, compare them, and change the one of a run.

Everything that needs numpy is imported inside the commands: ``dagrad topology --help`` is for reading, and quick.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dagrad_bus.errors import NobodyAnswers, UsageError

if TYPE_CHECKING:
    from dagrad_bus.topology.drawing import Layout
    from dagrad_bus.topology.graph import Topology

_CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_FILE = click.Path(path_type=Path)
COMPARED = "hash-rings,random-regular,ring,torus,exponential,one-peer-exponential,base,epidemic"
NOT_CONNECTED = 1
"""Exit code of ``inspect`` for a graph in parts, and of ``rewire`` where a worker did not follow."""
Command = Callable[..., None]


def _shape(function: Command) -> Command:
    """Add the options that say which graph of a kind."""
    options = (
        click.option("-n", "--size", type=int, metavar="N", help="Workers.  [32 where SOURCE is a kind]"),
        click.option("-d", "--degree", type=int, default=4, show_default=True, metavar="N", help="See the kind."),
        click.option("-s", "--seed", type=int, default=0, show_default=True, metavar="N", help="Of random kinds."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _as_json(text: str = "Print one JSON object.") -> Callable[[Command], Command]:
    return click.option("--json", "as_json", is_flag=True, help=text)


@click.group(context_settings=_CONTEXT)
def topology() -> None:
    """Make graphs of workers, look at them, compare them, and change the one of a run.

    \b
    What would 64 workers gain by another graph?
        dagrad topology compare -n 64
        dagrad topology inspect torus -n 64
        dagrad topology plot hash-rings -n 64 -o rings.png

    \b
    A graph of your own, from any program that writes GraphML, GEXF, DOT, JSON or an edge list:
        dagrad topology inspect racks.graphml
        dagrad topology rewire runs/a --graph racks.graphml

    Graphs and figures are explained in docs/topology.md.
    """  # noqa: D301  # the backspace keeps click from filling a paragraph


@topology.command(context_settings=_CONTEXT, short_help="Make a graph and write it to a file.")
@click.argument("kind")
@_shape
@click.option("-o", "--output", type=_FILE, metavar="FILE", help="Where to; the suffix is the format.  [stdout]")
@_as_json("Print facts about the graph instead of its edges.")
def generate(kind: str, size: int | None, degree: int, seed: int, output: Path | None, as_json: bool) -> None:
    """Make a graph of KIND and write it to FILE, or as an edge list to stdout.

    \b
    Graphs that stay as they are (--degree):
        hash-rings (even), random-regular (exact), erdos-renyi (mean), equi-static, equi-directed (at most),
        ring, torus, star, complete, exponential
    Sequences, another graph each round (only .json and .npz hold them):
        one-peer-exponential, equi-one-peer, base (at most), epidemic (receivers)

    \b
    dagrad topology generate random-regular -n 64 --seed 7 -o regular.graphml
    dagrad topology generate base -n 25 -d 2 -o base.npz
    dagrad topology generate torus -n 36 | head

    Exit code: 0 done; 2 no such graph, or FILE cannot be written.
    """  # noqa: D301
    from dagrad_bus.topology.formats import edge_list, write
    from dagrad_bus.topology.kinds import generate as make

    made = make(kind, size or 32, degree=degree, seed=seed)
    if output is not None:
        write(made, output)
    if as_json:
        click.echo(json.dumps(_facts(made, output), indent=2))
    elif output is not None:
        click.echo(_line(made, output))
    else:
        click.echo(edge_list(made), nl=False)


@topology.command(context_settings=_CONTEXT, short_help="Show how a graph mixes and what it bears.")
@click.argument("source")
@_shape
@click.option("--trials", type=click.IntRange(1, 100_000), default=200, show_default=True, metavar="N",
              help="Draws of the dead, for each share of deaths.")  # fmt: skip
@_as_json()
def inspect(source: str, size: int | None, degree: int, seed: int, trials: int, as_json: bool) -> None:
    """Show how fast SOURCE mixes, how far apart its workers are, what deaths and liars do to it.

    SOURCE is a file, a kind, or the folder of a live run: then it is the graph of those present, as workers compute it.

    \b
    dagrad topology inspect hash-rings -n 64
    dagrad topology inspect racks.graphml
    dagrad topology inspect runs/a
    dagrad topology inspect exponential -n 48 --json | jq .gap

    Exit code: 0 connected; 1 it falls into parts; 2 no such graph, or a file that is none; 3 no worker answers.
    """  # noqa: D301
    from dagrad_bus.tools.topology_tables import inspection
    from dagrad_bus.topology.spectrum import spectrum
    from dagrad_bus.topology.structure import structure

    found = _load(source, size, degree, seed)
    speed, shape = spectrum(found), structure(found, trials=trials, seed=seed)
    if as_json:
        facts = _facts(found, None) | asdict(speed) | {"gap": speed.gap} | asdict(shape) | {"liars": shape.liars}
        click.echo(json.dumps(facts, indent=2))
    else:
        from dagrad_bus.tools.tables import make_console

        make_console().print(inspection(found, speed, shape))
    sys.exit(0 if shape.connected else NOT_CONNECTED)


@topology.command(context_settings=_CONTEXT, short_help="Draw a graph, or several side by side.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@_shape
@click.option("-o", "--output", type=_FILE, required=True, metavar="FILE", help="The picture, .png or .svg.")
@click.option("--layout", type=click.Choice(["circular", "spring", "kamada"]), default="circular", show_default=True,
              help="In order of their numbers; by springs; by distances in the graph.")  # fmt: skip
@click.option("--title", default="", metavar="TEXT", help="Over the picture.  [kind and size]")
@_as_json()
def plot(sources: tuple[str, ...], output: Path, layout: Layout, title: str, as_json: bool, **shape: Any) -> None:
    """Draw each SOURCE (a file, or a kind): workers coloured by degree.

    One alone: of a sequence the first 12 rounds. Several: side by side, all rounds of a sequence in one, with their gaps.

    \b
    dagrad topology plot hash-rings -n 64 -o rings.png
    dagrad topology plot racks.graphml --layout kamada -o racks.svg
    dagrad topology plot base -n 25 -d 2 -o rounds.png
    dagrad topology plot ring torus hash-rings complete -n 36 -o kinds.png

    Exit code: 0 drawn; 2 no such graph, or it cannot be drawn.
    """  # noqa: D301
    from dagrad_bus.topology.drawing import draw, draw_side_by_side

    found = [_load(source, **shape) for source in sources]
    try:
        if len(found) == 1:
            draw(found[0], output, layout=layout, title=title)
        else:
            draw_side_by_side(found, output, layout=layout, title=title)
    except ImportError:
        raise UsageError("pictures need matplotlib: pip install 'dagrad-bus[topology]'") from None
    if as_json:
        click.echo(json.dumps([_facts(one, output) for one in found], indent=2))
    else:
        click.echo(f"drew {output}: {'; '.join(map(_what, found))}")


@topology.command(context_settings=_CONTEXT, short_help="Put kinds of graphs side by side.")
@click.option("-k", "--kinds", default=COMPARED, show_default=True, metavar="KIND,...", help="'all' takes all.")
@click.option("-n", "--sizes", default="32,64", show_default=True, metavar="N,...", help="Workers.")
@click.option("-d", "--degree", type=int, default=4, show_default=True, metavar="N", help="See the kinds.")
@click.option("--seeds", type=click.IntRange(1, 10_000), default=20, show_default=True, metavar="N",
              help="Draws of each random kind; figures are their means.")  # fmt: skip
@_as_json("Print the rows as a JSON list.")
def compare(kinds: str, sizes: str, degree: int, seeds: int, as_json: bool) -> None:
    """Put kinds side by side: how fast they mix, what a death costs. Progress goes to stderr.

    \b
    dagrad topology compare
    dagrad topology compare -n 16,64,256 --kinds hash-rings,random-regular,ring --seeds 100
    dagrad topology compare --kinds all -n 32 --json > kinds.json

    Exit code: 0 done, also where a kind has no graph of some size (the row says why); 2 bad option.
    """  # noqa: D301
    from dagrad_bus.tools.topology_tables import comparison, measure

    rows = measure(_kinds(kinds), _sizes(sizes), degree=degree, seeds=seeds)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        from dagrad_bus.tools.tables import make_console

        make_console().print(comparison(rows, degree=degree))


@topology.command(context_settings=_CONTEXT, short_help="Write a graph in another format.")
@click.argument("source", type=_FILE, metavar="IN")
@click.argument("target", type=_FILE, metavar="OUT")
@click.option("--round", "number", type=click.IntRange(1), metavar="N", help="Only this round of a sequence, from 1.")
@_as_json()
def convert(source: Path, target: Path, number: int | None, as_json: bool) -> None:
    """Write the graph in file IN to file OUT; suffixes say the formats.

    .json (node-link), .npz, .graphml, .gexf, .dot or .gv, .txt or .edges (an edge a line).

    \b
    dagrad topology convert racks.graphml racks.json
    dagrad topology convert base.npz first.dot --round 1

    Exit code: 0 done; 2 IN cannot be read, or OUT cannot hold it.
    """  # noqa: D301
    from dagrad_bus.topology.formats import read, write
    from dagrad_bus.topology.graph import Topology

    found = read(source)
    if number is not None:
        if number > len(found.rounds):
            raise UsageError(f"{source} has {len(found.rounds)} rounds, none of number {number}")
        found = Topology(found.kind, (found.rounds[number - 1],), found.names)
    write(found, target)
    click.echo(json.dumps(_facts(found, target), indent=2) if as_json else _line(found, target))


@topology.command(context_settings=_CONTEXT, short_help="Give a live run another graph.")
@click.argument("run_dir", type=_FILE, metavar="RUN_DIR")
@click.option("--kind", metavar="KIND", help="Another kind; one that workers do not compute is written down.")
@click.option("--epoch", type=int, metavar="N", help="Another graph of the same kind: the one of this epoch.")
@click.option("--degree", type=int, metavar="N", help="Another number of neighbours.")
@click.option("--seed", type=int, metavar="N", help="Another seed.")
@click.option("--graph", type=_FILE, metavar="FILE", help="The graph in this file, in any format of convert.")
@click.option(
    "--dry-run", is_flag=True, help="Show what would change, and change nothing; works on a run that is over."
)
@click.option("--timeout", type=click.FloatRange(0.1, 600), default=10.0, show_default=True, metavar="S",
              help="Seconds that the workers have to answer and to follow.")  # fmt: skip
@_as_json()
def rewire(run_dir: Path, dry_run: bool, timeout: float, as_json: bool, **wanted: Any) -> None:
    """Give the live run in RUN_DIR another graph; no worker stops or loses a step.

    Workers keep the edges that both graphs have, open new ones and close the old ones when those are up. A graph that
    workers do not compute themselves is written to RUN_DIR/graphs, where they find it.

    \b
    dagrad topology rewire runs/a --degree 6 --dry-run
    dagrad topology rewire runs/a --epoch 1
    dagrad topology rewire runs/a --kind random-regular --seed 7
    dagrad topology rewire runs/a --graph racks.graphml

    Exit code: 0 all workers have the new graph, or --dry-run; 1 some did not follow in time; 2 no such graph or run;
    3 no worker answers.
    """  # noqa: D301
    from dagrad_bus.tools.topology_rewire import rewire_run

    try:
        done = rewire_run(run_dir.absolute(), wanted, dry_run=dry_run, timeout=timeout)
    except NobodyAnswers as error:
        from dagrad_bus.tools.visiting import explain_end
        from dagrad_bus.workers.launch.folder import RunFolder

        raise explain_end(RunFolder(run_dir.absolute()), error, time.time()) from None
    if as_json:
        click.echo(json.dumps(done.to_json(), indent=2))
    else:
        from dagrad_bus.tools.tables import make_console
        from dagrad_bus.tools.topology_tables import rewiring

        make_console().print(rewiring(done))
    sys.exit(NOT_CONNECTED if done.silent else 0)


def _load(source: str, size: int | None, degree: int, seed: int) -> Topology:
    """Return the topology of a file, or of a kind."""
    from dagrad_bus.topology.formats import read
    from dagrad_bus.topology.kinds import KINDS
    from dagrad_bus.topology.kinds import generate as make

    if source in KINDS:
        return make(source, 32 if size is None else size, degree=degree, seed=seed)
    if "." not in source and not Path(source).exists():
        raise UsageError(f"{source!r} is neither a file nor a kind: {', '.join(KINDS)}")
    if size is not None:
        what = "run" if Path(source).is_dir() else "file"
        raise UsageError(f"{source} is a {what}: it says itself how many workers it has, leave --size out")
    if Path(source).is_dir():
        from dagrad_bus.tools.topology_rewire import live_topology

        return live_topology(Path(source).absolute())
    return read(Path(source))


def _kinds(text: str) -> list[str]:
    from dagrad_bus.topology.kinds import KINDS

    names = list(KINDS) if text == "all" else [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in KINDS]:
        raise UsageError(f"kind is {unknown[0]!r}: needs one of {', '.join(KINDS)}")
    return names


def _sizes(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise UsageError(f"--sizes is {text!r}: needs whole numbers with commas between them") from None


def _what(found: Topology) -> str:
    edges = sum(len(one.edges) for one in found.rounds)
    rounds = f"{len(found.rounds)} rounds, " if len(found.rounds) > 1 else ""
    return f"{found.kind}, {found.size} workers, {rounds}{edges} edges"


def _line(found: Topology, path: Path) -> str:
    return f"wrote {path}: {_what(found)}"


def _facts(found: Topology, path: Path | None) -> dict[str, object]:
    facts: dict[str, object] = {
        "kind": found.kind,
        "size": found.size,
        "rounds_in_period": len(found.rounds),
        "directed": found.directed,
        "links": sum(len(one.edges) for one in found.rounds),
    }
    return facts | ({"file": str(path)} if path is not None else {})
