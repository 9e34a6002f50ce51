from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.topology.live import TopologySpec, edges
from dagrad_bus.topology.static import MAX_DOCUMENT, SCHEMA, StaticGraph, parse

A, B, C = (NodeId(bytes([i]) * 16) for i in (1, 2, 3))


def members(count: int) -> list[NodeId]:
    return [derive_node_id("run", f"host.{i}") for i in range(count)]


def some_graph(count: int) -> StaticGraph:
    return StaticGraph(tuple(members(count)), edges(members(count), TopologySpec()))


def test_the_canonical_document_and_its_digest_are_fixed() -> None:
    graph = StaticGraph((C, A, B), frozenset({(C, A), (A, B)}))
    assert graph.nodes == (A, B, C)
    assert graph.edges == {(A, B), (A, C)}
    names = ",".join(f'"{node.hex()}"' for node in (A, B, C))
    assert graph.document().decode() == f'{{"edges":[[0,1],[0,2]],"nodes":[{names}],"schema":"dagrad.graph/1"}}'
    assert graph.digest.hex() == "6889de10a2af8fc5"


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_a_document_reads_back(count: int) -> None:
    graph = some_graph(count)
    again = parse(graph.document())
    assert again == graph
    assert (again.nodes, again.edges, again.digest) == (graph.nodes, graph.edges, graph.digest)


def test_blanks_and_order_of_the_json_do_not_matter() -> None:
    graph = some_graph(7)
    whole = json.loads(graph.document())
    turned = list(reversed(whole["nodes"]))
    last = len(turned) - 1
    other = {"schema": SCHEMA, "nodes": turned, "edges": [[last - a, last - b] for a, b in reversed(whole["edges"])]}
    assert parse(json.dumps(other, indent=3).encode()) == graph


def document(**changes: Any) -> bytes:
    return json.dumps({"schema": SCHEMA, "nodes": [A.hex(), B.hex()], "edges": [[0, 1]]} | changes).encode()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff\xfe{}", "no JSON"),
        (b"[]", "no JSON object"),
        (b" " * (MAX_DOCUMENT + 1), "bytes: at most"),
        (document(schema="dagrad.graph/2"), "another kind"),
        (document(nodes=None), "no list 'nodes'"),
        (document(nodes=[], edges=[]), "0 nodes"),
        (document(nodes=["00"] * 16_385), "16385 nodes: at most 16384"),
        (document(nodes=[A.hex(), 7]), "names node '7': needs 32 hexadecimal digits"),
        (document(nodes=[A.hex(), "0" * 31 + "x"]), "hexadecimal"),
        (document(nodes=[A.hex(), "0 " * 16]), "hexadecimal"),
        (document(nodes=[A.hex(), A.hex()]), "a node twice"),
        (document(edges={}), "no list 'edges'"),
        (document(edges=[[0, 1]] * 262_145), "262145 edges: at most"),
        (document(edges=[[0, 2]]), "needs two places below 2"),
        (document(edges=[[0, -1]]), "needs two places"),
        (document(edges=[[0, True]]), "needs two places"),
        (document(edges=[[0, 1, 1]]), "needs two places"),
        (document(edges=[[0, 1.0]]), "needs two places"),
        (document(edges=["01"]), "needs two places"),
        (document(edges=[[1, 1]]), "to itself"),
        (document(edges=[]), "falls into 2 parts"),
    ],
)
def test_a_bad_document_is_one_clear_line(given: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        parse(given)
    assert "\n" not in str(refused.value)


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=50)
def test_no_bytes_raise_anything_else(garbage: bytes, place: int, byte: int) -> None:
    damaged = bytearray(some_graph(8).document())
    damaged[place % len(damaged)] = byte
    for given_bytes in (garbage, bytes(damaged)):
        with suppress(UsageError):
            assert parse(given_bytes).nodes


@pytest.mark.parametrize(
    ("nodes", "pairs", "message"),
    [
        ((), (), "0 nodes"),
        ((NodeId(b"short"),), (), "5 bytes"),
        ((A, B), ((A, A),), "to itself"),
        ((A, B), ((A, C),), "none of the nodes"),
        ((A, B, C), ((A, B),), "2 parts"),
    ],
)
def test_a_graph_that_is_none_is_refused(nodes: Any, pairs: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StaticGraph(nodes, frozenset(pairs))


def test_for_its_own_members_a_graph_is_as_written() -> None:
    graph = some_graph(24)
    assert graph.for_view(graph.nodes) == graph.edges


def test_without_some_members_the_rest_stays_connected() -> None:
    graph = some_graph(24)
    rest = graph.nodes[5:]
    StaticGraph(rest, graph.for_view(rest))  # which refuses a graph in parts
