"""``dagrad topology rewire``: what a new graph changes in a run, and giving it to the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.topology.formats import read
from dagrad_bus.topology.graph import Topology
from dagrad_bus.topology.kinds import KINDS, generate
from dagrad_bus.topology.live import GraphKind, TopologySpec, edges
from dagrad_bus.topology.repair import Edge
from dagrad_bus.topology.rewiring import LIVE_KINDS, compare_edges, to_static, to_topology
from dagrad_bus.topology.spectrum import spectrum
from dagrad_bus.topology.static import MAX_DOCUMENT, StaticGraph, parse
from dagrad_bus.workers.launch.folder import RunFolder

if TYPE_CHECKING:
    from dagrad_bus.bus.visitor import Rewired

Members = dict[str, NodeId]
"""Name -> id, in the order of the roster."""


@dataclass(frozen=True, slots=True)
class Side:
    """One graph of the run's members."""

    text: str
    edges: int
    degrees: str
    gap: float
    rounds: int | None


@dataclass(frozen=True, slots=True)
class Rewiring:
    """What was, what is to be, and what became of it."""

    members: int
    before: Side
    after: Side
    kept: int
    new: int
    closed: int
    version: int | None = None
    """Of the published spec; None: a dry run."""
    adopted: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    """Workers that did not follow in time."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def rewire_run(path: Path, wanted: Mapping[str, Any], *, dry_run: bool, timeout: float) -> Rewiring:
    """Work out the new graph of a run and, unless ``dry_run``, publish it.

    Args:
        path: run folder.
        wanted: ``kind``, ``epoch``, ``degree``, ``seed``, ``graph`` (a file); None: as it is.
        dry_run: publish nothing; where nobody answers take members and first graph from the folder.
        timeout: seconds for each of the two visits.

    Raises:
        UsageError: no run folder, nothing wanted, no such graph, or nobody answers.
    """
    if not any(value is not None for value in wanted.values()):
        raise UsageError("nothing to change: give --kind, --epoch, --degree, --seed or --graph")
    folder = RunFolder(path)
    run = folder.read_run()
    members, spec = _look_at(folder, run, timeout) if dry_run else _from_workers(folder, run, timeout)
    graph = _stored(folder, spec.graph) if spec.kind == "static" else None
    new, made, text = _plan(spec, members, wanted)
    ids = list(members.values())
    before, after = edges(ids, spec, graph), edges(ids, new, made)
    sides = _side(_describe(spec), ids, before), _side(text, ids, after)
    change = compare_edges(before, after)
    done = Rewiring(len(members), *sides, change.kept, change.new, change.closed)
    if dry_run:
        return done
    if made is not None:
        _need_carrier(run, path)
        _store(folder, made)
    outcome = _publish(path, new, timeout)
    return replace(
        done, version=outcome.version, adopted=outcome.adopted, silent=outcome.silent, seconds=outcome.seconds
    )


def live_topology(path: Path, timeout: float = 5.0) -> Topology:
    """Return the graph of those present in the live run in ``path``, by its rule and their member table.

    Raises:
        UsageError: no run folder.
        NobodyAnswers: the run is over.
    """
    folder = RunFolder(path)
    members, spec = _from_workers(folder, folder.read_run(), timeout)
    ids = list(members.values())
    graph = _stored(folder, spec.graph) if spec.kind == "static" else None
    made = to_topology(_describe(spec), ids, edges(ids, spec, graph))
    return Topology(made.kind, made.rounds, tuple(members))


def _look_at(folder: RunFolder, run: Mapping[str, Any], timeout: float) -> tuple[Members, TopologySpec]:
    """Return members and graph of a run that may be over."""
    try:
        return _from_workers(folder, run, timeout)
    except UsageError:
        return _from_folder(folder, run)


def _from_folder(folder: RunFolder, run: Mapping[str, Any]) -> tuple[Members, TopologySpec]:
    """Return the members that were launched and the graph that they started with."""
    try:
        settings: dict[str, Any] = run.get("settings") or {}
        names = [str(name) for name in run["workers"]]
        spec = TopologySpec(kind=settings.get("topology", "hash-rings"), degree=int(settings.get("degree", 4)))
        return {name: derive_node_id(str(run["run"]), name) for name in names}, spec
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{folder.run_file} is damaged: {error}") from None


def _from_workers(folder: RunFolder, run: Mapping[str, Any], timeout: float) -> tuple[Members, TopologySpec]:
    """Return who takes part now and the graph in force, in the order of the roster, joiners last."""
    from dagrad_bus.bus.visitor import read_run

    live = read_run(folder.path, timeout)
    place = {str(name): i for i, name in enumerate(run.get("workers") or ())}
    present = sorted(live.present, key=lambda record: (place.get(record.name, len(place)), record.name))
    return {record.name: record.node for record in present}, live.spec


def _publish(path: Path, spec: TopologySpec, timeout: float) -> Rewired:
    """Give the spec to the live run; the only place that speaks to it."""
    from dagrad_bus.bus.visitor import publish_spec

    return publish_spec(path, spec, timeout)


def _plan(
    spec: TopologySpec, members: Members, wanted: Mapping[str, Any]
) -> tuple[TopologySpec, StaticGraph | None, str]:
    """Return the new spec, the graph that it names, if any, and what to call it."""
    kind = str(wanted.get("kind") or spec.kind)
    numbers = {name: wanted[name] for name in ("epoch", "degree", "seed") if wanted.get(name) is not None}
    ids = list(members.values())
    if wanted.get("graph") is not None:
        if wanted.get("kind") is not None or numbers:
            raise UsageError("--graph names the graph in full: leave --kind, --epoch, --degree and --seed out")
        made = _from_file(Path(wanted["graph"]), members)
        return replace(spec, kind="static", graph=made.digest), made, f"the file {Path(wanted['graph']).name}"
    if kind in LIVE_KINDS:
        new = replace(spec, kind=cast(GraphKind, kind), graph=b"", **numbers)
        return new, None, _describe(new)
    if kind == "static":
        raise UsageError("the run has a written graph, which has no epoch, degree or seed: give --kind or --graph")
    if "epoch" in numbers:
        raise UsageError(f"{kind} is drawn by its seed and has no epoch: give --seed")
    if kind not in KINDS:
        raise UsageError(f"kind is {kind!r}: needs one of {', '.join(KINDS)}")
    degree, seed = int(numbers.get("degree", spec.degree)), int(numbers.get("seed", spec.seed))
    made = to_static(generate(kind, len(ids), degree=degree, seed=seed), ids)
    degree_text = f", degree {degree}" if KINDS[kind].degree else ""
    seed_text = f", seed {seed}" if KINDS[kind].random else ""
    return replace(spec, kind="static", graph=made.digest), made, f"{kind}{degree_text}{seed_text}"


def _from_file(path: Path, members: Members) -> StaticGraph:
    """Return a file's graph over the members: by names where they are the members' own, else in their order."""
    found = read(path)
    if found.names and set(found.names) == members.keys():
        return to_static(found, [members[name] for name in found.names])
    if found.names and (common := set(found.names) & members.keys()):
        strangers = sorted(set(found.names) ^ members.keys())
        raise UsageError(
            f"{path} names {len(common)} of the {len(members)} workers; {strangers[0]!r} is only in one of both"
        )
    return to_static(found, list(members.values()))


def _describe(spec: TopologySpec) -> str:
    if spec.kind == "static":
        return f"static {spec.graph.hex()}"
    if spec.kind != "hash-rings":
        return spec.kind + (f", epoch {spec.epoch}" if spec.kind == "ring" and spec.epoch else "")
    numbers = [f"degree {spec.degree}", *(f"{n} {v}" for n, v in (("seed", spec.seed), ("epoch", spec.epoch)) if v)]
    return ", ".join(["hash-rings", *numbers])


def _side(text: str, ids: Sequence[NodeId], graph: frozenset[Edge]) -> Side:
    shown = to_topology(text, ids, graph)
    speed = spectrum(shown)
    sends = shown.rounds[0].sends()
    least, most = int(sends.min()), int(sends.max())
    degrees = str(least) if least == most else f"{least}-{most}"
    return Side(text, len(graph), degrees, speed.gap, speed.rounds)


def _graph_file(folder: RunFolder, digest: bytes) -> Path:
    return folder.path / "graphs" / f"{digest.hex()}.json"


def _stored(folder: RunFolder, digest: bytes) -> StaticGraph:
    """Return the written graph that a run has now."""
    path = _graph_file(folder, digest)
    try:
        with path.open("rb") as file:
            graph = parse(file.read(MAX_DOCUMENT + 1))
    except OSError as error:
        raise UsageError(f"cannot read the run's graph {path}: {error.strerror}") from None
    if graph.digest != digest:
        raise UsageError(f"{path} is not the graph that its name says")
    return graph


def _need_carrier(run: Mapping[str, Any], path: Path) -> None:
    """Refuse a written graph that workers on other hosts would not get: its document travels with a launcher."""
    from dagrad_bus.tools.attach import living_launcher

    if run.get("hosts") and living_launcher(run) is None:
        where = f"{run.get('host') or 'the launching host'}"
        raise UsageError(
            f"a written graph reaches other hosts by the launcher, and none is on this host: dagrad attach {path} "
            f"on {where} meanwhile, or --kind {', '.join(LIVE_KINDS)}"
        )


def _store(folder: RunFolder, graph: StaticGraph) -> None:
    """Write a graph where workers look for it, whole or not at all."""
    path = _graph_file(folder, graph.digest)
    try:
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_bytes(graph.document())
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
