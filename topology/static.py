"""A graph that is written down: members and edges, with a digest that names it in a :class:`TopologySpec`.

The document is JSON. Its canonical form, which the digest is made of, is one line without blanks::

    {"edges":[[0,1],[0,2],...],"nodes":["<32 hex digits>",...],"schema":"dagrad.graph/1"}

Nodes are sorted; an edge names two places in that list, the smaller first; edges are sorted. A graph is simple and
connected: gossip never crosses from one part to another. What becomes of it when members die or join:
:mod:`dagrad_bus.topology.repair`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, cast

from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId
from dagrad_bus.topology.repair import Edge, parts, repair, sorted_edge

SCHEMA = "dagrad.graph/1"
DIGEST_BYTES = 8
NODE_BYTES = 16
MAX_NODES = 16_384
MAX_EDGES = 262_144
MAX_DOCUMENT = 8 << 20
"""Bytes of a document; nothing longer is parsed."""


@dataclass(frozen=True, slots=True)
class StaticGraph:
    """A simple, connected, undirected graph of members. Equal if the digests are.

    Raises:
        UsageError: no nodes, too many, an id that is not 16 bytes, an edge from a node to itself or to none of the
            nodes, or a graph in several parts; the message says which.
    """

    nodes: tuple[NodeId, ...] = field(compare=False)
    """Sorted and distinct, whatever was given."""
    edges: frozenset[Edge] = field(compare=False)
    """The smaller id of each first, whatever was given."""
    digest: bytes = field(init=False)
    """BLAKE2b-64 of :meth:`document`."""

    def __post_init__(self) -> None:
        """Bring into canonical form and check."""
        object.__setattr__(self, "nodes", tuple(sorted(set(self.nodes))))
        object.__setattr__(self, "edges", frozenset(sorted_edge(a, b) for a, b in self.edges))
        self._check()
        hashed = blake2b(self.document(), digest_size=DIGEST_BYTES, person=b"dagrad-graph-1")
        object.__setattr__(self, "digest", hashed.digest())

    def _check(self) -> None:
        if not 1 <= len(self.nodes) <= MAX_NODES:
            raise UsageError(f"the graph has {len(self.nodes)} nodes: needs 1 to {MAX_NODES}")
        if len(self.edges) > MAX_EDGES:
            raise UsageError(f"the graph has {len(self.edges)} edges: at most {MAX_EDGES} are allowed")
        known = set(self.nodes)
        for node in known:
            if len(node) != NODE_BYTES:
                raise UsageError(f"node {node.hex() or 'of no name'} has {len(node)} bytes: needs {NODE_BYTES}")
        for a, b in self.edges:
            if a == b:
                raise UsageError(f"an edge joins node {a.hex()} to itself: the graph must be simple")
            if a not in known or b not in known:
                raise UsageError(f"an edge names {(b if a in known else a).hex()}, which is none of the nodes")
        if (count := len(parts(self.nodes, self.edges))) > 1:
            raise UsageError(f"the graph falls into {count} parts: gossip would never cross; it must be connected")

    def document(self) -> bytes:
        """Return the canonical document; :func:`parse` reads it."""
        place = {node: i for i, node in enumerate(self.nodes)}
        edges = sorted([place[a], place[b]] for a, b in self.edges)
        whole = {"edges": edges, "nodes": [node.hex() for node in self.nodes], "schema": SCHEMA}
        return json.dumps(whole, separators=(",", ":")).encode()

    def for_view(self, view: Iterable[NodeId]) -> frozenset[Edge]:
        """Return the edges among the members of ``view``: this graph, repaired around the missing and the new.

        Depends on the set of members alone, not on the order in which they went or came. Connected.
        """
        return repair(self.nodes, self.edges, frozenset(view), salt=self.digest)


def parse(document: bytes) -> StaticGraph:
    """Read a document; blanks and order of its JSON do not matter.

    Raises:
        UsageError: too long, no JSON, another schema, or a graph that :class:`StaticGraph` refuses.
    """
    if len(document) > MAX_DOCUMENT:
        raise UsageError(f"the graph document has {len(document)} bytes: at most {MAX_DOCUMENT} are read")
    try:
        whole: object = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the graph document is no JSON: {str(error)[:80]}") from None
    if not isinstance(whole, dict):
        raise UsageError("the graph document is no JSON object")
    given = cast(dict[str, Any], whole)
    if given.get("schema") != SCHEMA:
        raise UsageError(f"the graph document is of another kind: needs schema {SCHEMA!r}")
    nodes = [_parse_node(text) for text in _list_of(given, "nodes", MAX_NODES)]
    if len(set(nodes)) != len(nodes):
        raise UsageError("the graph document names a node twice")
    return StaticGraph(
        tuple(nodes), frozenset(_parse_edge(pair, nodes) for pair in _list_of(given, "edges", MAX_EDGES))
    )


def _list_of(given: dict[str, Any], key: str, most: int) -> list[object]:
    found: object = given.get(key)
    if not isinstance(found, list):
        raise UsageError(f"the graph document has no list {key!r}")
    items = cast(list[object], found)
    if len(items) > most:
        raise UsageError(f"the graph document has {len(items)} {key}: at most {most} are allowed")
    return items


def _parse_node(text: object) -> NodeId:
    try:
        node = bytes.fromhex(text) if isinstance(text, str) and len(text) == 2 * NODE_BYTES else b""
    except ValueError:
        node = b""
    if len(node) != NODE_BYTES:
        raise UsageError(f"the graph document names node {str(text)[:40]!r}: needs {2 * NODE_BYTES} hexadecimal digits")
    return NodeId(node)


def _parse_edge(pair: object, nodes: list[NodeId]) -> Edge:
    text = str(pair)[:40]
    ends = cast(list[object], pair) if isinstance(pair, list) else []
    places = [end for end in ends if type(end) is int and 0 <= end < len(nodes)]  # True is no place
    if len(ends) != 2 or len(places) != 2:
        raise UsageError(f"the graph document has edge {text}: needs two places below {len(nodes)}")
    return sorted_edge(nodes[places[0]], nodes[places[1]])
