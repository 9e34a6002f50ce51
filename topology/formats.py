"""Read and write topologies; the file's suffix says how.

========== ========== ===================================================================================
suffix     sequences  holds
========== ========== ===================================================================================
.json      yes        node-link JSON as networkx writes it, edges with ``weight`` and, in sequences, ``round``
.npz       yes        arrays, nothing pickled
.graphml   no         GraphML, by networkx
.gexf      no         GEXF 1.2, by networkx
.dot .gv   no         Graphviz; reading takes node and edge statements, no subgraphs
.txt .edges no        an edge a line: two names and perhaps a weight; # begins a comment
========== ========== ===================================================================================

Names, direction and weights survive in all of them, the kind in .json and .npz. Workers keep their order, except that
.txt names them by their edges.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile, is_zipfile

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.errors import UsageError
from dagrad_bus.topology.dot import read_dot, write_dot
from dagrad_bus.topology.graph import MAX_SIZE, Round, Topology

MAX_FILE = 64 << 20
"""Bytes of a file that is read."""
MAX_LINKS = 1 << 22
SEQUENCES = (".json", ".npz")
"""Suffixes that hold several rounds."""
Link = tuple[str, str, float | None]


def write(topology: Topology, path: Path) -> None:
    """Write a topology.

    Raises:
        UsageError: an unknown suffix, a sequence where the format holds one graph, or the file cannot be written.
    """
    writer, _ = _format(path)
    if len(topology.rounds) > 1 and path.suffix not in SEQUENCES:
        raise UsageError(
            f"{topology.kind} is a sequence of {len(topology.rounds)} graphs, and {path.suffix} holds one: "
            f"write {' or '.join(SEQUENCES)}, or choose one round"
        )
    try:
        writer(topology, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def read(path: Path) -> Topology:
    """Read a topology.

    Raises:
        UsageError: an unknown suffix, no such file, over 64 MiB, or not what its suffix says; one line that names it.
    """
    _, reader = _format(path)
    try:
        if (size := path.stat().st_size) > MAX_FILE:
            raise UsageError(f"{path} has {size} bytes: at most {MAX_FILE} are read")
        return reader(path)
    except UsageError as error:
        raise UsageError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, RecursionError, BadZipFile, EOFError) as error:
        raise UsageError(f"{path} is no {path.suffix} file: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def from_links(
    kind: str, names: Sequence[str], rounds: Sequence[Sequence[Link]], *, directed: bool, periodic: bool = True
) -> Topology:
    """Make a topology of named links; names that are the numbers 0 .. size - 1 are not kept.

    Raises:
        UsageError: a name nobody has, weights for some edges only, or what :class:`Round` refuses.
    """
    if not 1 <= len(names) <= MAX_SIZE:
        raise UsageError(f"the graph has {len(names)} workers: needs 1 to {MAX_SIZE}")
    place = {name: i for i, name in enumerate(names)}
    made: list[Round] = []
    for links in rounds:
        if stranger := next((end for a, b, _ in links for end in (a, b) if end not in place), None):
            raise UsageError(f"an edge names {stranger[:40]!r}, which is no worker")
        pairs = np.array([(place[a], place[b]) for a, b, _ in links], np.int64).reshape(-1, 2)
        weights = [weight for _, _, weight in links if weight is not None]
        if weights and len(weights) != len(links):
            raise UsageError(f"{len(weights)} of {len(links)} edges have a weight: needs all or none")
        made.append(Round(len(names), pairs, directed, np.array(weights) if weights else None))
    numbered = tuple(map(str, range(len(names)))) == tuple(names)
    return Topology(kind, tuple(made), () if numbered else tuple(names), periodic=periodic)


def links_of(topology: Topology, one: Round) -> list[Link]:
    """Return the links of a round by name."""
    labels = topology.labels
    weights: list[float | None] = [None] * len(one.edges) if one.weights is None else one.weights.tolist()
    ends: list[list[int]] = one.edges.tolist()
    return [(labels[a], labels[b], weight) for (a, b), weight in zip(ends, weights, strict=True)]


def _write_json(topology: Topology, path: Path) -> None:
    sequence = len(topology.rounds) > 1
    edges: list[dict[str, object]] = []
    for number, one in enumerate(topology.rounds):
        for a, b, weight in links_of(topology, one):
            edge: dict[str, object] = {"source": a, "target": b}
            edges.append(
                edge | ({} if weight is None else {"weight": weight}) | ({"round": number} if sequence else {})
            )
    whole = {
        "directed": topology.directed,
        "multigraph": sequence,
        "graph": {"kind": topology.kind, "rounds": len(topology.rounds), "periodic": topology.periodic},
        "nodes": [{"id": label} for label in topology.labels],
        "edges": edges,
    }
    path.write_text(json.dumps(whole, indent=1) + "\n")


def _read_json(path: Path) -> Topology:
    whole: Any = json.loads(path.read_bytes())
    if not isinstance(whole, dict):
        raise UsageError("no JSON object")
    given = cast(dict[str, Any], whole)
    facts: dict[str, Any] = given.get("graph") or {}
    count = int(facts.get("rounds", 1))
    if not 1 <= count <= MAX_SIZE:
        raise UsageError(f"{count} rounds: needs 1 to {MAX_SIZE}")
    names = [str(node["id"]) for node in given["nodes"]]
    rounds: list[list[Link]] = [[] for _ in range(count)]
    for edge in given["edges"] if "edges" in given else given["links"]:  # "links" before networkx 3.4
        number = int(edge.get("round", 0))
        if not 0 <= number < count:
            raise UsageError(f"an edge is of round {number}, of {count}")
        weight = edge.get("weight")
        rounds[number].append((str(edge["source"]), str(edge["target"]), None if weight is None else float(weight)))
    directed, periodic = bool(given.get("directed", False)), bool(facts.get("periodic", True))
    return from_links(str(facts.get("kind", "file")), names, rounds, directed=directed, periodic=periodic)


def _write_npz(topology: Topology, path: Path) -> None:
    rounds = topology.rounds
    weights: list[NDArray[np.float64]] = [
        np.full(len(one.edges), np.nan) if one.weights is None else one.weights for one in rounds
    ]
    np.savez_compressed(
        path,
        kind=np.array(topology.kind),
        size=np.array(topology.size),
        directed=np.array([one.directed for one in rounds]),
        periodic=np.array(topology.periodic),
        names=np.array(topology.names, dtype=np.str_),
        counts=np.array([len(one.edges) for one in rounds]),
        edges=np.concatenate([one.edges for one in rounds]),
        weights=np.concatenate(weights),
    )


def _read_npz(path: Path) -> Topology:
    if not is_zipfile(path):
        raise UsageError("not a file of numpy's savez")
    with np.load(path, allow_pickle=False) as file:
        size, counts = int(file["size"]), file["counts"].astype(np.int64)
        edges, weights, directed = file["edges"], file["weights"], file["directed"]
        names, kind, periodic = tuple(map(str, file["names"])), str(file["kind"]), bool(file["periodic"])
    if not 1 <= size <= MAX_SIZE or (counts < 0).any() or not counts.sum() == len(edges) == len(weights) <= MAX_LINKS:
        raise UsageError("its arrays do not fit together")
    rounds: list[Round] = []
    ends: list[int] = np.cumsum(counts).tolist()
    for end, count, way in zip(ends, counts.tolist(), directed.tolist(), strict=True):
        own = weights[end - count : end]
        plain = not len(own) or bool(np.isnan(own).any())
        rounds.append(Round(size, edges[end - count : end], bool(way), None if plain else own))
    return Topology(kind, tuple(rounds), names, periodic=periodic)


def networkx() -> Any:
    """Return the module networkx, which has no types.

    Raises:
        UsageError: it is not installed; the message says how to get it.
    """
    try:
        module = importlib.import_module("networkx")
    except ImportError:
        raise UsageError("this needs networkx: pip install 'dagrad-bus[topology]'") from None
    return module


def _to_networkx(topology: Topology) -> Any:
    nx = networkx()
    graph: Any = nx.DiGraph() if topology.directed else nx.Graph()
    graph.add_nodes_from(topology.labels)
    for a, b, weight in links_of(topology, topology.rounds[0]):
        graph.add_edge(a, b, **({} if weight is None else {"weight": weight}))
    return graph


def _from_networkx(graph: Any) -> Topology:
    if graph.is_multigraph():
        raise UsageError("edges are named twice: the graph must be simple")
    links = [(str(a), str(b), cast(float | None, data.get("weight"))) for a, b, data in graph.edges(data=True)]
    return from_links("file", [str(node) for node in graph.nodes], [links], directed=bool(graph.is_directed()))


def _write_graphml(topology: Topology, path: Path) -> None:
    networkx().write_graphml_xml(_to_networkx(topology), path)


def _read_graphml(path: Path) -> Topology:
    return _read_xml(networkx().read_graphml, path)


def _write_gexf(topology: Topology, path: Path) -> None:
    networkx().write_gexf(_to_networkx(topology), path, version="1.2draft")


def _read_gexf(path: Path) -> Topology:
    return _read_xml(networkx().read_gexf, path)


def _read_xml(reader: Callable[[Path], Any], path: Path) -> Topology:
    from xml.etree.ElementTree import ParseError

    nx_error: type[Exception] = networkx().NetworkXError
    try:
        return _from_networkx(reader(path))
    except (ParseError, AttributeError, StopIteration, nx_error) as error:
        raise ValueError(_one_line(error)) from None


def _write_dot(topology: Topology, path: Path) -> None:
    links = links_of(topology, topology.rounds[0])
    path.write_text(write_dot(topology.kind, topology.labels, links, directed=topology.directed))


def _read_dot(path: Path) -> Topology:
    names, links, directed = read_dot(path.read_text())
    return from_links("file", names, [links], directed=directed)


def edge_list(topology: Topology) -> str:
    """Return the text of .txt: an edge a line; of a sequence, its rounds one after the other.

    Raises:
        UsageError: a name with a blank, which no edge list can hold.
    """
    if spaced := next((label for label in topology.labels if not label or set(label) & set(" \t\n#")), None):
        raise UsageError(f"the name {spaced!r} has a blank or #: an edge list cannot hold it")
    lines = [f"# {'directed' if topology.directed else 'undirected'}"]
    for number, one in enumerate(topology.rounds, 1):
        lines += [f"# round {number} of {len(topology.rounds)}"] if len(topology.rounds) > 1 else []
        for a, b, weight in links_of(topology, one):
            lines.append(f"{a} {b}" if weight is None else f"{a} {b} {weight!r}")
    return "\n".join(lines) + "\n"


def _write_edges(topology: Topology, path: Path) -> None:
    path.write_text(edge_list(topology))


def _read_edges(path: Path) -> Topology:
    links: list[Link] = []
    text = path.read_text()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if len(words) in (2, 3):
            links.append((words[0], words[1], float(words[2]) if len(words) == 3 else None))
        elif words:
            raise UsageError(f"line {number}: needs two names and perhaps a weight, not {line.strip()[:40]!r}")
    names = list(dict.fromkeys(end for a, b, _ in links for end in (a, b)))
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    return from_links("file", names, [links], directed=text.startswith("# directed"))


FORMATS: dict[str, tuple[Callable[[Topology, Path], None], Callable[[Path], Topology]]] = {
    ".json": (_write_json, _read_json),
    ".npz": (_write_npz, _read_npz),
    ".graphml": (_write_graphml, _read_graphml),
    ".gexf": (_write_gexf, _read_gexf),
    ".dot": (_write_dot, _read_dot),
    ".gv": (_write_dot, _read_dot),
    ".txt": (_write_edges, _read_edges),
    ".edges": (_write_edges, _read_edges),
}
"""Suffix: writer, reader."""


def _format(path: Path) -> tuple[Callable[[Topology, Path], None], Callable[[Path], Topology]]:
    if path.suffix not in FORMATS:
        raise UsageError(f"{path}: the suffix says the format, and must be one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix]
