"""Ids are functions of names and epochs, equal on both ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrad_bus.ids import NO_EDGE, NodeId, derive_edge_id, derive_node_id

nodes = st.binary(min_size=16, max_size=16).map(NodeId)
epochs = st.integers(0, (1 << 64) - 1)


def test_a_node_id_is_sixteen_bytes_and_depends_on_run_and_name() -> None:
    ids = {derive_node_id(run, name) for run in ("r", "s") for name in ("a", "b")}
    assert {len(node) for node in ids} == {16}
    assert len(ids) == 4
    assert derive_node_id("r", "a") in ids


def test_run_and_name_cannot_be_shifted_into_each_other() -> None:
    assert derive_node_id("ab", "c") != derive_node_id("a", "bc")


@given(nodes, epochs, nodes, epochs)
def test_both_ends_derive_the_same_edge(a: NodeId, e: int, b: NodeId, f: int) -> None:
    if a == b:
        return
    edge = derive_edge_id(a, e, b, f)
    assert edge == derive_edge_id(b, f, a, e)
    assert NO_EDGE < edge < 1 << 64
    assert edge != derive_edge_id(a, e ^ 1, b, f)
    assert edge != derive_edge_id(a, e, b, f ^ 1)


def test_nobody_has_an_edge_to_itself() -> None:
    with pytest.raises(AssertionError):
        derive_edge_id(NodeId(b"a" * 16), 1, NodeId(b"a" * 16), 2)
